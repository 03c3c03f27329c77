"""uvicorn's HTTP protocol, with an end to what one request may send beside its body."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD = 64 * 1024
"""Bytes of the request line and headers, or of the trailers behind a chunked body, beyond the first read."""
HEAD_SECONDS = 30.0
"""How long a connection may take for the head of a request, from its beginning or from the end of the last answer."""


class HttpProtocol(HttpToolsProtocol):
    """Closes a connection whose head does not end, in bytes or in time.

    The parser sets no limit of its own: it keeps a header that never ends, and copies it again with each piece, so that
    one client would take the event loop and the memory from all others. Nor does uvicorn limit the time: who opens
    connections and sends next to nothing would take all that the process may have.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._waiting = 0
        """Bytes since the request last came further."""
        self._further = False
        self._late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_came()
        super().connection_lost(exc)

    def _await_head(self) -> None:
        self._head_came()
        self._late = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def _head_came(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        self._further = False
        super().data_received(data)
        self._waiting = 0 if self._further else self._waiting + len(data)
        if self._waiting > MAX_HEAD:
            self.logger.warning("A request with too long a head was cut off.")
            if self.cycle is None or self.cycle.response_complete:
                self.send_400_response("The head of the request is too long.")
            else:
                self.transport.close()

    def on_message_begin(self) -> None:
        self._further = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._further = True
        self._head_came()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._further = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._further = True
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        none_waits = self.cycle.response_complete  # the newest request is answered
        if none_waits and not self.transport.is_closing():
            self._await_head()
