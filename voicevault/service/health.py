"""Is the process alive, can it answer, and how is it doing."""

from __future__ import annotations

import asyncio
import logging

from fastapi import APIRouter, Request, Response

import voicevault
from voicevault.errors import VoicevaultError
from voicevault.service import schemas
from voicevault.service.problems import responses, told
from voicevault.vault import Vault

log = logging.getLogger(__name__)
router = APIRouter(tags=["health"])
END_SECONDS = 2.0
"""How long the end of the service waits for an attempt under way."""
STARTING = schemas.Readiness(
    ready=False, code="STARTING", reason="The model and the indexes are being loaded. Ask again in a moment."
)


class WarmUp:
    """Loads the model and the indexes beside the first requests; a failed attempt is made again when asked."""

    def __init__(self, vault: Vault) -> None:
        self._vault = vault
        self._task: asyncio.Task[None] | None = None
        self._failed = False

    def begin(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def readiness(self) -> schemas.Readiness:
        """Whether the database, its schema, the model and the indexes are ready now."""
        if self._task is None or not self._task.done():
            return STARTING
        try:
            found = await asyncio.to_thread(self._vault.ready)
        except VoicevaultError as error:
            log.warning("not ready: %s: %s", error.code, error)
            return schemas.Readiness(ready=False, code=error.code, reason=told(error)[0])
        except Exception:
            log.exception("the readiness check failed")
            return schemas.Readiness(
                ready=False, code=VoicevaultError.code, reason="The check failed. See the log."
            )
        if self._failed and self._task.done():  # what was in the way is gone: load the rest
            self.begin()
        if not self._task.done():  # begun here, or meanwhile by another who asked
            return STARTING
        known = {name: value for name, value in found.items() if name in schemas.Readiness.model_fields}
        return schemas.Readiness(ready=True, **known)

    async def end(self) -> None:
        """Waits for an attempt under way, but not for long: where an index is being built, closing the vault ends that."""
        if self._task is not None:
            await asyncio.wait([self._task], timeout=END_SECONDS)

    async def _run(self) -> None:
        try:
            await asyncio.to_thread(self._vault.warm)
            self._failed = False
        except Exception as error:
            self._failed = True
            log.error("not ready: %s", error)


@router.get("/healthz", summary="Is it alive?", responses=responses())
async def healthz() -> schemas.Health:
    """Answers whenever the process does."""
    return schemas.Health(status="ok", version=voicevault.__version__)


@router.get(
    "/readyz",
    summary="Can it answer?",
    responses=responses() | {503: {"model": schemas.Readiness, "description": "Not ready, and why"}},
)
async def readyz(request: Request, response: Response) -> schemas.Readiness:
    """503 with the reason while the database, its schema, the model or the indexes are not ready."""
    warm_up: WarmUp = request.app.state.warm_up
    found = await warm_up.readiness()
    response.status_code = 200 if found.ready else 503
    return found
