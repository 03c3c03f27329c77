"""Every failure that voicevault names, in one tree.

::

    VoicevaultError
    ├── RequestError               what was asked cannot be done as asked
    │   ├── SettingsError          a setting or an environment variable is wrong
    │   ├── ManifestError          a manifest or corpus folder cannot be read
    │   ├── NoThresholdError       neither the caller nor the model's policy gives a threshold
    │   └── HostNotAllowedError    Host or Origin of an HTTP request is not this server
    ├── AudioError                 the recording cannot be used
    │   ├── AudioNotFoundError     no such file
    │   ├── UnsupportedAudioError  not a format that is opened here
    │   ├── CorruptAudioError      broken, truncated, or its decoder crashed
    │   ├── EmptyAudioError        no samples at all
    │   ├── InvalidSamplesError    NaN or infinite samples
    │   ├── AudioTooLargeError     more bytes than the limit
    │   ├── AudioTooLongError      more seconds than the limit
    │   ├── AudioOutOfRangeError   sample rate, channel count or channel choice out of range
    │   ├── SilentAudioError       no sound above the noise of the converter
    │   └── NotEnoughSpeechError   less net speech than an enrolment or a probe needs
    ├── NotFoundError              what was named is not there
    │   ├── CollectionNotFoundError
    │   ├── SpeakerNotFoundError
    │   ├── EnrollmentNotFoundError
    │   ├── ModelNotFoundError
    │   └── HubUnavailableError    the model hub cannot be reached, or does not give the files
    ├── ConflictError              it collides with what is there
    │   ├── CollectionExistsError
    │   ├── SpeakerExistsError
    │   ├── ModelExistsError
    │   ├── DuplicateRecordingError  this very recording is enrolled already
    │   ├── AudioNotKeptError      what would have to be embedded again was not kept
    │   ├── NotEnrolledError       the speaker exists but has no voiceprint
    │   └── ModelMismatchError     embeddings of two models would meet
    ├── CheckpointError            a model folder is incomplete, damaged or does not fit
    ├── StoreError                 the database did not do its part
    │   ├── DatabaseUnavailableError
    │   ├── DatabaseBusyError      a lock was not granted in time; try again
    │   └── SchemaOutdatedError    the schema is not the one of this release
    ├── IndexUnavailableError      the index cannot answer at the generation that is needed
    └── OverloadedError            the bounded queue is full; try again later

The code is the contract: it is the same in Python (``error.code``), over HTTP (``code`` in an RFC 9457 problem) and in the
command line's JSON; `status` is the HTTP status and `exit_code` the exit status of the command line.
"""

from __future__ import annotations

from typing import Any, ClassVar


class VoicevaultError(Exception):
    """Base of the tree.

    Args:
        message: What happened, in one sentence, and what to do about it.
        **facts: JSON-serialisable facts to act on (seconds found, the limit, the name that is missing...).
    """

    code: ClassVar[str] = "INTERNAL"
    status: ClassVar[int] = 500
    exit_code: ClassVar[int] = 1
    title: ClassVar[str] = "Something failed inside voicevault"

    def __init__(self, message: str, **facts: Any) -> None:
        super().__init__(message)
        self.message = message
        self.facts = facts

    def __reduce__(self) -> tuple[Any, ...]:
        # Errors cross process borders in bulk enrolment; the default would lose the facts.
        return (_rebuild, (type(self), self.message, self.facts))


def _rebuild(cls: type[VoicevaultError], message: str, facts: dict[str, Any]) -> VoicevaultError:
    return cls(message, **facts)


class RequestError(VoicevaultError):
    code = "INVALID_REQUEST"
    status = 400
    exit_code = 2
    title = "The request cannot be carried out as it stands"


class SettingsError(RequestError):
    code = "INVALID_SETTING"
    status = 500  # over HTTP it is the server's setting, found wrong when it was first needed
    title = "A setting is wrong"


class ManifestError(RequestError):
    code = "INVALID_MANIFEST"
    title = "The manifest cannot be used"


class NoThresholdError(RequestError):
    code = "NO_THRESHOLD"
    title = "There is no threshold to decide by"


class HostNotAllowedError(RequestError):
    code = "HOST_NOT_ALLOWED"
    status = 403
    title = "Host or Origin is not allowed"


