"""Permits to compute: as many as there are cores."""

from __future__ import annotations

from collections import deque
from threading import Lock
from typing import Self


class Permits:
    """Given out first come first served: who gives one back and wants it again at once does not overtake those who wait."""

    def __init__(self, count: int) -> None:
        self._free = count
        self._waiting: deque[tuple[Lock, bool]] = deque()
        self._asking = 0
        self._lock = Lock()

    @property
    def wanted(self) -> bool:
        """Whether somebody waits who asks for one."""
        return self._asking > 0

    def acquire(self, asks: bool) -> None:
        """`asks` is for those who do not want to wait until somebody is through: see `wanted`."""
        with self._lock:
            if self._free:
                self._free -= 1
                return
            turn = Lock()
            turn.acquire()
            self._waiting.append((turn, asks))
            self._asking += asks
        turn.acquire()

    def release(self) -> None:
        with self._lock:
            if self._waiting:
                turn, asks = self._waiting.popleft()
                self._asking -= asks
                turn.release()
            else:
                self._free += 1


class Permit:
    """A permit that is held inside a ``with``, or until it is let go of."""

    def __init__(self, permits: Permits, asks: bool = False) -> None:
        self._permits, self._asks, self._held = permits, asks, False

    def hold(self) -> None:
        """Waits for one, unless it is held."""
        if not self._held:
            self._permits.acquire(self._asks)
            self._held = True

    def let_go(self) -> None:
        if self._held:
            self._held = False
            self._permits.release()

    def __enter__(self) -> Self:
        self.hold()
        return self

    def __exit__(self, *_: object) -> None:
        self.let_go()
