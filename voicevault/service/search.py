"""The two questions: is it this speaker (1:1), and who is it (1:N)."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request

from voicevault.errors import (
    CollectionNotFoundError,
    IndexUnavailableError,
    ModelMismatchError,
    NotEnrolledError,
    NoThresholdError,
    SpeakerNotFoundError,
)
from voicevault.service import schemas
from voicevault.service.dependencies import (
    Channel,
    CollectionName,
    Fmr,
    GivenThreshold,
    InferenceOf,
    QueryText,
    Tags,
    VaultOf,
)
from voicevault.service.problems import INFERENCE, VAULT, responses
from voicevault.service.uploads import BODY

router = APIRouter(prefix="/v1/collections/{collection}", tags=["search"])


@router.post(
    "/verify",
    summary="Verify a claimed identity",
    openapi_extra=BODY,
    responses=responses(
        *VAULT,
        NoThresholdError,
        CollectionNotFoundError,
        SpeakerNotFoundError,
        NotEnrolledError,
        ModelMismatchError,
        *INFERENCE,
    ),
)
async def verify(
    request: Request,
    collection: CollectionName,
    speaker: Annotated[
        QueryText, Query(description="Id of the speaker whom the recording is said to be of.")
    ],
    vault: VaultOf,
    inference: InferenceOf,
    threshold: GivenThreshold = None,
    fmr: Fmr = None,
    channel: Channel = None,
) -> schemas.Verification:
    """Decides by `threshold`, or by the table of the model at `fmr`, 1 % by default; the answer states by which."""
    answer = await inference.on_recording(
        request,
        lambda recording: vault.verify(
            speaker, recording.data, collection=collection, threshold=threshold, fmr=fmr, channel=channel
        ),
    )
    return schemas.Verification.model_validate(answer)


@router.post(
    "/identify",
    summary="Identify a speaker",
    openapi_extra=BODY,
    responses=responses(
        *VAULT,
        NoThresholdError,
        CollectionNotFoundError,
        ModelMismatchError,
        IndexUnavailableError,
        *INFERENCE,
    ),
)
async def identify(
    request: Request,
    collection: CollectionName,
    vault: VaultOf,
    inference: InferenceOf,
    k: Annotated[int, Query(ge=1, le=1000, description="How many candidates to name.")] = 5,
    threshold: GivenThreshold = None,
    fmr: Fmr = None,
    tags: Tags = [],  # noqa: B006 - FastAPI copies it
    channel: Channel = None,
) -> schemas.Identification:
    """The `k` nearest of the speakers that carry all of `tags`, and the decision; `speaker_id` null is nobody.

    Decides by `threshold`, or by the table of the model at `fmr`; by default at 1 % over the whole gallery, as far down
    as the table supports. The answer states by which.
    """
    answer = await inference.on_recording(
        request,
        lambda recording: vault.identify(
            recording.data,
            collection=collection,
            k=k,
            threshold=threshold,
            fmr=fmr,
            tags=tags,
            channel=channel,
        ),
    )
    return schemas.Identification.model_validate(answer)
