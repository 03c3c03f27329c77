"""Prepared recordings on their way to the encoder: bounded in memory, handed out in batches of like length."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from threading import Condition

from voicevault.bulk.stages import Prepared
from voicevault.types import SAMPLE_RATE

WINDOWS = 4
"""Batches' worth of recordings that are sorted by length together, at least, and that one thread embeds before a second one
joins it: side by side they wait for Python's lock, and a core that changes hands is idle for up to 4 ms, as measured."""
SECONDS = 10.0
"""Seconds of speech that there is room for, per recording that there is room for."""


class Pool:
    """Where decoding threads put recordings and embedding threads take batches of them.

    There is room for two windows, one that fills and one that is embedded; a recording counts until it is
    embedded. Full is also what holds too many seconds, so that long recordings take no more memory than
    short ones; those that are being decoded when it fills may be of any length.

    Args:
        batch: Most recordings of a batch.
        takers: How many threads take batches.
        putters: How many threads put recordings.
    """

    def __init__(self, batch: int, takers: int, putters: int) -> None:
        self._batch, self._takers, self._putters = batch, takers, putters
        self._window = batch * max(WINDOWS, takers)
        self._most = 2 * self._window
        self._most_seconds = SECONDS * self._most
        self._waiting: list[Prepared] = []
        self._batches: deque[list[Prepared]] = deque()
        self._count, self._seconds, self._waiting_seconds = 0, 0.0, 0.0
        self._taken = 0
        self._stopped = False
        self._changed = Condition()

    def room(self, wait: bool) -> bool:
        """Whether there is room for one more, or, with `wait`, once there is; False where the pool was stopped."""
        with self._changed:
            if wait:
                self._changed.wait_for(lambda: self._stopped or self._has_room())
            return not self._stopped and self._has_room()

    def put(self, item: Prepared) -> None:
        """Never waits: ask for room before a recording is decoded."""
        with self._changed:
            self._waiting.append(item)
            self._waiting_seconds += _seconds(item)
            self._count += 1
            self._seconds += _seconds(item)
            # Else there is nothing that anybody waits for.
            if self._due() or self._count == 1 or not self._has_room():
                self._changed.notify_all()

    def finished(self) -> None:
        """One thread less will put something."""
        with self._changed:
            self._putters -= 1
            self._changed.notify_all()

    def expects(self) -> bool:
        """Waits until something is there; False where nothing comes."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or self._count or not self._putters)
            return not self._stopped and self._count > 0

    def take(self) -> list[Prepared] | None:
        """The next batch, longest first of its window; None once there is nothing to come.

        There is one for another thread where those that embed have more than a window before them, where there is no room, so
        that nothing else can be done, or at the end.
        """
        with self._changed:
            while not self._stopped:
                if (batch := self._next()) is not None:
                    return batch
                if not self._putters:
                    return None
                self._changed.wait()
            return None

    def done(self, batch: Sequence[Prepared]) -> None:
        """A batch that was taken is embedded and makes room."""
        with self._changed:
            self._taken -= 1
            self._count -= len(batch)
            self._seconds -= sum(map(_seconds, batch))
            self._changed.notify_all()

    def exchange(self, batch: Sequence[Prepared]) -> list[Prepared] | None:
        """A batch that was taken is embedded; -> the next one, where there is one now."""
        with self._changed:
            self.done(batch)
            return self._next()

    def stop(self) -> None:
        """Nobody waits any longer."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def _next(self) -> list[Prepared] | None:
        if self._waiting and self._due():
            self._cut()
        enough = len(self._batches) > WINDOWS * self._taken or not self._putters or not self._has_room()
        if self._stopped or not self._batches or not enough:
            return None
        self._taken += 1
        self._changed.notify_all()
        return self._batches.popleft()

    def _has_room(self) -> bool:
        return self._count < self._most and self._seconds < self._most_seconds

    def _due(self) -> bool:
        enough = self._waiting_seconds >= self._most_seconds / 2
        return len(self._waiting) >= self._window or enough or not self._putters

    def _cut(self) -> None:
        """Sorts what waits into batches; the last window is shared out among all who take."""
        self._waiting.sort(key=lambda item: len(item.recording.samples), reverse=True)
        size = min(self._batch, -(-len(self._waiting) // self._takers))
        self._batches.extend(self._waiting[i : i + size] for i in range(0, len(self._waiting), size))
        self._waiting, self._waiting_seconds = [], 0.0


def _seconds(item: Prepared) -> float:
    return len(item.recording.samples) / SAMPLE_RATE
