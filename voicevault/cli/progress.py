"""How far an import is: a bar in a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from rich.console import Console

    from voicevault.types import RowOutcome

LINE_EVERY = 10.0
"""Seconds between lines where there is no terminal."""


class Progress:
    """Counts recordings, with their rate and the time that is left; use it as a context manager."""

    def __init__(self, console: Console, total: int) -> None:
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            TextColumn,
            TimeRemainingColumn,
        )
        from rich.progress import Progress as Bar

        self._console, self._total = console, total
        self._done = self._rejected = 0
        self._first: float | None = None
        self._told = time.monotonic()
        self._bar = Bar(
            TextColumn("Enrolling"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[rejected]}"),
            console=console,
            disable=not console.is_terminal,
            transient=True,
            expand=True,
        )
        self._task = self._bar.add_task("", total=total, rate="", rejected="")

    @property
    def rate(self) -> float | None:
        """Recordings per second, without the time until the first was done (the model loads, processes start)."""
        if self._first is None or self._done < 2:
            return None
        return (self._done - 1) / max(time.monotonic() - self._first, 1e-9)

    def done(self, outcome: RowOutcome) -> None:
        """One recording more."""
        now = time.monotonic()
        self._first = self._first or now
        self._done += 1
        self._rejected += outcome.status == "rejected"
        rate = self.rate
        speed = f"{rate:.1f}/s" if rate else ""
        refused = f"{self._rejected} rejected" if self._rejected else ""
        self._bar.update(self._task, completed=self._done, rate=speed, rejected=refused)
        if not self._console.is_terminal and now - self._told >= LINE_EVERY:
            self._told = now
            left = f"{(self._total - self._done) / rate:.0f} s left" if rate else ""
            parts = [f"{self._done} of {self._total} recordings", speed, left, refused]
            self._console.print(", ".join(part for part in parts if part), soft_wrap=True)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()
