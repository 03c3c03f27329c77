"""How much is done at a time: bounded inferences, a bounded line behind them, small JSON bodies."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Message

from voicevault.errors import OverloadedError
from voicevault.service import uploads
from voicevault.service.uploads import Upload, read_recording

T = TypeVar("T")
MAX_JSON_BYTES = 1024 * 1024
LARGEST_HELD = 4
"""As many of the largest uploads may be in memory at a time; of smaller ones, as many as have places."""


class Inference:
    """Runs what embeds in threads: `concurrency` at a time, `queue` more may wait, the next is OVERLOADED.

    A request takes its place before its upload is read, and the bytes in memory are counted: who sends one too many, over all
    requests, is OVERLOADED too.
    """

    def __init__(self, concurrency: int, queue: int, max_bytes: int) -> None:
        self.places = concurrency + queue
        self.taken = 0
        self.running = 0
        self.held = 0
        """Bytes of uploads in memory."""
        self._most_held = LARGEST_HELD * (max_bytes + uploads.OVERHEAD)
        self._max_bytes = max_bytes
        self._threads = ThreadPoolExecutor(concurrency, thread_name_prefix="inference")
        self._free = asyncio.Semaphore(concurrency)

    async def on_recording(self, request: Request, call: Callable[[Upload], T]) -> T:
        """`call` in a thread with the recording that the request carries.

        Raises:
            OverloadedError: No place is left, or no room in memory.
            ClientDisconnect: The client went away while it waited; nothing was run.
            AudioTooLargeError, RequestError, HTTPException: See `uploads.read_recording`; and what `call` raises.
        """
        with self._place() as hold:
            recording = await read_recording(request, self._max_bytes, hold)
            async with self._free:
                if await request.is_disconnected():
                    raise ClientDisconnect
                self.running += 1
                try:
                    return await asyncio.get_running_loop().run_in_executor(self._threads, call, recording)
                finally:
                    self.running -= 1

    @contextmanager
    def _place(self) -> Iterator[Callable[[int], None]]:
        """A place, and what to call with the number of bytes that are kept there; they are let go of with it."""
        if self.taken >= self.places:
            raise OverloadedError(
                f"{self.places} recordings are being worked on. Try again soon.", places=self.places
            )
        here = 0

        def hold(count: int) -> None:
            nonlocal here
            if self.held + count > self._most_held:
                raise OverloadedError(
                    f"Uploads of {self.held} bytes are in memory, and {self._most_held} may be. Try again soon.",
                    held=self.held,
                    most=self._most_held,
                )
            here += count
            self.held += count

        self.taken += 1
        try:
            yield hold
        finally:
            self.taken -= 1
            self.held -= here

    def close(self) -> None:
        """Begins nothing more. What still runs is not waited for: nobody waits for its answer, and a decoder may hang."""
        self._threads.shutdown(wait=False, cancel_futures=True)


class SmallBodyRoute(APIRoute):
    """A route whose body is JSON, or nothing: reading stops beyond `MAX_JSON_BYTES` with 413, and with 408 where it pauses
    as long as no upload may."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def limited(request: Request) -> Response:
            total = 0

            async def receive() -> Message:
                nonlocal total
                try:
                    async with asyncio.timeout(uploads.IDLE_SECONDS):
                        message = await request.receive()
                except TimeoutError as error:
                    raise HTTPException(
                        408, f"No byte came for {uploads.IDLE_SECONDS:g} s. Send the request again."
                    ) from error
                total += len(message.get("body", b""))
                if total > MAX_JSON_BYTES:
                    raise HTTPException(413, f"The body of this path may have {MAX_JSON_BYTES} bytes.")
                return message

            return await handler(Request(request.scope, receive))

        return limited
