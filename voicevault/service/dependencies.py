"""What the routes share: the vault, the inference threads, and the parameters that several of them take."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, get_origin
from urllib.parse import parse_qsl, unquote

from fastapi import Depends, Path, Query, Request
from fastapi.routing import APIRoute
from pydantic import AfterValidator, WithJsonSchema
from starlette.types import ASGIApp, Receive, Scope, Send

from voicevault.errors import RequestError
from voicevault.service.limits import Inference
from voicevault.types import MAX_TAGS
from voicevault.vault import Vault


async def _vault(request: Request) -> Vault:
    vault: Vault = request.app.state.vault
    return vault


async def _inference(request: Request) -> Inference:
    inference: Inference = request.app.state.inference
    return inference


def _text(value: str) -> str:
    # A database cannot look for these; it would fail instead of finding nothing. Blank ids are refused where speakers are
    # made, which is too late for a recording: it would be embedded first.
    blank = not value.strip()
    if blank or len(value) > 255 or any(ord(c) < 32 or 0x7F <= ord(c) < 0xA0 for c in value):
        raise ValueError("must have 1 to 255 characters, not all blank and none of them a control character")
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
    try:
        return _text(unquote(value, errors="strict"))
    except UnicodeDecodeError as error:  # read leniently, all such ids would be one
        raise ValueError("must be UTF-8, percent-encoded") from error


async def known_query(request: Request) -> None:
    """Refuses what would count as an option that was not given, or as another one than was meant.

    Raises:
        RequestError: A query parameter that the route does not have, one that is given twice, or one that is no UTF-8.
    """
    route: APIRoute = request.scope["route"]
    known = {field.alias: get_origin(field.field_info.annotation) for field in route.dependant.query_params}
    try:
        given = Counter(
            name
            for name, _ in parse_qsl(
                request.scope["query_string"].decode("ascii"), keep_blank_values=True, errors="strict"
            )
        )
    except UnicodeError as error:
        raise RequestError("The query string must be UTF-8, percent-encoded.") from error
    for name, times in given.items():
        if name not in known:
            options = ", ".join(sorted(known)) or "none"
            raise RequestError(f"There is no option {name!r} here; there are: {options}.", option=name)
        if times > 1 and known[name] is not list:
            raise RequestError(f"Give the option {name!r} once, not {times} times.", option=name)


VaultOf = Annotated[Vault, Depends(_vault)]
InferenceOf = Annotated[Inference, Depends(_inference)]

_ANY, _VISIBLE = r"[^\x00-\x1f\x7f-\x9f]", r"[^\s\x00-\x1f\x7f-\x9f]"
_FORM = {"minLength": 1, "maxLength": 255, "pattern": f"^{_ANY}*{_VISIBLE}{_ANY}*$"}
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
    list[QueryText],
    Query(max_length=MAX_TAGS, description="Only speakers that carry all of these; give it several times."),
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
