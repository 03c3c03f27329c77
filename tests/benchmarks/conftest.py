"""A benchmark that measures nothing but the sum of numbers, for the tests of the frame."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.progress import Progress

from benchmarks import command
from benchmarks.benchmark import Benchmark, Bound, Metrics, Options, Table, Unmeasured, option
from benchmarks.plots import new_figure, save
from benchmarks.rows import Recorded, Rows
from voicevault.errors import RequestError


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SumOptions(Options):
    numbers: tuple[int, ...] = option((1, 2, 3), "what to add up", least=0)
    scale: float = option(1.0, "factor", least=0.5)
    note: Path | None = option(None, "a path")
    loud: bool = option(False, "say it aloud", least=0)


def measure(options: SumOptions, rows: Rows, progress: Progress) -> None:
    for number in progress.track(options.numbers):
        rows.append("number", value=number * options.scale)


def metrics(recorded: Recorded) -> Metrics:
    return {"sum": sum(recorded.values("value", "number")), "peer": Unmeasured("the peer is not installed")}


def tables(recorded: Recorded) -> Sequence[Table]:
    return [Table("Numbers", ("value",), [(value,) for value in recorded.values("value", "number")])]


def plot(recorded: Recorded, path: Path) -> None:
    figure, (axes,) = new_figure(3.0, 2.0)
    axes.plot(recorded.values("value", "number"))
    save(figure, path)


BOUNDS = (
    Bound(name="small sum", metric="sum", at_most=10.0, unit="", why="of old"),
    Bound(name="faster than the peer", metric="peer", at_least=2.0, unit="x"),
)

MakeBenchmark = Callable[..., Benchmark]


@pytest.fixture
def sums(monkeypatch: pytest.MonkeyPatch) -> MakeBenchmark:
    """(bounds) -> the benchmark, which the command line then knows as the only one, called ``sum``."""

    def make(bounds: Sequence[Bound] = BOUNDS, **changes: Any) -> Benchmark:
        given: Mapping[str, Any] = {
            "name": "sum", "summary": "adds up", "options": SumOptions, "measure": measure, "metrics": metrics,
            "tables": tables, "plot": plot, "bounds": bounds, "quick": {"numbers": (1,)}, "uses_model": False,
            **changes,
        }  # fmt: skip
        made = Benchmark(**given)

        def find(name: str) -> Benchmark:
            if name != "sum":
                raise RequestError(f"There is no benchmark {name!r}.")
            return made

        monkeypatch.setattr(command, "find", find)
        monkeypatch.setattr(command, "all_benchmarks", lambda: [made])
        return made

    return make
