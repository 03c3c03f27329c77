"""What goes over the wire, with an example of each. Units as everywhere: seconds, cosines, UTC times."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from voicevault.types import MAX_TAGS

MODEL_ID = "5f0c1e7a9d3b48c2a6e1f4d87b90c3e5"
SHA256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
QUALITY = {"seconds": 6.2, "speech_seconds": 4.9, "level_dbfs": -21.4, "clipped": 0.0, "snr_db": 31.0}
TIMING = {"decode": 0.004, "speech": 0.009, "embed": 0.021, "search": 0.001, "total": 0.036}
THRESHOLD = {"value": 0.41, "source": "policy", "fmr": 0.01, "wanted_fmr": 0.01, "note": None}

COLLECTION = {
    "name": "staff",
    "uuid": "0b6f1f5e-8f5b-4f0e-9f6e-0f8f3a0f2c11",
    "model_id": MODEL_ID,
    "dim": 192,
    "generation": 12,
    "speakers": 4,
    "created": "2026-03-01T09:30:00Z",
    "keeps_audio": False,
    "approximate": None,
}
SPEAKER = {
    "id": "ada",
    "name": "Ada Lovelace",
    "attributes": {"team": "engines"},
    "tags": ["london"],
    "enrollments": 2,
    "created": "2026-03-01T09:31:00Z",
    "updated": "2026-03-01T09:32:10Z",
}
ENROLLMENT = {
    "id": "2b1d9c1f0a5c4d0f9e6b7a8c9d0e1f2a",
    "speaker_id": "ada",
    "model_id": MODEL_ID,
    "quality": QUALITY,
    "source_sha256": SHA256,
    "audio_sha256": SHA256,
    "source_name": "ada-1.wav",
    "created": "2026-03-01T09:32:10Z",
}
POLICY_ROW = {
    "name": "fmr_1pct",
    "fmr": 0.01,
    "threshold": 0.41,
    "fnmr": 0.05,
    "impostor_trials": 80000,
    "genuine_trials": 9000,
    "speakers": 200,
    "reason": None,
}
MODEL = {"name": "ecapa-small", "model_id": MODEL_ID, "dim": 192, "default": True, "thresholds": [POLICY_ROW]}


def _example(**values: Any) -> ConfigDict:
    return ConfigDict(from_attributes=True, json_schema_extra={"examples": [values]})


def _input(**values: Any) -> ConfigDict:
    # An unknown field is refused: a typing error must not count as an option that was not given.
    return ConfigDict(extra="forbid", json_schema_extra={"examples": [values]})


# --- in --------------------------------------------------------------------------------------------------


class NewCollection(BaseModel):
    model_config = _input(name="staff")

    name: str = Field(min_length=1, max_length=255, description="Its name in every path.")
    model: str | None = Field(
        None,
        min_length=1,
        max_length=255,
        description="The model that it is bound to, by its name or model_id; this server's own where it is left out.",
    )
    keep_audio: bool = Field(
        False,
        description="Whether the speech of enrollments is kept in the database, so that a change of the model needs no new ones.",
    )


class NewSpeaker(BaseModel):
    model_config = _input(id="ada", name="Ada Lovelace", attributes={"team": "engines"}, tags=["london"])

    id: str | None = Field(
        None, min_length=1, max_length=255, description="Chosen by you; one is made where it is left out."
    )
    name: str | None = Field(None, min_length=1, max_length=1024, description="Display name.")
    attributes: dict[str, Any] = Field(default_factory=dict, description="Any JSON object.")
    tags: list[str] = Field(
        default_factory=list, max_length=MAX_TAGS, description="Texts to select speakers by."
    )


class SpeakerChange(BaseModel):
    """What is given is replaced, what is left out stays, null empties."""

    model_config = _input(name="Ada King", tags=["london", "countess"])

    name: str | None = Field(None, min_length=1, max_length=1024)
    attributes: dict[str, Any] | None = None
    tags: list[str] | None = Field(None, max_length=MAX_TAGS)


# --- out -------------------------------------------------------------------------------------------------


class Quality(BaseModel):
    """What the recording is like."""

    model_config = _example(**QUALITY)

    seconds: float = Field(description="Length of the recording.")
    speech_seconds: float = Field(description="Net speech in it.")
    level_dbfs: float = Field(description="RMS level of the speech in dB relative to full scale.")
    clipped: float = Field(description="Share of samples at full scale, 0 to 1.")
    snr_db: float | None = Field(description="Speech to background in dB; null without background.")


class Approximation(BaseModel):
    """How a search in inverted lists falls short of an exact one."""

    model_config = _example(recall_at_1=0.987, recall_at_10=0.962, nlist=2000, nprobe=120)

    recall_at_1: float = Field(
        description="Share of probes whose exact best was found, measured on the collection when its lists were made, with "
        "strangers and with weak probes: that of the kind that found less."
    )
    recall_at_10: float = Field(description="Share of the exact best 10 that was found.")
    nlist: int = Field(description="Lists that the collection is dealt out to.")
    nprobe: int = Field(description="Lists that one search reads.")


class Collection(BaseModel):
    model_config = _example(**COLLECTION)

    name: str
    uuid: str
    model_id: str = Field(description="The model it is bound to.")
    dim: int = Field(description="Dimensions of its embeddings.")
    generation: int = Field(description="Counts its committed writes.")
    speakers: int
    created: datetime
    keeps_audio: bool = Field(
        description="Whether the speech of enrollments is kept, for a change of the model."
    )
    approximate: Approximation | None = Field(
        description="How searches fall short of exact ones; null where they do not.",
    )


class Collections(BaseModel):
    model_config = _example(collections=[COLLECTION])

    collections: list[Collection]


class Speaker(BaseModel):
    model_config = _example(**SPEAKER)

    id: str
    name: str | None
    attributes: dict[str, Any]
    tags: list[str]
    enrollments: int
    created: datetime
    updated: datetime


class SpeakerPage(BaseModel):
    """Speakers by id; `next` is what to give as `after` for the following page, null at the end."""

    model_config = _example(speakers=[SPEAKER], next=None)

    speakers: list[Speaker]
    next: str | None


class Enrollment(BaseModel):
    """One accepted recording of a speaker."""

    model_config = _example(**ENROLLMENT)

    id: str
    speaker_id: str
    model_id: str
    quality: Quality
    source_sha256: str = Field(description="SHA-256 of the file.")
    audio_sha256: str = Field(description="SHA-256 of the decoded audio.")
    source_name: str | None
    created: datetime


class Enrollments(BaseModel):
    model_config = _example(enrollments=[ENROLLMENT])

    enrollments: list[Enrollment]


class Threshold(BaseModel):
    """What the decision was taken by."""

    model_config = _example(**THRESHOLD)

    value: float = Field(description="Cosine from which a score is accepted.")
    source: str = Field(
        description="`given`, `policy`, or `policy-limit` where the table of the model ends before the wanted rate."
    )
    fmr: float | None = Field(description="False match rate of one comparison at this value.")
    wanted_fmr: float | None = Field(description="The rate that was asked for.")
    note: str | None


class Verification(BaseModel):
    model_config = _example(
        speaker_id="ada",
        accepted=True,
        score=0.73,
        threshold=THRESHOLD,
        quality=QUALITY,
        model_id=MODEL_ID,
        collection="default",
        generation=12,
        timing=TIMING,
    )

    speaker_id: str
    accepted: bool = Field(description="Whether score >= threshold.value.")
    score: float = Field(description="Cosine, -1 to 1.")
    threshold: Threshold
    quality: Quality
    model_id: str
    collection: str
    generation: int = Field(description="Generation of the collection that was answered from.")
    timing: dict[str, float] = Field(description="Seconds per stage.")


class Candidate(BaseModel):
    model_config = _example(rank=1, speaker_id="ada", name="Ada Lovelace", score=0.73, accepted=True)

    rank: int
    speaker_id: str
    name: str | None
    score: float
    accepted: bool


class Identification(BaseModel):
    model_config = _example(
        speaker_id="ada",
        candidates=[
            {"rank": 1, "speaker_id": "ada", "name": "Ada Lovelace", "score": 0.73, "accepted": True},
            {"rank": 2, "speaker_id": "mary", "name": None, "score": 0.18, "accepted": False},
        ],
        threshold={**THRESHOLD, "value": 0.52, "fmr": 0.0025, "wanted_fmr": 0.0025},
        gallery=4,
        quality=QUALITY,
        model_id=MODEL_ID,
        collection="default",
        generation=12,
        timing=TIMING,
        approximate=None,
    )

    speaker_id: str | None = Field(description="The speaker, or null: nobody in this gallery.")
    candidates: list[Candidate] = Field(description="The nearest, best first.")
    threshold: Threshold
    gallery: int = Field(description="How many voiceprints were compared.")
    quality: Quality
    model_id: str
    collection: str
    generation: int = Field(description="Generation of the collection that was answered from.")
    timing: dict[str, float] = Field(description="Seconds per stage.")
    approximate: Approximation | None = Field(
        description="How the search fell short of an exact one; null for an exact one.",
    )


class Embedding(BaseModel):
    model_config = _example(
        model_id=MODEL_ID,
        dim=4,
        vector=[0.5, -0.5, 0.5, 0.5],
        quality=QUALITY,
        source_sha256=SHA256,
        audio_sha256=SHA256,
        timing={"decode": 0.004, "speech": 0.009, "embed": 0.021},
    )

    model_id: str
    dim: int
    vector: list[float] = Field(description="Unit vector.")
    quality: Quality
    source_sha256: str
    audio_sha256: str
    timing: dict[str, float] = Field(description="Seconds per stage.")


class PolicyRow(BaseModel):
    """One row of a model's threshold table."""

    model_config = _example(**POLICY_ROW)

    name: str
    fmr: float
    threshold: float | None
    fnmr: float | None
    impostor_trials: int
    genuine_trials: int
    speakers: int
    reason: str | None = Field(description="Why threshold or FNMR are null.")


