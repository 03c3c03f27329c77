"""Errors on their way out: each becomes an RFC 9457 problem; nobody ever sees a traceback."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from voicevault.errors import (
    AudioError,
    AudioNotFoundError,
    CheckpointError,
    DatabaseBusyError,
    HostNotAllowedError,
    NotFoundError,
    OverloadedError,
    RequestError,
    SchemaOutdatedError,
    SettingsError,
    StoreError,
    VoicevaultError,
)

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER = 1
"""Seconds; a place or a lock is free again after some inferences or writes."""

HTTP_ONLY = {
    405: ("METHOD_NOT_ALLOWED", "The path does not take this method"),
    408: ("UPLOAD_TIMEOUT", "The upload stopped before its end"),
    413: ("REQUEST_TOO_LARGE", "The request has too many bytes"),
}
"""What can go wrong in HTTP alone, so that no exception of ours stands for it."""

VAULT: tuple[type[VoicevaultError], ...] = (RequestError, StoreError)
"""What any call of the vault may end in."""
AUDIO: tuple[type[VoicevaultError], ...] = tuple(
    error for error in AudioError.__subclasses__() if error is not AudioNotFoundError
)
"""What an uploaded recording can be refused for; it comes as bytes, so a missing file is none of it."""
INFERENCE: tuple[type[VoicevaultError], ...] = (OverloadedError, CheckpointError, *AUDIO)
"""What a route that embeds a recording may end in."""


class ProblemResponse(Response):
    media_type = MEDIA_TYPE


def problem(
    status: int,
    code: str,
    title: str,
    detail: str,
    facts: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
) -> ProblemResponse:
    """The response for a failure; see `schemas.Problem`."""
    document = {
        "type": f"urn:voicevault:{code}",
        "title": title,
        "status": status,
        "detail": detail,
        "code": code,
        "facts": _plain(dict(facts or {})),
    }
    return ProblemResponse(json.dumps(document, allow_nan=False), status, dict(headers or {}))


def told(error: VoicevaultError) -> tuple[str, Mapping[str, Any]]:
    """Message and facts of an error as a client may know them.

    What this machine fails at names its folders, hosts and accounts; that is for the log.
    """
    if isinstance(error, CheckpointError | SettingsError | StoreError) and not isinstance(
        error, DatabaseBusyError | SchemaOutdatedError
    ):
        return f"{error.title}. The log of the server tells more.", {}
    return error.message, error.facts


def problem_of(error: VoicevaultError) -> ProblemResponse:
    """The response for one of our own errors."""
    detail, facts = told(error)
    headers: dict[str, str] = {}
    if isinstance(error, OverloadedError | DatabaseBusyError):
        headers["Retry-After"] = str(RETRY_AFTER)
    if error.status == 413:
        headers["Connection"] = "close"  # nobody reads the rest of the upload
    return problem(error.status, error.code, error.title, detail, facts, headers)


def add_handlers(app: FastAPI) -> None:
    """Every exception that can leave a route ends in a problem."""

    @app.exception_handler(VoicevaultError)
    async def ours(_request: Request, error: VoicevaultError) -> Response:
        if error.status >= 500:
            log.error("%s: %s", error.code, error)
        return problem_of(error)

    @app.exception_handler(RequestValidationError)
    async def invalid(_request: Request, error: RequestValidationError) -> Response:
        found = [
            {"where": ".".join(str(part) for part in one["loc"]), "message": one["msg"]}
            for one in error.errors()
        ]
        wrong = "; ".join(f"{one['where']}: {one['message']}" for one in found[:5])
        return problem_of(RequestError(f"Change these and send it again: {wrong}.", problems=found))

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        headers = dict(error.headers or {})
        if error.status_code == 404:
            answer = NotFoundError("There is nothing at this path. GET /openapi.json lists all paths.")
            return problem_of(answer)
        if error.status_code not in HTTP_ONLY:
            return problem_of(
                RequestError(
                    f"The request cannot be read ({error.detail}). Send it again in the documented form."
                )
            )
        code, title = HTTP_ONLY[error.status_code]
        detail = str(error.detail)
        if error.status_code == 405:
            # The exception knows the methods of one route, and a path has a route for each method.
            path = getattr(request.scope.get("route"), "path", "")
            known = app.openapi()["paths"].get(path)
            methods = ", ".join(sorted(known)).upper() if known else headers.get("Allow", "")
            headers = {"Allow": methods}
            detail = f"Use one of: {methods}."
        else:
            headers["Connection"] = "close"
        return problem(error.status_code, code, title, detail, headers=headers)

    @app.exception_handler(ClientDisconnect)
    async def gone(_request: Request, _error: ClientDisconnect) -> Response:
        return Response(status_code=499)  # nobody is there to read it

    @app.exception_handler(Exception)
    async def unexpected(_request: Request, _error: Exception) -> Response:
        # The server logs it with its traceback.
        return problem_of(
            VoicevaultError("Something failed that should not have. The log of the server tells more.")
        )


def responses(*errors: type[VoicevaultError]) -> dict[int | str, dict[str, Any]]:
    """The problems of a route for its OpenAPI entry: these, and what the guard may answer for every route."""
    documented: dict[int | str, dict[str, Any]] = {}
    everything: tuple[type[VoicevaultError], ...] = (*errors, HostNotAllowedError)
    for error in everything:
        entry = documented.setdefault(
            error.status,
            {
                "description": error.title,
                "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}, "examples": {}}},
            },
        )
        if error.title not in entry["description"]:
            entry["description"] += f", or: {error.title[0].lower()}{error.title[1:]}"
        entry["content"][MEDIA_TYPE]["examples"][error.code] = {
            "summary": error.title,
            "value": {
                "type": f"urn:voicevault:{error.code}",
                "title": error.title,
                "status": error.status,
                "detail": "What happened, and what to do.",
                "code": error.code,
                "facts": {},
            },
        }
    return documented


def _plain(value: Any) -> Any:
    """JSON values only, whatever the facts hold."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int | bool) else str(value)
