from __future__ import annotations

import io

import pytest
from rich.console import Console

from voicevault.cli import progress
from voicevault.types import RowOutcome


def test_lines_with_rate_and_time_left_where_there_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    told = io.StringIO()
    with progress.Progress(Console(file=told, width=80), 100) as bar:
        for number in range(1, 51):
            now += 0.5
            bar.done(RowOutcome(f"{number}.wav", "ada", "rejected" if number == 3 else "enrolled"))
    assert told.getvalue().splitlines() == [
        "20 of 100 recordings, 2.0/s, 0:00:40 left, 1 rejected",
        "40 of 100 recordings, 2.0/s, 0:00:30 left, 1 rejected",
    ]


def test_a_bar_in_a_terminal() -> None:
    told = io.StringIO()
    with progress.Progress(Console(file=told, width=80, force_terminal=True), 2) as bar:
        bar.done(RowOutcome("1.wav", "ada", "enrolled"))
        bar.done(RowOutcome("2.wav", "ada", "enrolled"))
    assert "2/2" in told.getvalue() and "left" in told.getvalue()
