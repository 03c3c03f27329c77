"""The cores that one search may use: parts of it side by side, where cores are free."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock, Semaphore
from typing import TypeVar

T = TypeVar("T")


class Crew:
    """Runs the parts of a search on the calling thread and on helpers, of all searches together on no more threads than
    `cores`. Thread-safe; threads begin when they are first needed.

    A helper is asked for only while a core is free, and what it has not begun when the caller is done with its own part
    the caller does too: a busy machine costs no more than one thread alone would.

    Args:
        cores: At least 1; with 1, the calling thread does everything.
    """

    def __init__(self, cores: int = 1) -> None:
        self.cores = cores
        self._free = Semaphore(cores)
        self._lock = Lock()
        self._threads: ThreadPoolExecutor | None = None

    def run(self, parts: Sequence[Callable[[], T]]) -> list[T]:
        """What the parts return, in their order. Waits for a free core first; what a part raises is raised."""
        found: dict[int, T] = {}
        left = deque(enumerate(parts))

        def work() -> None:
            while left:
                try:
                    number, part = left.popleft()
                except IndexError:  # another thread was faster
                    return
                found[number] = part()

        with self._free:
            helpers = self._helpers(len(parts) - 1, work)
            try:
                work()
            finally:
                for helper in helpers:
                    if helper.cancel():
                        self._free.release()
                failures = [
                    helper.exception() for helper in helpers if not helper.cancelled()
                ]  # when they are done
        for failure in filter(None, failures):
            raise failure
        return [found[number] for number in range(len(parts))]

    def close(self) -> None:
        """Ends the threads; nothing may run any more."""
        with self._lock:
            if self._threads is not None:
                self._threads.shutdown()
                self._threads = None

    def _helpers(self, most: int, work: Callable[[], None]) -> list[Future[None]]:
        helpers: list[Future[None]] = []
        while len(helpers) < most and self._free.acquire(blocking=False):
            with self._lock:
                if self._threads is None:
                    self._threads = ThreadPoolExecutor(self.cores - 1, thread_name_prefix="voicevault-search")
                helpers.append(self._threads.submit(self._help, work))
        return helpers

    def _help(self, work: Callable[[], None]) -> None:
        try:
            work()
        finally:
            self._free.release()
