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
        )
        from rich.progress import Progress as Bar

        self._console, self._total = console, total
        self._done = self._rejected = 0
        self._start = self._told = time.monotonic()
        self._bar = Bar(
            TextColumn("Enrolling"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TextColumn("{task.fields[left]}"),
            TextColumn("{task.fields[rejected]}"),
            console=console,
            disable=not console.is_terminal,
            transient=True,
            expand=True,
        )
        self._task = self._bar.add_task("", total=total, rate="", left="", rejected="")

    def done(self, outcome: RowOutcome) -> None:
        """One recording more."""
        now = time.monotonic()
        self._done += 1
        self._rejected += outcome.status == "rejected"
        # Over the whole run: recordings come in batches, so that the rate of the last moment says little.
        rate = self._done / max(now - self._start, 1e-9)
        left = self._left(rate)
        refused = f"{self._rejected} rejected" if self._rejected else ""
        self._bar.update(self._task, completed=self._done, rate=f"{rate:.1f}/s", left=left, rejected=refused)
        if not self._console.is_terminal and now - self._told >= LINE_EVERY:
            self._told = now
            parts = [f"{self._done} of {self._total} recordings", f"{rate:.1f}/s", left, refused]
            self._console.print(", ".join(part for part in parts if part), soft_wrap=True)

    def _left(self, rate: float) -> str:
        """The time that is left; nothing while the start, when models load, outweighs what is done."""
        if self._done < min(100, self._total / 20):
            return ""
        minutes, seconds = divmod(round((self._total - self._done) / rate), 60)
        hours, minutes = divmod(minutes, 60)
        return f"{hours}:{minutes:02}:{seconds:02} left"

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()
