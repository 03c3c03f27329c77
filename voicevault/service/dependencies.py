"""What the routes share: the vault, the inference threads, and the parameters that several of them take."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import unquote

from fastapi import Depends, Path, Query, Request
from pydantic import AfterValidator, WithJsonSchema
from starlette.types import ASGIApp, Receive, Scope, Send

from voicevault.service.limits import Inference
from voicevault.vault import Vault


async def _vault(request: Request) -> Vault:
    vault: Vault = request.app.state.vault
    return vault


async def _inference(request: Request) -> Inference:
    inference: Inference = request.app.state.inference
    return inference


def _text(value: str) -> str:
    # A database cannot look for these; it would fail instead of finding nothing.
    if not value or len(value) > 255 or any(ord(c) < 32 or 0xD800 <= ord(c) <= 0xDFFF for c in value):
        raise ValueError("must have 1 to 255 characters, none of them a control character")
    return value


class EncodedPath:
    """ASGI middleware: routes match the path as it was sent, so that a speaker ``a%2Fb`` is one part of it.

    Path parameters are decoded one by one behind the match (`_decoded`).
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket") and scope.get("raw_path"):
            scope["path"] = scope["raw_path"].decode("latin-1")
        await self._app(scope, receive, send)


def _decoded(value: str) -> str:
    return _text(unquote(value))


VaultOf = Annotated[Vault, Depends(_vault)]
InferenceOf = Annotated[Inference, Depends(_inference)]

_FORM = {"minLength": 1, "maxLength": 255, "pattern": r"^[^\x00-\x1f]+$"}
"""What `_text` asks for, in the words of OpenAPI."""

CollectionName = Annotated[
    str,
    AfterValidator(_decoded),
    Path(description="Name of the collection.", examples=["default"], json_schema_extra=_FORM),
]
SpeakerId = Annotated[
    str,
    AfterValidator(_decoded),
    Path(description="Id of the speaker.", examples=["ada"], json_schema_extra=_FORM),
]
EnrollmentId = Annotated[
    str, AfterValidator(_decoded), Path(description="Id of the enrollment.", json_schema_extra=_FORM)
]

QueryText = Annotated[str, AfterValidator(_text), WithJsonSchema({"type": "string", **_FORM})]
Tags = Annotated[
    list[QueryText], Query(description="Only speakers that carry all of these; give it several times.")
]
Channel = Annotated[
    int | None, Query(ge=0, le=1023, description="The channel to listen to, from 0; left out, all are mixed.")
]
GivenThreshold = Annotated[
    float | None,
    Query(ge=-1, le=1, allow_inf_nan=False, description="Cosine from which a score is accepted."),
]
Fmr = Annotated[
    float | None,
    Query(
        gt=0,
        lt=1,
        allow_inf_nan=False,
        description="Or the false match rate of one comparison, for the table of the model.",
    ),
]
