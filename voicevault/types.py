"""The records and protocols that the parts share: frozen dataclasses, no behaviour beyond trivial properties.

Units: durations in seconds, audio mono float32 in [-1, 1] at 16 kHz, embeddings float32 unit vectors, scores cosines in [-1, 1].
Array shapes: ``n`` samples, ``d`` embedding dimensions, ``m`` probes, ``k`` candidates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

Float32Array = NDArray[np.float32]
Int64Array = NDArray[np.int64]

SAMPLE_RATE = 16_000
"""Hz; the only rate inside voicevault."""

MAX_TAGS = 100
"""Tags of one speaker, and of one question."""

AudioSource = str | Path | bytes | BinaryIO
"""A recording as a caller hands it in: a path, the bytes of a file, or an open binary file."""


# --- audio -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Waveform:
    """A decoded recording.

    Attributes:
        samples: float32 [n], mono, 16 kHz, in [-1, 1].
        source_sha256: Hex SHA-256 of the file as it came.
        audio_sha256: Hex SHA-256 of `samples` as 16-bit integers: equal for two files that hold the same audio losslessly.
        format: Container and codec as found, e.g. ``WAV/PCM_16``.
        source_rate: Sample rate of the file in Hz.
        source_channels: Channels of the file.
    """

    samples: Float32Array
    source_sha256: str
    audio_sha256: str
    format: str
    source_rate: int
    source_channels: int

    @property
    def seconds(self) -> float:
        return len(self.samples) / SAMPLE_RATE


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of speech, in seconds from the start of the recording."""

    start: float
    end: float

    @property
    def seconds(self) -> float:
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class Quality:
    """What a recording is like.

    Attributes:
        seconds: Length of the recording.
        speech_seconds: Net speech in it.
        level_dbfs: RMS level of the speech in dB relative to full scale.
        clipped: Share of samples at full scale, in [0, 1].
        snr_db: Speech to background ratio in dB, None where the recording has no background to measure.
    """

    seconds: float
    speech_seconds: float
    level_dbfs: float
    clipped: float
    snr_db: float | None


@dataclass(frozen=True, slots=True, eq=False)
class Embedding:
    """A recording as a model hears it: float32 [d] unit vector, with where it came from and how good it is."""

    vector: Float32Array
    model_id: str
    quality: Quality
    source_sha256: str
    audio_sha256: str
    timing: Mapping[str, float] = field(default_factory=dict)
    """Seconds spent per stage: decode, speech, embed."""
    audio: bytes | None = None
    """The speech that was embedded, as FLAC, where it is to be kept."""


# --- the gallery -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Approximation:
    """What a search in inverted lists finds of what the exact one does.

    Attributes:
        recall_at_1: Share of probes whose exact best was found, measured on the gallery when its lists were made with
            strangers and with weak probes: that of the kind that found less.
        recall_at_10: Share of the exact best 10 that was found.
        nlist: Lists that the gallery is dealt out to.
        nprobe: Lists that one search reads.
    """

    recall_at_1: float
    recall_at_10: float
    nlist: int
    nprobe: int


@dataclass(frozen=True, slots=True)
class Collection:
    """A gallery bound to one model. `generation` counts its committed writes; `keeps_audio` says whether the speech of
    enrollments is kept, for a change of the model; `approximate` how its searches in this process fall short of exact
    ones, None where they do not."""

    name: str
    uuid: str
    model_id: str
    dim: int
    generation: int
    speakers: int
    created: datetime
    keeps_audio: bool = False
    approximate: Approximation | None = None


@dataclass(frozen=True, slots=True)
class Speaker:
    """A person of a collection. `id` is the public id; `key` the internal int64 that the index uses."""

    id: str
    key: int
    name: str | None
    attributes: Mapping[str, Any]
    tags: tuple[str, ...]
    enrollments: int
    created: datetime
    updated: datetime


@dataclass(frozen=True, slots=True)
class Enrollment:
    """One accepted recording of a speaker."""

    id: str
    speaker_id: str
    model_id: str
    quality: Quality
    source_sha256: str
    audio_sha256: str
    source_name: str | None
    created: datetime


class Op(StrEnum):
    """What a change row says of one speaker's voiceprint."""

    UPSERT = "upsert"
    REMOVE = "remove"


@dataclass(frozen=True, slots=True, eq=False)
class Change:
    """One row of a collection's change log, in order of generation: key, op, and the new voiceprint where it is an upsert.

    A speaker that changed again later carries its newest vector in both rows: applying the rows in order ends in the same state.
    A row whose speaker is gone by now is read as REMOVE.
    """

    generation: int
    token: str
    key: int
    op: Op
    vector: Float32Array | None


@dataclass(frozen=True, slots=True)
class GalleryPosition:
    """Where a collection stands: which one it is, its generation and the random token of its newest change."""

    uuid: str
    model_id: str
    dim: int
    generation: int
    token: str


@dataclass(frozen=True, slots=True, eq=False)
class SearchResult:
    """`ids` int64 [m, k'] and `scores` float32 [m, k'] ordered by score descending, then id ascending; k' = min(k, allowed).
    `approximate` is None unless some of them may be missed by an approximate search."""

    ids: Int64Array
    scores: Float32Array
    generation: int
    approximate: Approximation | None = None


