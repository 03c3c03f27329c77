"""The stages of bulk enrollment: functions over batches of plain, picklable records, with no state of their own.

A recording that cannot be used leaves a stage as a `RowOutcome` and takes no further part.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from voicevault.audio import AudioLimits, SpeechDetector
from voicevault.embedding import EmbeddingPipeline, PreparedRecording, prepare
from voicevault.errors import DuplicateRecordingError, RequestError, VoicevaultError
from voicevault.text import printable
from voicevault.types import (
    SAMPLE_RATE,
    DuplicatePolicy,
    Embedding,
    Enrollment,
    ManifestRow,
    RowOutcome,
    Segment,
)

if TYPE_CHECKING:
    from voicevault.store import Store

T = TypeVar("T")

ENROLLED, SKIPPED, REJECTED = "enrolled", "skipped", "rejected"


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A recording that is decoded, judged and found fit; it holds the speech alone."""

    row: ManifestRow
    recording: PreparedRecording


@dataclass(frozen=True, slots=True, eq=False)
class Embedded:
    """A recording that can be committed."""

    row: ManifestRow
    embedding: Embedding


def fingerprint(path: Path, limits: AudioLimits) -> str | None:
    """Hex SHA-256 of a file; None where it is none or too large, for which decoding has the right words."""
    try:
        if not path.is_file() or path.stat().st_size > limits.max_bytes:
            return None
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, ValueError):
        return None


def prepare_batch(
    rows: Sequence[ManifestRow], detector: SpeechDetector, limits: AudioLimits, min_speech: float
) -> list[Prepared | RowOutcome]:
    """Decode recordings and find the speech in them; each needs `min_speech` seconds of it."""
    return [_prepare(row, detector, limits, min_speech) for row in rows]


def _prepare(
    row: ManifestRow, detector: SpeechDetector, limits: AudioLimits, min_speech: float
) -> Prepared | RowOutcome:
    try:
        return fit(row, prepare(row.path, detector, limits), min_speech)
    except VoicevaultError as error:
        return rejected(row, error)
    except (MemoryError, RuntimeError, ValueError, OSError) as error:
        # One recording that trips a decoder in a way nobody foresaw must not stop the others.
        return rejected(row, VoicevaultError(f"Decoding failed: {type(error).__name__}: {error}"))


def fit(row: ManifestRow, whole: PreparedRecording, min_speech: float) -> Prepared:
    """What is passed on of a recording. Raises NotEnoughSpeechError below `min_speech` seconds of speech."""
    whole.require(min_speech)
    speech = whole.speech
    everything = (Segment(0.0, len(speech) / SAMPLE_RATE),)
    return Prepared(row, replace(whole, samples=speech, segments=everything))


def embed_batch(
    batch: Sequence[Prepared], pipeline: EmbeddingPipeline, min_speech: float, keep_audio: bool = False
) -> list[Embedded | RowOutcome]:
    """Embed recordings in one batch; `keep_audio` as in `EmbeddingPipeline.embed`."""
    return _each_where_all_fails(
        batch,
        lambda some: [
            Embedded(item.row, embedding)
            for item, embedding in zip(
                some,
                pipeline.embed(
                    [item.recording for item in some], min_speech=min_speech, keep_audio=keep_audio
                ),
                strict=True,
            )
        ],
        lambda error: type(error) is VoicevaultError,  # the embedding of one of them is no number
    )


def commit_batch(
    batch: Sequence[Embedded],
    store: Store,
    collection: str,
    policy: DuplicatePolicy,
    speakers: Mapping[str, ManifestRow],
) -> list[RowOutcome]:
    """Enroll a batch in one transaction.

    Args:
        speakers: For each speaker the row whose name, tags and attributes are taken.

    Raises:
        StoreError, ModelMismatchError, CollectionNotFoundError: then nothing of the batch is enrolled.
    """
    from voicevault.store import NewEnrollment  # decoding processes import this module and need no SQL

    def new(item: Embedded) -> NewEnrollment:
        told = speakers[item.row.speaker]
        return NewEnrollment(
            item.row.speaker,
            item.embedding,
            printable(item.row.path.name, "?"),
            told.name,
            told.attributes or None,
            told.tags or None,
        )

    def add(some: Sequence[Embedded]) -> list[RowOutcome]:
        added = store.add_enrollments(collection, [new(item) for item in some], policy=policy)
        return [
            skipped(item.row) if enrollment is None else _enrolled(item, enrollment)
            for item, enrollment in zip(some, added, strict=True)
        ]

    return _each_where_all_fails(batch, add, lambda error: isinstance(error, RequestError))


def _each_where_all_fails(
    batch: Sequence[Any],
    work: Callable[[Sequence[Any]], list[T]],
    one_is_to_blame: Callable[[VoicevaultError], bool],
) -> list[T | RowOutcome]:
    """`work` on the batch; where one of it makes it fail, on each alone, and that one is rejected."""
    try:
        return list(work(batch))
    except VoicevaultError as error:
        if not one_is_to_blame(error):
            raise
        if len(batch) == 1:
            return [rejected(batch[0].row, error)]
    return [done for item in batch for done in _each_where_all_fails([item], work, one_is_to_blame)]


def rejected(row: ManifestRow, error: VoicevaultError) -> RowOutcome:
    return RowOutcome(
        str(row.path),
        row.speaker,
        REJECTED,
        error.code,
        error.message,
        speech_seconds=error.facts.get("found"),
    )


def skipped(row: ManifestRow) -> RowOutcome:
    return RowOutcome(
        str(row.path), row.speaker, SKIPPED, DuplicateRecordingError.code, "It is enrolled already."
    )


def _enrolled(item: Embedded, enrollment: Enrollment) -> RowOutcome:
    return RowOutcome(
        str(item.row.path),
        item.row.speaker,
        ENROLLED,
        enrollment_id=enrollment.id,
        speech_seconds=enrollment.quality.speech_seconds,
    )
