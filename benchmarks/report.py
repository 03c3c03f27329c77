"""What people and programs read: tables, verdicts, JSON. Derived from the rows of a run and from nothing else."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.benchmark import Benchmark, Metrics, Table, Unmeasured, Verdict, judge
from benchmarks.rows import Recorded
from voicevault.errors import RequestError

if TYPE_CHECKING:
    from rich.console import Console

BUSY = 0.5
"""Load average before a run from which its times are not the machine's own."""


@dataclass(frozen=True, slots=True)
class Report:
    """Everything derived from one run."""

    recorded: Recorded
    metrics: Metrics
    tables: Sequence[Table]
    verdicts: Sequence[Verdict]
    rows_path: Path
    plot_path: Path
    table_path: Path

    @property
    def failed(self) -> bool:
        return any(verdict.outcome == "fail" for verdict in self.verdicts)

    def as_json(self) -> dict[str, Any]:
        """JSON values: the run, its metrics (null with the reason beside where not measured), the bounds."""
        return {
            "benchmark": self.recorded.run["benchmark"],
            "run": self.recorded.run,
            "metrics": {k: v if not isinstance(v, Unmeasured) else None for k, v in self.metrics.items()},
            "not_measured": {k: v.reason for k, v in self.metrics.items() if isinstance(v, Unmeasured)},
            "bounds": [
                {
                    "name": v.bound.name,
                    "metric": v.bound.metric,
                    "value": v.value,
                    "at_least": v.bound.at_least,
                    "at_most": v.bound.at_most,
                    "unit": v.bound.unit,
                    "outcome": v.outcome,
                    "reason": v.reason,
                }
                for v in self.verdicts
            ],
            "rows": str(self.rows_path),
            "plot": str(self.plot_path),
            "table": str(self.table_path),
        }


def make_report(benchmark: Benchmark, recorded: Recorded, rows_path: Path) -> Report:
    """Derives everything; writes picture and table beside the rows, under the same name.

    Raises:
        RequestError: The rows are incomplete.
    """
    try:
        metrics = benchmark.metrics(recorded)
    except (LookupError, ArithmeticError, ValueError) as error:
        raise RequestError(
            f"{rows_path} does not hold all rows of a run: did it break off, or is it of another release?",
            path=str(rows_path),
        ) from error
    for name, value in metrics.items():
        if not isinstance(value, Unmeasured) and not math.isfinite(value):
            raise ValueError(f"the metric {name} of {benchmark.name} is {value}")
    report = Report(
        recorded,
        metrics,
        benchmark.tables(recorded),
        judge(benchmark.bounds, metrics),
        rows_path,
        rows_path.with_suffix(".png"),
        rows_path.with_suffix(".md"),
    )
    benchmark.plot(recorded, report.plot_path)
    tables = [*report.tables, *bound_tables(report)]
    text = "\n".join(
        [f"# {benchmark.name}: {benchmark.summary}\n\n{where(recorded)}\n", *map(markdown, tables)]
    )
    report.table_path.write_text(text, encoding="utf-8")
    return report


def where(recorded: Recorded) -> str:
    """One line: model, machine, revision, date; and what makes the numbers doubtful."""
    run, machine = recorded.run, recorded.run["machine"]
    model = f"model {run['model']['name']} ({run['model']['model_id'][:8]}) · " if run.get("model") else ""
    parts = f"{model}{machine['cpu']}, {machine['cores']} cores, {machine['memory_gb']} GB"
    if machine["gpu"]:
        parts += f", {', '.join(machine['gpu'])}"
    parts += f" · revision {machine['revision'] or 'unknown'} · {run['started']}"
    if run["quick"]:
        parts += " · quick run: too few repeats to judge by"
    if machine["load"] > BUSY:
        parts += f" · busy before the run (load {machine['load']:g}): judge no times by it"
    return parts


def bound_tables(report: Report) -> list[Table]:
    """The verdicts as a table; none where nothing is promised."""
    if not report.verdicts:
        return []
    rows = [
        (v.bound.name, "-" if v.value is None else v.value, v.bound.limit, v.outcome, v.reason or v.bound.why)
        for v in report.verdicts
    ]
    return [Table("Bounds", ("bound", "measured", "limit", "outcome", "why"), rows)]


def show(report: Report, console: Console) -> None:
    """Prints the tables, the verdicts and where the files are."""
    from rich.table import Table as Grid

    console.print()
    for table in [*report.tables, *bound_tables(report)]:
        grid = Grid(title=table.title, title_justify="left", caption=table.caption, caption_justify="left")
        for place, column in enumerate(table.columns):
            prose = place == 0 or column == "why"
            grid.add_column(column, justify="left" if prose else "right", no_wrap=not prose)
        for row in table.rows:
            style = "red" if "fail" in row else None
            grid.add_row(*(cell(value) for value in row), style=style)
        console.print(grid)
    console.print(where(report.recorded), style="dim", soft_wrap=True, highlight=False)
    console.print(f"rows {report.rows_path} · picture {report.plot_path}", style="dim", soft_wrap=True)


def markdown(table: Table) -> str:
    """The table in Markdown, with its title and caption."""
    lines = [f"## {table.title}", "", "| " + " | ".join(table.columns) + " |"]
    lines.append("|" + "|".join([" :-- "] + [" --: "] * (len(table.columns) - 1)) + "|")
    lines += ["| " + " | ".join(cell(value) for value in row) + " |" for row in table.rows]
    if table.caption:
        lines += ["", table.caption]
    return "\n".join([*lines, ""])


def cell(value: object) -> str:
    """Three significant digits for numbers, without exponents; texts as they are."""
    if value is None:
        return "-"
    if isinstance(value, Unmeasured):
        return "not measured"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    if value == 0:
        return "0"
    digits = max(2 - math.floor(math.log10(abs(value))), 0)
    return f"{value:,.{min(digits, 9)}f}"
