"""The cores that one search may use: parts of it side by side, where cores are free.

Queues and locks are those that CPython has in C. A search takes a millisecond or two, and a thread pool's futures, whose code
is out of the caches by the time a lone search comes, would add a tenth of that.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from typing import TypeVar
from weakref import finalize

T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class _Errand:
    """Work for one helper. Whoever gets hold of `taken` does it, or sees to it that nobody does; how it ended is put into
    `ended`: with nothing, or with what was raised."""

    work: Callable[[], None]
    ended: SimpleQueue[BaseException | None]
    taken: Lock = field(default_factory=Lock)


class Crew:
    """Runs the parts of a search on the calling thread and on helpers, of all searches together on no more threads than
    `cores`. Thread-safe; threads begin when they are first needed, and end when the crew is closed or forgotten.

    A helper is asked for only while a core is free, and what it has not begun when the caller is done with its own part
    the caller does too: a busy machine costs no more than one thread alone would.

    Args:
        cores: At least 1; with 1, the calling thread does everything.
    """

    def __init__(self, cores: int = 1) -> None:
        self.cores = cores
        self._free: SimpleQueue[None] = SimpleQueue()
        for _ in range(cores):
            self._free.put(None)
        self._errands: SimpleQueue[_Errand | None] = SimpleQueue()
        self._starting = Lock()
        self._threads: list[Thread] = []

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

        ended: SimpleQueue[BaseException | None] = SimpleQueue()
        self._free.get()
        errands = self._send(len(parts) - 1, work, ended)
        try:
            work()
        finally:
            begun = [errand for errand in errands if not errand.taken.acquire(blocking=False)]
            failures = [ended.get() for _ in begun]
            for _ in range(1 + len(errands) - len(begun)):
                self._free.put(None)
        for failure in failures:
            if failure is not None:
                raise failure
        return [found[number] for number in range(len(parts))]

    def close(self) -> None:
        """Ends the threads; nothing may run any more."""
        with self._starting:
            if self._threads:
                self._end()
            for thread in self._threads:
                thread.join()
            self._threads = []

    def _send(
        self, most: int, work: Callable[[], None], ended: SimpleQueue[BaseException | None]
    ) -> list[_Errand]:
        errands: list[_Errand] = []
        while len(errands) < most:
            try:
                self._free.get_nowait()
            except Empty:
                break
            errand = _Errand(work, ended)
            self._errands.put(errand)
            errands.append(errand)
        if errands and not self._threads:
            self._start()
        return errands

    def _start(self) -> None:
        with self._starting:
            if not self._threads:
                own = (self._errands, self._free)  # not the crew, which could not be forgotten then
                self._threads = [
                    Thread(target=_help, args=own, name=f"voicevault-search-{number}", daemon=True)
                    for number in range(1, self.cores)
                ]
                self._end = finalize(self, _end, self._errands, len(self._threads))
                for thread in self._threads:
                    thread.start()


def _help(errands: SimpleQueue[_Errand | None], free: SimpleQueue[None]) -> None:
    while (errand := errands.get()) is not None:
        if errand.taken.acquire(blocking=False):
            failure = None
            try:
                errand.work()
            except BaseException as error:  # the caller raises it
                failure = error
            free.put(None)
            errand.ended.put(failure)
        del errand  # it knows what it searched


def _end(errands: SimpleQueue[_Errand | None], threads: int) -> None:
    for _ in range(threads):
        errands.put(None)