@dataclass(frozen=True, slots=True)
class IndexStats:
    tier: str
    vectors: int
    dim: int
    generation: int
    bytes: int


@dataclass(frozen=True, slots=True)
class IndexCapabilities:
    exact: bool
    filtered: bool
    persistent: bool


class VoiceIndex(Protocol):
    """One collection's searchable voiceprints. Nothing here that only a local array could answer.

    `apply` is idempotent and ordered by generation: changes at or below the generation already seen are ignored. Voiceprints
    of later ones than `generation`, up to `read_at`, may be among them: until the index has reached that it answers nothing.
    `search` raises IndexUnavailableError where the index has not reached `at_least`.
    """

    def apply(
        self, changes: Sequence[Change], generation: int, token: str, read_at: int | None = None
    ) -> None: ...

    def search(
        self, probes: Float32Array, k: int, allow: Int64Array | None = None, at_least: int = 0
    ) -> SearchResult: ...

    @property
    def generation(self) -> int: ...

    @property
    def token(self) -> str: ...

    def stats(self) -> IndexStats: ...

    def capabilities(self) -> IndexCapabilities: ...

    def close(self) -> None: ...


class Encoder(Protocol):
    """Waveforms to embeddings. Thread-safe."""

    @property
    def name(self) -> str: ...

    @property
    def model_id(self) -> str: ...

    @property
    def dim(self) -> int: ...

    def embed(self, waveforms: Sequence[Float32Array]) -> Float32Array:
        """float32 mono 16 kHz arrays of any lengths -> float32 [len(waveforms), d], rows of unit length, order kept."""
        ...

    def one_thread_per_call(self) -> AbstractContextManager[None]:
        """Within it, a call of `embed` computes on the thread that makes it and on no other.

        For callers who make several calls at once. Holds for threads that begin to embed within it.
        """
        ...


# --- answers ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Threshold:
    """What a decision was taken by.

    Attributes:
        value: Cosine at or above which a score is accepted.
        fmr: False match rate of one comparison that this value stands for; None where the caller gave the value.
        source: ``given`` (by the caller), ``policy`` (the model's table) or ``policy-limit`` (the strictest row that the
            table supports, where the wanted FMR is beyond it).
        wanted_fmr: The FMR that was asked for, per comparison.
        note: A sentence for people, where there is something to know.
    """

    value: float
    source: str
    fmr: float | None = None
    wanted_fmr: float | None = None
    note: str | None = None


@dataclass(frozen=True, slots=True)
class Verification:
    """Answer to a claimed identity: `accepted` is score >= threshold.value."""

    speaker_id: str
    accepted: bool
    score: float
    threshold: Threshold
    quality: Quality
    model_id: str
    collection: str
    generation: int
    timing: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Candidate:
    rank: int
    speaker_id: str
    name: str | None
    score: float
    accepted: bool


@dataclass(frozen=True, slots=True)
class Identification:
    """Answer to 'who is speaking': `speaker_id` is None for 'nobody in this gallery' (open set)."""

    speaker_id: str | None
    candidates: tuple[Candidate, ...]
    threshold: Threshold
    gallery: int
    """How many voiceprints were compared (after tags and allow-list)."""
    quality: Quality
    model_id: str
    collection: str
    generation: int
    timing: Mapping[str, float]
    approximate: Approximation | None = None
    """How the search fell short of an exact one; None for an exact one."""


@dataclass(frozen=True, slots=True)
class SimilarPair:
    """Two speakers of one collection whose voiceprints score `score`; `name` and `other_name` where they have one."""

    score: float
    speaker_id: str
    name: str | None
    other_id: str
    other_name: str | None


@dataclass(frozen=True, slots=True)
class Duplicates:
    """Pairs of speakers at or above the threshold, best first; at most as many as were asked for."""

    pairs: tuple[SimilarPair, ...]
    threshold: Threshold
    gallery: int
    collection: str
    generation: int


class DuplicatePolicy(StrEnum):
    """What bulk enrolment does with a recording whose SHA-256 is enrolled for that speaker already."""

    SKIP = "skip"
    REPLACE = "replace"
    ADD = "add"


@dataclass(frozen=True, slots=True)
class ManifestRow:
    """One recording of a corpus: where it is, whose it is, and what else is known of the speaker."""

    path: Path
    speaker: str
    name: str | None = None
    tags: tuple[str, ...] = ()
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RowOutcome:
    """What became of one recording: ``enrolled``, ``skipped`` or ``rejected``, with the error's code and message."""

    path: str
    speaker: str
    status: str
    code: str | None = None
    message: str | None = None
    enrollment_id: str | None = None
    speech_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class ImportSummary:
    """What bulk enrollment did: counts of recordings by status, and of the speakers that the rows name.

    `seconds` is how long it took, `audio_seconds` the length of the recordings that were enrolled.
    """

    recordings: int
    enrolled: int
    skipped: int
    rejected: int
    speakers: int
    seconds: float
    audio_seconds: float
    codes: Mapping[str, int]
    """How many recordings ended in which error code."""
