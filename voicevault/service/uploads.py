"""Recordings on their way in: the raw body, or the one file of a multipart form. They stay in memory, within the limit.

Starlette's own form parser writes files above 1 MB to disk in the clear; this one keeps them in memory, as the
ruling promise on uploads wants it, and stops reading at the first byte too many.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

from fastapi import Request
from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.exceptions import HTTPException

from voicevault.errors import AudioTooLargeError, RequestError
from voicevault.text import printable

FIELD = "file"
OVERHEAD = 64 * 1024
"""Bytes that boundaries and part headers of a form may take beside the file."""
IDLE_SECONDS = 30.0
"""How long a body may pause."""
MOST_NAME = 4096
"""Characters of a file's name that are kept."""
LEAST_PACE = 1024
"""Bytes a second that a recording must come at, on the whole: who sends a byte now and then would hold a place for days."""

BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "The recording: as the body itself, or as the field `file` of a form.",
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": [FIELD],
                    "properties": {
                        FIELD: {"type": "string", "format": "binary", "description": "The recording."}
                    },
                    "additionalProperties": False,
                }
            },
            **{
                kind: {"schema": {"type": "string", "format": "binary"}}
                for kind in ("audio/wav", "audio/flac", "audio/ogg", "application/octet-stream")
            },
        },
    }
}
"""What OpenAPI says of the body of every route that takes a recording. The content decides, whatever type is named."""


@dataclass(frozen=True, slots=True, eq=False)
class Upload:
    data: bytes
    filename: str | None = None


async def read_recording(request: Request, max_bytes: int, hold: Callable[[int], None]) -> Upload:
    """The recording that a request carries.

    Args:
        hold: Told of the bytes as they come; it raises OverloadedError where there is no room for them.

    Raises:
        OverloadedError: See `hold`.
        AudioTooLargeError: More than `max_bytes`; raised as soon as it is known, before the rest is read.
        RequestError: The form is broken, or holds anything but one file in the field `file`.
        HTTPException: 408 where it comes too slowly; see `IDLE_SECONDS` and `LEAST_PACE`.
    """
    kind, options = parse_options_header(request.headers.get("content-type"))
    form = kind == b"multipart/form-data"
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > max_bytes + (OVERHEAD if form else 0):
        raise too_large(max_bytes)
    if not form:
        data = bytearray()
        async for chunk in _chunks(request, hold):
            if len(data) + len(chunk) > max_bytes:
                raise too_large(max_bytes)
            data += chunk
        return Upload(bytes(data))
    if not options.get(b"boundary"):
        raise RequestError("The Content-Type of the form names no boundary. Let your HTTP client set it.")
    reader = _FormReader(options[b"boundary"], max_bytes)
    total = 0
    async for chunk in _chunks(request, hold):
        total += len(chunk)
        if total > max_bytes + OVERHEAD:
            raise too_large(max_bytes)
        reader.feed(chunk)
    return reader.finish()


def too_large(max_bytes: int) -> AudioTooLargeError:
    return AudioTooLargeError(
        f"The recording has more than {max_bytes} bytes. Cut it, or compress it (FLAC, Opus).",
        max_bytes=max_bytes,
    )


async def _chunks(request: Request, hold: Callable[[int], None]) -> AsyncIterator[bytes]:
    """The body as it comes.

    Raises:
        HTTPException: 408 where it pauses for longer than `IDLE_SECONDS`, or has fallen as far behind `LEAST_PACE`.
    """
    stream = request.stream()
    loop = asyncio.get_running_loop()
    start, total = loop.time(), 0
    while True:
        latest = min(loop.time(), start + total / LEAST_PACE) + IDLE_SECONDS
        try:
            async with asyncio.timeout_at(latest):
                chunk = await anext(stream)
        except StopAsyncIteration:
            return
        except TimeoutError as error:
            raise HTTPException(
                408,
                f"No byte came for {IDLE_SECONDS:g} s, or fewer than {LEAST_PACE} a second. Send the recording again.",
            ) from error
        hold(len(chunk))
        total += len(chunk)
        yield chunk


class _FormReader:
    """Bytes of a form in, its one file out."""

    def __init__(self, boundary: bytes, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._data = bytearray()
        self._files = 0
        self._filename: str | None = None
        self._ended = False
        self._header, self._value = bytearray(), bytearray()
        self._disposition = b""
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._part_begins,
                    "on_header_field": lambda data, start, end: self._header.extend(data[start:end]),
                    "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
                    "on_header_end": self._header_ends,
                    "on_headers_finished": self._headers_end,
                    "on_part_data": self._part_goes_on,
                    "on_end": self._form_ends,
                },
            )
        except (MultipartParseError, ValueError) as error:
            raise _broken() from error

    def feed(self, chunk: bytes) -> None:
        try:
            self._parser.write(chunk)
        except MultipartParseError as error:
            raise _broken() from error

    def finish(self) -> Upload:
        if not self._ended:
            raise _broken()
        if not self._files:
            raise RequestError(
                f"The form has no file. Send the recording in the field {FIELD!r}.", field=FIELD
            )
        return Upload(bytes(self._data), self._filename)

    def _part_begins(self) -> None:
        self._disposition = b""

    def _header_ends(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = bytes(self._value)
        self._header.clear()
        self._value.clear()

    def _headers_end(self) -> None:
        _, options = parse_options_header(self._disposition)
        name = options.get(b"name", b"").decode("utf-8", "replace")
        if name != FIELD:
            raise RequestError(
                f"The form field {name!r} is not known. Send the recording in {FIELD!r}; options belong in the query string.",
                field=name,
            )
        self._files += 1
        if self._files > 1:
            raise RequestError("The form holds more than one file. Send one recording in each request.")
        given = options.get(b"filename", b"").decode("utf-8", "replace")
        # Some browsers send the whole path, of their own system's kind.
        name = printable(PurePosixPath(PureWindowsPath(given).name).name, "?")
        self._filename = name[:MOST_NAME].strip() or None

    def _part_goes_on(self, data: bytes, start: int, end: int) -> None:
        if len(self._data) + end - start > self._max_bytes:
            raise too_large(self._max_bytes)
        self._data += data[start:end]

    def _form_ends(self) -> None:
        self._ended = True


def _broken() -> RequestError:
    return RequestError(
        f"The form is broken or ends too early. Send the recording again in the field {FIELD!r}."
    )
