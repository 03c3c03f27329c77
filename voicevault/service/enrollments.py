"""Enrollments of a speaker: add a recording, list, forget one."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Query, Request, Response

from voicevault.errors import (
    CollectionNotFoundError,
    DuplicateRecordingError,
    EnrollmentNotFoundError,
    ModelMismatchError,
    SpeakerNotFoundError,
)
from voicevault.service import schemas
from voicevault.service.dependencies import (
    Channel,
    CollectionName,
    EnrollmentId,
    InferenceOf,
    QueryText,
    SpeakerId,
    VaultOf,
)
from voicevault.service.problems import INFERENCE, VAULT, responses
from voicevault.service.uploads import BODY
from voicevault.types import DuplicatePolicy

router = APIRouter(prefix="/v1/collections/{collection}/speakers/{speaker}/enrollments", tags=["enrollments"])


@router.post(
    "",
    status_code=201,
    summary="Enroll a recording",
    openapi_extra=BODY,
    responses=responses(
        *VAULT,
        CollectionNotFoundError,
        SpeakerNotFoundError,
        DuplicateRecordingError,
        ModelMismatchError,
        *INFERENCE,
    ),
)
async def enroll(
    request: Request,
    response: Response,
    collection: CollectionName,
    speaker: SpeakerId,
    vault: VaultOf,
    inference: InferenceOf,
    create: Annotated[bool, Query(description="Make the speaker where there is none.")] = True,
    duplicates: Annotated[
        DuplicatePolicy | None,
        Query(
            description="What to do with a recording that the speaker has already: `skip` answers with the"
            " enrollment that is there, `replace` and `add` do as they say; left out, it is an error."
        ),
    ] = None,
    source_name: Annotated[
        QueryText | None,
        Query(description="What to call the recording; the name of a form's file by default."),
    ] = None,
    channel: Channel = None,
) -> schemas.Enrollment:
    """Adds the recording to the speaker's voiceprint."""
    made = await inference.on_recording(
        request,
        lambda recording: vault.enroll(
            speaker,
            recording.data,
            collection=collection,
            create=create,
            channel=channel,
            duplicates=duplicates,
            source_name=source_name if source_name is not None else recording.filename,
        ),
    )
    response.headers["Location"] = (
        f"/v1/collections/{quote(collection, safe='')}/speakers/{quote(speaker, safe='')}/enrollments/{made.id}"
    )
    return schemas.Enrollment.model_validate(made)


@router.get(
    "", summary="List enrollments", responses=responses(*VAULT, CollectionNotFoundError, SpeakerNotFoundError)
)
def list_enrollments(collection: CollectionName, speaker: SpeakerId, vault: VaultOf) -> schemas.Enrollments:
    """A speaker's enrollments, oldest first."""
    found = vault.enrollments(speaker, collection=collection)
    return schemas.Enrollments(enrollments=[schemas.Enrollment.model_validate(one) for one in found])


@router.delete(
    "/{enrollment}",
    status_code=204,
    summary="Forget an enrollment",
    responses=responses(*VAULT, CollectionNotFoundError, SpeakerNotFoundError, EnrollmentNotFoundError),
)
def forget_enrollment(
    collection: CollectionName, speaker: SpeakerId, enrollment: EnrollmentId, vault: VaultOf
) -> None:
    """Deletes one enrollment and makes the voiceprint anew of the others; the speaker stays."""
    vault.forget(speaker, enrollment, collection=collection)
