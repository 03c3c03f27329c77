"""The application: a vault behind HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import Depends, FastAPI
from fastapi.openapi.utils import get_openapi

import voicevault
from voicevault.cores import available_cores
from voicevault.service import (
    collections,
    embeddings,
    enrollments,
    health,
    metrics,
    schemas,
    search,
    speakers,
)
from voicevault.service.dependencies import EncodedPath, known_query
from voicevault.service.guard import Guard
from voicevault.service.health import WarmUp
from voicevault.service.limits import Inference
from voicevault.service.metrics import Measured, Metrics
from voicevault.service.problems import add_handlers
from voicevault.settings import Settings
from voicevault.vault import Vault

DESCRIPTION = """A self-hosted speaker database: enroll voices, identify them, verify claims.

Recordings travel as the body itself or as the field `file` of a form; options are query parameters in both. Scores are
cosines, durations are seconds. Every failure is an RFC 9457 problem whose `code` is stable."""


def create_app(vault: Vault, settings: Settings) -> FastAPI:
    """The service for an open vault. It loads the model when it starts, and closes the vault when it stops."""
    inference = Inference(settings.concurrency or available_cores(), settings.queue, settings.max_bytes)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.warm_up.begin()
        try:
            yield
        finally:
            await app.state.warm_up.end()
            inference.close()
            vault.close()

    app = FastAPI(
        title="voicevault",
        version=voicevault.__version__,
        description=DESCRIPTION,
        lifespan=lifespan,
        # Their pages load scripts from a public host; nothing here does.
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.vault = vault
    app.state.inference = inference
    app.state.metrics = Metrics(inference, vault)
    app.state.warm_up = WarmUp(vault)
    add_handlers(app)
    for part in (collections, speakers, enrollments, search, embeddings):
        app.include_router(part.router, dependencies=[Depends(known_query)])
    for part in (health, metrics):  # whatever probes and scrapers may add to their URLs
        app.include_router(part.router)
    app.add_middleware(EncodedPath)
    app.add_middleware(Guard, host=settings.host, allowed=settings.allowed_hosts)
    app.add_middleware(Measured, metrics=app.state.metrics)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return app


def _openapi(app: FastAPI) -> dict[str, Any]:
    """FastAPI's document, with our problems in place of its validation errors."""
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title, version=app.version, description=app.description, routes=app.routes
        )
        parts = document["components"]["schemas"]
        for name in ("HTTPValidationError", "ValidationError"):
            parts.pop(name, None)
        parts["Problem"] = schemas.Problem.model_json_schema()
        for path in document["paths"].values():
            for operation in path.values():
                content = operation["responses"].get("422", {}).get("content", {})
                if "application/json" in content:
                    del operation["responses"]["422"]
        app.openapi_schema = document
    return app.openapi_schema
