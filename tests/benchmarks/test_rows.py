"""Rows are kept as they were measured, and a file that is none is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.rows import Rows, read_rows
from voicevault.errors import RequestError

RUN = {"run": "x-1", "benchmark": "x", "machine": {"cpu": "one"}}


def write(path: Path) -> None:
    with Rows(path, RUN) as rows:
        for turn in range(4):
            rows.append("call", name="ab"[turn % 2], seconds=turn / 10)
        rows.append("other", name="ä")


def test_rows_come_back(tmp_path: Path) -> None:
    write(tmp_path / "deep" / "x.jsonl")
    recorded = read_rows(tmp_path / "deep" / "x.jsonl")
    assert recorded.run["machine"] == {"cpu": "one"}
    assert recorded.values("seconds", "call", name="b") == [0.1, 0.3]
    assert recorded.distinct("name", "call") == ["a", "b"]
    assert recorded.where("other") == [{"kind": "other", "run": "x-1", "name": "ä"}]
    assert recorded.where("call", name="c") == []


def test_each_row_is_on_disk_at_once(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    with Rows(path, RUN) as rows:
        rows.append("call", seconds=1.0)
        assert read_rows(path).values("seconds", "call") == [1.0]


def test_a_run_overwrites_no_other(tmp_path: Path) -> None:
    write(tmp_path / "x.jsonl")
    before = (tmp_path / "x.jsonl").read_bytes()
    with pytest.raises(RequestError, match="cannot be written"):
        Rows(tmp_path / "x.jsonl", RUN)
    assert (tmp_path / "x.jsonl").read_bytes() == before


def test_what_is_no_number_is_no_row(tmp_path: Path) -> None:
    with Rows(tmp_path / "x.jsonl", RUN) as rows:
        for value in (float("nan"), float("inf")):
            with pytest.raises(ValueError, match="JSON"):
                rows.append("call", seconds=value)
        with pytest.raises(ValueError, match="stands there"):
            rows.append("run")
    assert read_rows(tmp_path / "x.jsonl").rows == []


def test_a_last_line_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    write(path)
    path.write_bytes(path.read_bytes()[:-7])
    assert len(read_rows(path).rows) == 4


def test_what_is_no_rows_file_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "good.jsonl")
    good = (tmp_path / "good.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    bad = {
        "empty": "",
        "headless": "".join(good[1:]),
        "broken": good[0] + "{no\n" + good[1],
        "two runs": "".join(good) + good[1].replace("x-1", "x-2"),
        "other format": good[0].replace('"format": 1', '"format": 99'),
        "list": good[0] + "[1]\n",
    }
    for name, text in bad.items():
        path = tmp_path / f"{name}.jsonl"
        path.write_text(text, encoding="utf-8")
        with pytest.raises(RequestError, match=name):
            read_rows(path)
    with pytest.raises(RequestError, match="missing"):
        read_rows(tmp_path / "missing.jsonl")
