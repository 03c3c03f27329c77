"""Named threads for work that no answer waits for."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Event, Lock

log = logging.getLogger(__name__)


class Background:
    """One thread per name, begun when it is first needed; what it is given runs one after the other.

    A failure is logged. `stop` is set by `close`, for work that takes long.
    """

    def __init__(self) -> None:
        self.stop = Event()
        self._lock = Lock()
        self._threads: dict[str, ThreadPoolExecutor] = {}

    def later(self, thread: str, work: Callable[[], None]) -> None:
        """Has `work` done by the thread of this name; after `close`, not at all."""
        with self._lock:
            if self.stop.is_set():
                return
            if thread not in self._threads:
                self._threads[thread] = ThreadPoolExecutor(1, thread_name_prefix=f"voicevault-{thread}")
            self._threads[thread].submit(_logged, work)

    def close(self) -> None:
        """Waits for what runs and drops what waits."""
        with self._lock:
            self.stop.set()
        for threads in self._threads.values():
            threads.shutdown(wait=True, cancel_futures=True)


def _logged(work: Callable[[], None]) -> None:
    try:
        work()
    except Exception:
        log.exception("the upkeep of an index failed; answers do not depend on it")
