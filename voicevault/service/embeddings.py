"""Embeddings without a gallery, and the models that make them."""

from __future__ import annotations

from fastapi import APIRouter, Request

from voicevault.service import schemas
from voicevault.service.dependencies import Channel, InferenceOf, VaultOf
from voicevault.service.problems import INFERENCE, VAULT, responses
from voicevault.service.uploads import BODY

router = APIRouter(prefix="/v1", tags=["embeddings"])


@router.post(
    "/embeddings",
    summary="Embed a recording",
    openapi_extra=BODY,
    responses=responses(*VAULT, *INFERENCE),
)
async def embed(
    request: Request, vault: VaultOf, inference: InferenceOf, channel: Channel = None
) -> schemas.Embedding:
    """The unit vector of the recording's speech. Nothing of it is kept."""
    made = await inference.on_recording(
        request, lambda recording: vault.embed(recording.data, channel=channel)
    )
    return schemas.Embedding(
        model_id=made.model_id,
        dim=len(made.vector),
        vector=made.vector.tolist(),
        quality=schemas.Quality.model_validate(made.quality),
        source_sha256=made.source_sha256,
        audio_sha256=made.audio_sha256,
        timing=dict(made.timing),
    )


@router.get("/models", summary="List the models", responses=responses(*VAULT))
def list_models(vault: VaultOf) -> schemas.Models:
    """The models that collections can be bound to, this server's own first, with their threshold tables."""
    return schemas.Models(
        models=[
            schemas.Model(
                name=model.name,
                model_id=model.model_id,
                dim=model.dim,
                default=model.model_id == vault.model_id,
                thresholds=[
                    schemas.PolicyRow.model_validate(row, from_attributes=True)
                    for row in (model.policy.thresholds if model.policy is not None else ())
                ],
            )
            for model in vault.models()
        ]
    )
