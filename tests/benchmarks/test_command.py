"""The command line: options, tables, pictures, JSON and the gate, on a benchmark that adds up numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import registry
from benchmarks.benchmark import Bound, Unmeasured, judge
from benchmarks.command import main
from benchmarks.report import cell
from tests.benchmarks.conftest import BOUNDS, MakeBenchmark


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = main(list(arguments))
    printed = capsys.readouterr()
    return status, printed.out, printed.err


def results(printed: str) -> Any:
    (only,) = json.loads(printed)
    return only


def test_a_run_leaves_rows_table_and_picture(
    sums: MakeBenchmark, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sums()
    status, printed, _ = run(capsys, "sum", "--out", str(tmp_path), "--numbers", "4", "5", "--json")
    assert status == 0
    found = results(printed)
    assert found["metrics"] == {"sum": 9.0, "peer": None}
    assert found["not_measured"] == {"peer": "the peer is not installed"}
    assert [bound["outcome"] for bound in found["bounds"]] == ["pass", "not measured"]
    assert found["run"]["options"]["numbers"] == [4, 5]
    assert found["run"]["machine"]["cores"] >= 1
    assert Path(found["plot"]).read_bytes().startswith(b"\x89PNG\r\n")
    table = Path(found["table"]).read_text(encoding="utf-8")
    assert "| 4.00 |" in table and "| small sum | 9.00 | <= 10 | pass | of old |" in table
    assert len(list(tmp_path.iterdir())) == 3


def test_options_are_given_quick_or_default(
    sums: MakeBenchmark, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sums()
    total = {}
    for arguments in ("", "--quick", "--quick --numbers 7", "--quick --scale 2.5"):
        _, printed, _ = run(capsys, "sum", "--json", "--out", str(tmp_path), *arguments.split())
        total[arguments] = results(printed)["metrics"]["sum"]
    assert total == {"": 6.0, "--quick": 1.0, "--quick --numbers 7": 7.0, "--quick --scale 2.5": 2.5}
    _, printed, _ = run(
        capsys, "sum", "--json", "--out", str(tmp_path), "--note", "a/b", "--loud", "--seed", "3"
    )
    chosen = results(printed)["run"]["options"]
    assert (chosen["note"], chosen["loud"], chosen["seed"]) == ("a/b", True, 3)


def test_the_gate_fails_where_a_bound_does_not_hold(
    sums: MakeBenchmark, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sums()
    out = ("--out", str(tmp_path))
    assert run(capsys, "sum", "--gate", *out)[0] == 0
    status, printed, said = run(capsys, "sum", "--gate", "--numbers", "11", *out)
    assert status == 1
    assert "fail" in printed and "11.0" in printed
    assert "0 bounds hold, 1 do not, 1 were not measured" in said
    assert run(capsys, "sum", "--numbers", "11", *out)[0] == 0  # nobody asked for the gate
    for path in tmp_path.glob("*.jsonl"):
        status, printed, _ = run(capsys, "render", str(path), "--gate", "--json")
        assert status == (1 if results(printed)["metrics"]["sum"] > 10 else 0)


def test_the_gate_does_not_pass_where_nothing_was_measured(
    sums: MakeBenchmark, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sums(bounds=BOUNDS[1:])
    assert run(capsys, "sum", "--gate", "--out", str(tmp_path))[0] == 1
    sums(bounds=[Bound(name="lost", metric="nobody derives it", at_least=1.0, unit="")])
    status, printed, _ = run(capsys, "sum", "--gate", "--json", "--out", str(tmp_path))
    assert status == 1
    assert "nobody derives it" in results(printed)["bounds"][0]["reason"]


def test_everything_is_derived_from_the_rows_alone(
    sums: MakeBenchmark, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sums()
    first = results(run(capsys, "sum", "--json", "--out", str(tmp_path))[1])
    moved = tmp_path / "elsewhere" / "rows.jsonl"
    moved.parent.mkdir()
    Path(first["rows"]).rename(moved)
    again = results(run(capsys, "render", str(moved), "--json")[1])
    for part in ("metrics", "not_measured", "bounds", "run"):
        assert again[part] == first[part]
    assert Path(again["table"]).read_bytes() == Path(first["table"]).read_bytes()
    assert Path(again["plot"]).parent == moved.parent


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["nothing"], "no benchmark"),
        (["sum", "--scale", "0.1"], "--scale must be 0.5 or more"),
        (["sum", "--scale", "nan"], "--scale must be"),
        (["sum", "--numbers", "2", "-1"], "--numbers must be 0 or more"),
        (["render", "/nowhere.jsonl"], "cannot be read"),
        (["sum", "--out", "/dev/null/x"], "cannot be written"),
    ],
)
def test_what_cannot_be_done_is_said(
    sums: MakeBenchmark, capsys: pytest.CaptureFixture[str], arguments: list[str], complaint: str
) -> None:
    sums()
    status, printed, said = run(capsys, *arguments)
    assert (status, printed) == (2, "")
    assert complaint in said


def test_an_unknown_option_is_refused_by_those_who_do_not_have_it(
    sums: MakeBenchmark, capsys: pytest.CaptureFixture[str]
) -> None:
    sums()
    with pytest.raises(SystemExit) as caught:
        main(["--numbers", "1"])  # the default set takes what all of them take
    assert caught.value.code == 2
    assert "--numbers" in capsys.readouterr().err


def test_a_metric_that_is_no_number_is_an_error(sums: MakeBenchmark, tmp_path: Path) -> None:
    sums(metrics=lambda recorded: {"sum": float("nan")})
    with pytest.raises(ValueError, match="sum"):
        main(["sum", "--out", str(tmp_path)])


def test_an_interrupted_run_keeps_its_rows(
    sums: MakeBenchmark, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(options: Any, rows: Any, progress: Any) -> None:
        rows.append("number", value=5)
        raise KeyboardInterrupt

    sums(measure=stop)
    assert run(capsys, "sum", "--out", str(tmp_path))[0] == 130
    (left,) = tmp_path.iterdir()
    assert results(run(capsys, "render", str(left), "--json")[1])["metrics"]["sum"] == 5


def test_rows_of_a_run_that_broke_off_too_early_are_refused(
    sums: MakeBenchmark, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sums(
        measure=lambda options, rows, progress: None,
        metrics=lambda recorded: {"sum": recorded.rows[0]["value"]},
    )
    status, _, said = run(capsys, "sum", "--out", str(tmp_path))
    assert status == 2
    assert "does not hold all rows" in said


def test_bounds_hold_at_their_limit_and_never_for_nan() -> None:
    low = Bound(name="", metric="m", at_least=1.0, unit="x")
    high = Bound(name="", metric="m", at_most=1.0, unit="")
    assert low.holds(1.0) and high.holds(1.0) and low.holds(2.0) and high.holds(0.0)
    assert not low.holds(0.999) and not high.holds(1.001)
    assert not low.holds(float("nan")) and not high.holds(float("nan"))
    assert (low.limit, high.limit) == (">= 1 x", "<= 1")
    for least, most in ((None, None), (1.0, 2.0)):
        with pytest.raises(ValueError, match="one of them"):
            Bound(name="", metric="m", unit="", at_least=least, at_most=most)
    assert [v.outcome for v in judge([low], {"m": Unmeasured("no peer")})] == ["not measured"]


def test_numbers_are_shown_with_three_digits() -> None:
    values = [0.000123456, 0.0123, 1.0, 12.345, 123.4, 12345.6, 1234, 0.0, True, None, "x", Unmeasured("y")]
    assert [cell(value) for value in values] == [
        "0.000123", "0.0123", "1.00", "12.3", "123", "12,346", "1,234", "0", "True", "-", "x", "not measured",
    ]  # fmt: skip


def test_all_benchmarks_are_registered_under_their_names(capsys: pytest.CaptureFixture[str]) -> None:
    found = registry.all_benchmarks()
    assert [benchmark.name for benchmark in found] == list(registry.NAMES)
    assert {"stages", "http", "bulk", "search", "accuracy"} <= set(registry.NAMES)
    assert main(["--list"]) == 0
    printed = capsys.readouterr().out
    assert all(benchmark.name in printed and benchmark.summary in printed for benchmark in found)
