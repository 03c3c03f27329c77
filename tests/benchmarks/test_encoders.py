"""The encoder benchmark: how its metrics and verdicts follow from the rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks.benchmark import Unmeasured, judge
from benchmarks.encoders import BARE, BENCHMARK, CASES, FP32, FRONT_END, INT8, PEER, metrics
from benchmarks.rows import Recorded, Rows, read_rows


def recorded(path: Path, widths: Sequence[int], times: dict[str, float], cosine: float = 1.0) -> Recorded:
    """Rows in which each contender takes the same time in every case, SpeechBrain less on two threads than on one."""
    with Rows(path, {"benchmark": "encoders", "run": "r"}) as rows:
        for width in widths:
            for case in CASES:
                for contender, seconds in times.items():
                    for how, factor in (
                        (("1", 2.0), ("2", 1.0)) if contender in (PEER, f"{BARE} {INT8}") else (("", 1.0),)
                    ):
                        for noise in (0.9, 1.0, 1.7):
                            rows.append(
                                "call",
                                width=width,
                                case=case,
                                contender=contender,
                                how=how,
                                recordings=1,
                                seconds=seconds * factor * noise,
                                cpu=seconds,
                            )
                for name in (PEER, FP32, INT8):
                    rows.append("cosine", width=width, case=case, contender=name, lowest=cosine)
        for contender, cpu in (("engine", 0.009), ("torch", 0.02)):
            rows.append("default", contender=contender, seconds=1.0, cpu=cpu)
    return read_rows(path)


TIMES = {
    PEER: 0.100, FP32: 0.050, INT8: 0.019, f"{BARE} {FP32}": 0.045, f"{BARE} {INT8}": 0.015, FRONT_END: 0.002
}  # fmt: skip


def test_metrics_follow_from_the_rows(tmp_path: Path) -> None:
    found = metrics(recorded(tmp_path / "rows.jsonl", (512, 1024), TIMES))
    assert found["float32_1024_3_s_speed_up"] == pytest.approx(2.0), (
        "against the better of one and two threads"
    )
    assert found["int8_1024_batch_speed_up"] == pytest.approx(100 / 19)
    assert found["int8_512_10_s_over_parts"] == pytest.approx(19 / 17)
    assert found["over_parts"] == pytest.approx(19 / 17)
    assert found["default_engine_ms"] == pytest.approx(9.0)
    verdicts = {verdict.bound.metric: verdict.outcome for verdict in judge(BENCHMARK.bounds, found)}
    assert verdicts.pop("gpu_per_second") == "not measured"
    assert set(verdicts.values()) == {"pass"}


@pytest.mark.parametrize(
    ("changed", "fails"),
    [
        ({FP32: 0.060}, {"float32_512_3_s_speed_up", "float32_1024_10_s_speed_up", "float32_1024_batch_speed_up", "over_parts"}),
        ({INT8: 0.0201}, {"int8_1024_batch_speed_up", "over_parts"}),
        ({FRONT_END: 0.001}, {"over_parts"}),
    ],
)  # fmt: skip
def test_bounds_can_fail(tmp_path: Path, changed: dict[str, float], fails: set[str]) -> None:
    found = metrics(recorded(tmp_path / "rows.jsonl", (512, 1024), TIMES | changed))
    assert {v.bound.metric for v in judge(BENCHMARK.bounds, found) if v.outcome == "fail"} == fails


def test_other_embeddings_fail(tmp_path: Path) -> None:
    found = metrics(recorded(tmp_path / "rows.jsonl", (1024,), TIMES, cosine=0.9998))
    assert [v.bound.metric for v in judge(BENCHMARK.bounds, found) if v.outcome == "fail"] == [
        "float32_cosine"
    ]
    assert isinstance(found["float32_512_3_s_speed_up"], Unmeasured)