class Model(BaseModel):
    model_config = _example(**MODEL)

    name: str
    model_id: str = Field(description="Hash of weights, architecture and front-end.")
    dim: int
    default: bool = Field(description="Whether new collections are bound to it.")
    thresholds: list[PolicyRow] = Field(description="Empty where the model has no policy.")


class Models(BaseModel):
    model_config = _example(models=[MODEL])

    models: list[Model]


class Health(BaseModel):
    model_config = _example(status="ok", version="0.1.0")

    status: str
    version: str


class Readiness(BaseModel):
    """Whether requests can be answered, and if not, why."""

    model_config = _example(
        ready=True,
        code=None,
        reason=None,
        database="sqlite",
        collections=1,
        model="ecapa-small",
        model_id=MODEL_ID,
    )

    ready: bool
    code: str | None = Field(None, description="Error code, or `STARTING`.")
    reason: str | None = None
    database: str | None = None
    collections: int | None = None
    model: str | None = None
    model_id: str | None = None


class Problem(BaseModel):
    """An RFC 9457 problem. `code` is the contract: the same in Python, over HTTP and on the command line."""

    model_config = _example(
        type="urn:voicevault:NOT_ENOUGH_SPEECH",
        title="The recording holds too little speech",
        status=422,
        detail="The recording holds 0.20 s of speech and 0.5 s are needed. Record at least 0.30 s more speech.",
        code="NOT_ENOUGH_SPEECH",
        facts={"found": 0.2, "needed": 0.5, "missing": 0.3},
    )

    type: str
    title: str
    status: int
    detail: str = Field(description="What happened and what to do.")
    code: str
    facts: dict[str, Any] = Field(description="What to act on by program: numbers found, limits, names.")
