"""Named threads for work that no answer waits for."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import suppress
from threading import Event, Lock, get_native_id

log = logging.getLogger(__name__)

_NICE = 5
"""Added to the niceness of these threads: an answer that comes gets its core at once. No more, because a thread that
holds the interpreter and gets no core keeps all others waiting."""


class Background:
    """One thread per name, begun when it is first needed; what it is given runs one after the other, where the system can
    do that at a lower priority than the answers.

    `stop` is set by `close`, for work that takes long.
    """

    def __init__(self) -> None:
        self.stop = Event()
        self._lock = Lock()
        self._threads: dict[str, ThreadPoolExecutor] = {}

    def later(self, thread: str, work: Callable[[], None]) -> None:
        """Has `work` done by the thread of this name; after `close`, not at all. A failure is logged."""
        with self._lock:
            if not self.stop.is_set():
                self._thread(thread).submit(_logged, work)

    def now(self, thread: str, work: Callable[[], None]) -> None:
        """Has `work` done by the thread of this name, and waits for it; what it raises is raised.

        Raises:
            CancelledError: Closed before it was begun.
        """
        with self._lock:
            if self.stop.is_set():
                raise CancelledError
            done = self._thread(thread).submit(work)
        done.result()

    def close(self) -> None:
        """Waits for what runs and drops what waits."""
        with self._lock:
            self.stop.set()
        for threads in self._threads.values():
            threads.shutdown(wait=True, cancel_futures=True)

    def _thread(self, name: str) -> ThreadPoolExecutor:
        if name not in self._threads:
            self._threads[name] = ThreadPoolExecutor(
                1, thread_name_prefix=f"voicevault-{name}", initializer=_give_way
            )
        return self._threads[name]


def _give_way() -> None:
    if sys.platform == "linux":  # where threads have a priority of their own
        with suppress(OSError):
            own = get_native_id()
            os.setpriority(os.PRIO_PROCESS, own, os.getpriority(os.PRIO_PROCESS, own) + _NICE)


def _logged(work: Callable[[], None]) -> None:
    try:
        work()
    except Exception:
        log.exception("the upkeep of an index failed; answers do not depend on it")
