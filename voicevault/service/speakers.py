"""Speakers of a collection: list, create, show, change, forget."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Query, Response

from voicevault.errors import CollectionNotFoundError, SpeakerExistsError, SpeakerNotFoundError
from voicevault.service import schemas
from voicevault.service.dependencies import CollectionName, QueryText, SpeakerId, Tags, VaultOf
from voicevault.service.limits import SmallBodyRoute
from voicevault.service.problems import VAULT, responses

router = APIRouter(
    prefix="/v1/collections/{collection}/speakers", tags=["speakers"], route_class=SmallBodyRoute
)


@router.get("", summary="List speakers", responses=responses(*VAULT, CollectionNotFoundError))
def list_speakers(
    collection: CollectionName,
    vault: VaultOf,
    tags: Tags = [],  # noqa: B006 - FastAPI copies it
    after: Annotated[
        QueryText | None, Query(description="Only ids behind this one: `next` of the page before.")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=1000, description="Speakers of a page.")] = 100,
) -> schemas.SpeakerPage:
    """A page of the speakers, by id."""
    found = vault.speakers(collection=collection, tags=tags, after=after, limit=limit + 1)
    page = [schemas.Speaker.model_validate(one) for one in found[:limit]]
    return schemas.SpeakerPage(speakers=page, next=page[-1].id if len(found) > limit else None)


@router.post(
    "",
    status_code=201,
    summary="Create a speaker",
    responses=responses(*VAULT, CollectionNotFoundError, SpeakerExistsError),
)
def create_speaker(
    collection: CollectionName, body: schemas.NewSpeaker, vault: VaultOf, response: Response
) -> schemas.Speaker:
    """A speaker without enrollments. (The first enrollment makes its speaker too.)"""
    made = vault.create_speaker(
        body.id, name=body.name, attributes=body.attributes, tags=body.tags, collection=collection
    )
    response.headers["Location"] = (
        f"/v1/collections/{quote(collection, safe='')}/speakers/{quote(made.id, safe='')}"
    )
    return schemas.Speaker.model_validate(made)


@router.get(
    "/{speaker}",
    summary="Show a speaker",
    responses=responses(*VAULT, CollectionNotFoundError, SpeakerNotFoundError),
)
def show_speaker(collection: CollectionName, speaker: SpeakerId, vault: VaultOf) -> schemas.Speaker:
    """What is known of a speaker."""
    return schemas.Speaker.model_validate(vault.speaker(speaker, collection=collection))


@router.patch(
    "/{speaker}",
    summary="Change a speaker",
    responses=responses(*VAULT, CollectionNotFoundError, SpeakerNotFoundError),
)
def change_speaker(
    collection: CollectionName, speaker: SpeakerId, body: schemas.SpeakerChange, vault: VaultOf
) -> schemas.Speaker:
    """What is given is replaced, what is left out stays, null empties."""
    changes = body.model_dump(include=body.model_fields_set)
    return schemas.Speaker.model_validate(vault.update_speaker(speaker, collection=collection, **changes))


@router.delete(
    "/{speaker}",
    status_code=204,
    summary="Forget a speaker",
    responses=responses(*VAULT, CollectionNotFoundError, SpeakerNotFoundError),
)
def forget_speaker(collection: CollectionName, speaker: SpeakerId, vault: VaultOf) -> None:
    """Deletes the speaker with all enrollments; no answer names them from then on."""
    vault.forget(speaker, collection=collection)
