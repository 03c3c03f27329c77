"""A lock for many readers or one writer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from threading import Condition, Lock


class ReadWriteLock:
    """Readers share it, a writer has it alone. A waiting writer goes first, so that busy readers cannot
    starve it.

    Not reentrant: a thread that reads must not read or write again before it is done.
    """

    def __init__(self) -> None:
        self._mutex = Lock()
        self._changed = Condition(self._mutex)
        self._readers = 0
        self._writers_waiting = 0
        self._writing = False
        self._reading = _Reading(self)

    def read(self) -> AbstractContextManager[None]:
        return self._reading

    @contextmanager
    def write(self) -> Iterator[None]:
        with self._changed:
            self._writers_waiting += 1
            try:
                self._changed.wait_for(lambda: not self._writing and not self._readers)
                self._writing = True
            finally:
                self._writers_waiting -= 1
                self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._writing = False
                self._changed.notify_all()


class _Reading:
    """One for all readers: a search is too short to make a generator for, or to take the lock by way of the condition."""

    def __init__(self, lock: ReadWriteLock) -> None:
        self._lock = lock

    def __enter__(self) -> None:
        lock = self._lock
        with lock._mutex:
            while lock._writing or lock._writers_waiting:
                lock._changed.wait()
            lock._readers += 1

    def __exit__(self, *_: object) -> None:
        lock = self._lock
        with lock._mutex:
            lock._readers -= 1
            if lock._writers_waiting and not lock._readers:
                lock._changed.notify_all()
