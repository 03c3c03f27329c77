"""What a benchmark is made of: options, a measurement that appends rows, and what is derived from the rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.rows import Recorded, Rows
from voicevault.errors import RequestError

if TYPE_CHECKING:
    from rich.progress import Progress


def option(default: Any, help: str, *, least: float = 1) -> Any:
    """A field of an options class: its default, what ``--help`` says, and the least number it may be.

    A tuple takes several values.
    """
    return field(default=default, metadata={"help": help, "least": least})


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What every benchmark can be told; each has a subclass with options of its own.

    Raises:
        RequestError: A number is too small, or there is none where several are taken.
    """

    model: str = option("default", "model folder, or the name of an installed model")
    voices: Path | None = option(
        None, "recordings to measure with: a folder speaker/recording or a manifest (default: bundled voices)"
    )
    seed: int = option(0, "seed of everything that is drawn at random", least=0)

    def __post_init__(self) -> None:
        for one in dataclasses.fields(self):
            value, least = getattr(self, one.name), one.metadata["least"]
            numbers = value if isinstance(value, tuple) else (value,)
            if not numbers or any(isinstance(n, int | float) and not n >= least for n in numbers):
                flag = one.name.replace("_", "-")
                raise RequestError(f"--{flag} must be {least:g} or more.", option=one.name, least=least)


@dataclass(frozen=True, slots=True)
class Unmeasured:
    """Stands for a metric that cannot be had here, and why: a missing peer, another size. Fails no bound."""

    reason: str


Metrics = Mapping[str, float | Unmeasured]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """A metric and the limit that it is held to. Exactly one of `at_least` and `at_most` is given.

    Attributes:
        name: What is promised, in a few words.
        metric: Key of the derived metrics; a bound whose metric is missing there fails.
        unit: Of metric and limit; ``x`` for ratios.
        why: Where the limit comes from.
    """

    name: str
    metric: str
    unit: str
    at_least: float | None = None
    at_most: float | None = None
    why: str = ""

    def __post_init__(self) -> None:
        if (self.at_least is None) == (self.at_most is None):
            raise ValueError(f"the bound {self.name!r} needs at_least or at_most, one of them")

    @property
    def limit(self) -> str:
        """The limit as people write it."""
        if self.at_least is not None:
            return f">= {self.at_least:g} {self.unit}".rstrip()
        return f"<= {self.at_most:g} {self.unit}".rstrip()

    def holds(self, value: float) -> bool:
        """Whether `value` keeps the limit; NaN never does."""
        if self.at_least is not None:
            return value >= self.at_least
        assert self.at_most is not None
        return value <= self.at_most


@dataclass(frozen=True, slots=True)
class Verdict:
    """A bound beside what was measured: ``pass``, ``fail`` or ``not measured``."""

    bound: Bound
    value: float | None
    outcome: str
    reason: str = ""


def judge(bounds: Sequence[Bound], metrics: Metrics) -> list[Verdict]:
    """Each bound against the derived metrics. A metric that nobody derived fails its bound."""
    verdicts = []
    for bound in bounds:
        value = metrics.get(bound.metric)
        if value is None:
            verdicts.append(Verdict(bound, None, "fail", f"the rows give no {bound.metric}"))
        elif isinstance(value, Unmeasured):
            verdicts.append(Verdict(bound, None, "not measured", value.reason))
        else:
            verdicts.append(Verdict(bound, value, "pass" if bound.holds(value) else "fail"))
    return verdicts


@dataclass(frozen=True, slots=True)
class Table:
    """A table of texts for people; the first column is aligned left, the others right.

    Cells that are numbers are shown with three significant digits.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[object]]
    caption: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark:
    """A named measurement.

    Attributes:
        name: What it is called on the command line.
        summary: One line.
        options: Subclass of `Options`.
        measure: Appends raw rows; shows its progress in the given rich Progress. Everything heavy loads here.
        metrics: Rows -> named numbers. This and what follows see nothing but the rows.
        tables: Rows -> tables.
        plot: Rows -> a PNG at the given path.
        bounds: What is promised.
        quick: Values of options for ``--quick``: all of the code, in seconds.
        uses_model: Whether the run belongs to a model, which is then recorded.
        default: Whether it belongs to the default set.
    """

    name: str
    summary: str
    options: type[Options]
    measure: Callable[[Any, Rows, Progress], None]
    metrics: Callable[[Recorded], Metrics]
    tables: Callable[[Recorded], Sequence[Table]]
    plot: Callable[[Recorded, Path], None]
    bounds: Sequence[Bound]
    quick: Mapping[str, Any]
    uses_model: bool = True
    default: bool = True

    def __post_init__(self) -> None:
        unknown = self.quick.keys() - {f.name for f in dataclasses.fields(self.options)}
        if unknown:
            raise ValueError(f"{self.name} has no option {', '.join(sorted(unknown))}")
