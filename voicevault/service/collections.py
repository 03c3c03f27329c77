"""Collections: list, create, show, delete."""

from __future__ import annotations

from urllib.parse import quote

from fastapi import APIRouter, Response

from voicevault.errors import CollectionExistsError, CollectionNotFoundError, ModelNotFoundError
from voicevault.service import schemas
from voicevault.service.dependencies import CollectionName, VaultOf
from voicevault.service.limits import SmallBodyRoute
from voicevault.service.problems import VAULT, responses

router = APIRouter(prefix="/v1/collections", tags=["collections"], route_class=SmallBodyRoute)


@router.get("", summary="List the collections", responses=responses(*VAULT))
def list_collections(vault: VaultOf) -> schemas.Collections:
    """All collections, by name."""
    return schemas.Collections(
        collections=[schemas.Collection.model_validate(one) for one in vault.collections()]
    )


@router.post(
    "",
    status_code=201,
    summary="Create a collection",
    responses=responses(*VAULT, CollectionExistsError, ModelNotFoundError),
)
def create_collection(body: schemas.NewCollection, vault: VaultOf, response: Response) -> schemas.Collection:
    """An empty collection, bound to one model for good."""
    made = vault.create_collection(body.name, body.model, keep_audio=body.keep_audio)
    response.headers["Location"] = f"/v1/collections/{quote(made.name, safe='')}"
    return schemas.Collection.model_validate(made)


@router.get(
    "/{collection}", summary="Show a collection", responses=responses(*VAULT, CollectionNotFoundError)
)
def show_collection(collection: CollectionName, vault: VaultOf) -> schemas.Collection:
    """Its model, its size and its generation."""
    return schemas.Collection.model_validate(vault.collection(collection))


@router.delete(
    "/{collection}",
    status_code=204,
    summary="Delete a collection",
    responses=responses(*VAULT, CollectionNotFoundError),
)
def delete_collection(collection: CollectionName, vault: VaultOf) -> None:
    """With all its speakers and their enrollments."""
    vault.delete_collection(collection)