class AudioError(VoicevaultError):
    code = "AUDIO_UNUSABLE"
    status = 422
    exit_code = 3
    title = "The recording cannot be used"


class AudioNotFoundError(AudioError):
    code = "AUDIO_NOT_FOUND"
    status = 404
    title = "There is no such recording"


class UnsupportedAudioError(AudioError):
    code = "AUDIO_UNSUPPORTED"
    status = 415
    title = "The format of the recording is not supported"


class CorruptAudioError(AudioError):
    code = "AUDIO_CORRUPT"
    title = "The recording is broken or truncated"


class EmptyAudioError(AudioError):
    code = "AUDIO_EMPTY"
    title = "The recording is empty"


class InvalidSamplesError(AudioError):
    code = "AUDIO_INVALID_SAMPLES"
    title = "The recording holds NaN or infinite samples"


class AudioTooLargeError(AudioError):
    code = "AUDIO_TOO_LARGE"
    status = 413
    title = "The recording has too many bytes"


class AudioTooLongError(AudioError):
    code = "AUDIO_TOO_LONG"
    status = 413
    title = "The recording is too long"


class AudioOutOfRangeError(AudioError):
    code = "AUDIO_OUT_OF_RANGE"
    title = "Sample rate or channels are out of range"


class SilentAudioError(AudioError):
    code = "AUDIO_SILENT"
    title = "The recording is silent"


class NotEnoughSpeechError(AudioError):
    code = "NOT_ENOUGH_SPEECH"
    title = "The recording holds too little speech"


class NotFoundError(VoicevaultError):
    code = "NOT_FOUND"
    status = 404
    exit_code = 4
    title = "Not found"


class CollectionNotFoundError(NotFoundError):
    code = "COLLECTION_NOT_FOUND"
    title = "There is no such collection"


class SpeakerNotFoundError(NotFoundError):
    code = "SPEAKER_NOT_FOUND"
    title = "There is no such speaker"


class EnrollmentNotFoundError(NotFoundError):
    code = "ENROLLMENT_NOT_FOUND"
    title = "There is no such enrolment"


class ModelNotFoundError(NotFoundError):
    code = "MODEL_NOT_FOUND"
    title = "There is no such model"


class HubUnavailableError(NotFoundError):
    code = "HUB_UNAVAILABLE"
    status = 503
    title = "The model hub does not give the model"


class ConflictError(VoicevaultError):
    code = "CONFLICT"
    status = 409
    exit_code = 5
    title = "It collides with what is there"


class CollectionExistsError(ConflictError):
    code = "COLLECTION_EXISTS"
    title = "The collection exists already"


class SpeakerExistsError(ConflictError):
    code = "SPEAKER_EXISTS"
    title = "The speaker exists already"


class ModelExistsError(ConflictError):
    code = "MODEL_EXISTS"
    title = "The model exists already"


class DuplicateRecordingError(ConflictError):
    code = "DUPLICATE_RECORDING"
    title = "This recording is enrolled already"


class AudioNotKeptError(ConflictError):
    code = "AUDIO_NOT_KEPT"
    title = "The speech of enrolments was not kept"


class NotEnrolledError(ConflictError):
    code = "NOT_ENROLLED"
    title = "The speaker has no enrolment"


class ModelMismatchError(ConflictError):
    code = "MODEL_MISMATCH"
    title = "The collection belongs to another model"


class CheckpointError(VoicevaultError):
    code = "INVALID_CHECKPOINT"
    status = 500
    exit_code = 6
    title = "The model folder cannot be loaded"


class StoreError(VoicevaultError):
    code = "STORE_FAILED"
    status = 503
    exit_code = 7
    title = "The database failed"


class DatabaseUnavailableError(StoreError):
    code = "DATABASE_UNAVAILABLE"
    title = "The database cannot be reached"


class DatabaseBusyError(StoreError):
    code = "DATABASE_BUSY"
    title = "The database is busy"


class SchemaOutdatedError(StoreError):
    code = "SCHEMA_OUTDATED"
    title = "The database has another schema"


class IndexUnavailableError(VoicevaultError):
    code = "INDEX_UNAVAILABLE"
    status = 503
    exit_code = 8
    title = "The index cannot answer"


class OverloadedError(VoicevaultError):
    code = "OVERLOADED"
    status = 429
    exit_code = 9
    title = "Too much work is waiting"
