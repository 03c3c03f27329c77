"""The command line: which benchmarks, with which options, and what becomes of the results."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import typing
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any

from benchmarks.benchmark import Benchmark, Options
from benchmarks.machine import describe_machine
from benchmarks.registry import NAMES, all_benchmarks, find
from benchmarks.report import Report, make_report, show
from benchmarks.rows import Rows, read_rows
from voicevault.errors import VoicevaultError

if TYPE_CHECKING:
    from rich.console import Console

GATE_FAILED = 1


def main(arguments: Sequence[str]) -> int:
    """Runs what the arguments ask for and returns the exit status.

    0: done, and with ``--gate`` every bound holds. 1: ``--gate``, and one does not. 2: the arguments are
    wrong. 130: interrupted. Others: the exit code of the error (`voicevault.errors`).
    """
    names = []
    for argument in arguments:
        if argument.startswith("-"):
            break
        names.append(argument)
    rest = list(arguments[len(names) :])
    try:
        if names[:1] == ["render"]:
            return _render(names[1:], rest)
        return _run(names, rest)
    except VoicevaultError as error:
        print(f"benchmarks: {error.message}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("benchmarks: interrupted; the rows so far are kept", file=sys.stderr)
        return 130


def _run(names: Sequence[str], arguments: Sequence[str]) -> int:
    chosen = [find(name) for name in names] or [b for b in all_benchmarks() if b.default]
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks [NAME...]",
        description="Measures this machine and model: the named benchmarks, or the default set."
        f" Names: {', '.join(NAMES)}. `python -m benchmarks render FILE` derives everything from rows anew.",
    )
    parser.add_argument("--list", action="store_true", help="name the benchmarks and leave")
    parser.add_argument("--quick", action="store_true", help="few repeats and small sizes: does it run?")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/benchmarks"), help="folder of rows, tables and pictures"
    )
    _add_report_options(parser)
    add_options(parser, [benchmark.options for benchmark in chosen] if names else [Options])
    given = vars(parser.parse_args(arguments))
    common = {name: given.pop(name) for name in ("list", "quick", "out", "gate", "json")}
    if common["list"]:
        for benchmark in all_benchmarks():
            print(f"{benchmark.name:10} {benchmark.summary}{'' if benchmark.default else ' (only by name)'}")
        return 0
    plans = [(benchmark, make_options(benchmark, given, common["quick"])) for benchmark in chosen]
    reports = []
    for benchmark, options in plans:
        report = run_benchmark(benchmark, options, common["out"], quick=common["quick"])
        reports.append(report)
        if not common["json"]:
            show(report, _console())
    return _finish(reports, gate=common["gate"], as_json=common["json"])


def _render(files: Sequence[str], arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks render", description="Tables, picture and verdicts from rows files."
    )
    parser.add_argument("files", nargs="+", type=Path, help="rows files (.jsonl)")
    _add_report_options(parser)
    given = parser.parse_args([*files, *arguments])
    reports = []
    for path in given.files:
        recorded = read_rows(path)
        report = make_report(find(recorded.run["benchmark"]), recorded, path)
        reports.append(report)
        if not given.json:
            show(report, _console())
    return _finish(reports, gate=given.gate, as_json=given.json)


def _add_report_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--gate", action="store_true", help="exit with 1 where a bound does not hold")
    parser.add_argument("--json", action="store_true", help="print the results as JSON instead of tables")


def _finish(reports: Sequence[Report], *, gate: bool, as_json: bool) -> int:
    if as_json:
        print(json.dumps([report.as_json() for report in reports], indent=2, ensure_ascii=False))
    if not gate:
        return 0
    outcomes = [verdict.outcome for report in reports for verdict in report.verdicts]
    failed, passed = outcomes.count("fail"), outcomes.count("pass")
    line = f"gate: {passed} bounds hold, {failed} do not, {outcomes.count('not measured')} were not measured"
    print(line, file=sys.stderr)
    # Where nothing was measured, nothing was shown to hold.
    return GATE_FAILED if failed or not passed else 0


def run_benchmark(benchmark: Benchmark, options: Options, out: Path, *, quick: bool = False) -> Report:
    """Measures into a new rows file under `out`, and derives the report from that file."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    started = datetime.now(UTC)
    run = {
        "run": f"{benchmark.name}-{started:%Y%m%dT%H%M%S}-{started.microsecond:06d}",
        "benchmark": benchmark.name,
        "started": started.isoformat(timespec="seconds"),
        "quick": quick,
        "options": {k: _plain(v) for k, v in dataclasses.asdict(options).items()},
        "machine": describe_machine(),
        "model": _model(options) if benchmark.uses_model else None,
    }
    progress = Progress(
        TextColumn("[bold]" + benchmark.name), TextColumn("{task.description}"), BarColumn(),
        MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("ETA"), TimeRemainingColumn(),
        console=Console(stderr=True),
    )  # fmt: skip
    with Rows(out / f"{run['run']}.jsonl", run) as rows, progress:
        benchmark.measure(options, rows, progress)
    return make_report(benchmark, read_rows(rows.path), rows.path)


def _model(options: Options) -> dict[str, Any]:
    from benchmarks.workbench import model_path
    from voicevault.encoder import read_identity

    return dataclasses.asdict(read_identity(model_path(options)))


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value


def _console() -> Console:
    from rich.console import Console

    found = Console()
    return found if found.is_terminal else Console(width=max(found.width, 140))


def make_options(benchmark: Benchmark, given: dict[str, Any], quick: bool) -> Options:
    """Options of a benchmark: what was given, else the quick values where wanted, else the defaults."""
    names = {f.name for f in dataclasses.fields(benchmark.options)}
    chosen = {**(benchmark.quick if quick else {}), **{k: v for k, v in given.items() if k in names}}
    return benchmark.options(**chosen)


def add_options(parser: argparse.ArgumentParser, classes: Sequence[type[Options]]) -> None:
    """One argument per field of the options classes; a name that two of them share is one argument."""
    seen: set[str] = set()
    for cls in classes:
        hints = typing.get_type_hints(cls)
        for field in dataclasses.fields(cls):
            if field.name in seen:
                continue
            seen.add(field.name)
            kind, several = _kind(hints[field.name])
            shown = " ".join(map(str, field.default)) if isinstance(field.default, tuple) else field.default
            text = field.metadata["help"] + ("" if shown is None else f" (default: {shown})")
            flag = "--" + field.name.replace("_", "-")
            # SUPPRESS: an argument that is not given leaves no trace, so that --quick knows which are.
            if kind is bool:
                parser.add_argument(
                    flag, action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS, help=text
                )
            elif several:
                parser.add_argument(
                    flag, nargs="+", type=kind, action=_Several, default=argparse.SUPPRESS, help=text
                )
            else:
                parser.add_argument(flag, type=kind, default=argparse.SUPPRESS, help=text)


class _Several(argparse.Action):
    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        setattr(namespace, self.dest, tuple(values))


def _kind(hint: Any) -> tuple[Any, bool]:
    """The type of one value, and whether there may be several (``tuple[int, ...]``)."""
    if isinstance(hint, UnionType):
        hint = next(part for part in typing.get_args(hint) if part is not type(None))
    if typing.get_origin(hint) is tuple:
        return typing.get_args(hint)[0], True
    return hint, False
