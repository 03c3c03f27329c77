"""Threshold tables: what is fitted, what is refused, what a false match rate becomes."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from voicevault.errors import CheckpointError, NoThresholdError, RequestError
from voicevault.scoring.decide import identification_threshold, verification_threshold
from voicevault.scoring.policy import Policy, PolicyRow, fit_thresholds


def trials(speakers: int, spread: float = 0.1, repeats: int = 1) -> tuple[Any, Any, list[tuple[str, str]]]:
    """All pairs of speakers, `repeats` trials each, with genuine trials of every speaker."""
    random = np.random.default_rng(7)
    pairs = [(f"s{a}", f"s{b}") for a in range(speakers) for b in range(a) for _ in range(repeats)]
    impostors = random.normal(0.0, 0.1, len(pairs))
    own = [(f"s{a}", f"s{a}") for a in range(speakers) for _ in range(10)]
    genuine = random.normal(0.4, spread, len(own))
    labels = np.r_[np.zeros(len(pairs)), np.ones(len(own))]
    return np.clip(np.r_[impostors, genuine], -1, 1), labels, pairs + own


def named(rows: tuple[PolicyRow, ...]) -> dict[str, PolicyRow]:
    return {row.name: row for row in rows}


def table(*rows: tuple[float, float | None]) -> Policy:
    return Policy("m", tuple(PolicyRow(f"r{i}", fmr, t, None, 1, 1, 2) for i, (fmr, t) in enumerate(rows)))


def test_rows_keep_their_rate_on_the_trials_and_unsupported_ones_say_why() -> None:
    scores, labels, pairs = trials(100, spread=0.2)  # 4,950 independent impostor trials
    rows = named(fit_thresholds(scores, labels, pairs))
    impostors = scores[labels == 0]
    for name, fmr in (("fmr_10pct", 0.1), ("fmr_1pct", 0.01)):
        threshold = rows[name].threshold
        assert threshold is not None
        assert fmr - 1 / len(impostors) < np.mean(impostors >= threshold) <= fmr
        assert rows[name].fnmr == pytest.approx(np.mean(scores[labels == 1] < threshold))
    strict = rows["fmr_0.1pct"]
    assert (strict.threshold, strict.fnmr) == (None, None)
    assert strict.reason == "4 speaker pairs with false matches, 30 needed"
    assert (strict.impostor_trials, strict.genuine_trials, strict.speakers) == (4950, 1000, 100)
    assert rows["eer"].threshold is not None


def test_many_trials_of_few_pairs_do_not_support_a_row() -> None:
    scores, labels, pairs = trials(8, repeats=200)  # 5,600 trials, 28 pairs
    rows = fit_thresholds(scores, labels, pairs)
    assert all(row.threshold is None and row.reason for row in rows)


def test_the_order_of_a_pair_does_not_make_it_another() -> None:
    scores, labels, pairs = trials(8, repeats=200)
    turned = [pair[::-1] if i % 2 else pair for i, pair in enumerate(pairs)]
    assert fit_thresholds(scores, labels, turned) == fit_thresholds(scores, labels, pairs)


def test_a_rate_of_misses_from_few_speakers_is_left_open() -> None:
    scores, labels, pairs = trials(100, spread=0.05)
    row = named(fit_thresholds(scores, labels, pairs))["fmr_10pct"]
    assert row.threshold is not None
    assert row.fnmr is None
    assert row.reason is not None and row.reason.startswith("FNMR left open")


def test_all_scores_equal_supports_nothing() -> None:
    scores, labels, pairs = trials(20)
    rows = fit_thresholds(np.full(len(scores), 0.5), labels, pairs)
    assert all(row.threshold is None and row.reason for row in rows)


def test_trials_that_contradict_themselves_are_refused() -> None:
    scores, labels, pairs = trials(5)
    for bad in ((scores, 1 - labels, pairs), (scores * 100, labels, pairs), (scores, labels, pairs[1:])):
        with pytest.raises(RequestError):
            fit_thresholds(*bad)


def test_between_rows_the_threshold_is_linear_in_the_logarithm() -> None:
    policy = table((0.1, 0.2), (0.001, 0.6), (0.01, None))
    found = policy.threshold_for(0.01)
    assert found.value == pytest.approx(0.4)
    assert (found.source, found.fmr, found.wanted_fmr, found.note) == ("policy", 0.01, 0.01, None)
    assert policy.threshold_for(0.1).value == 0.2
    assert policy.threshold_for(0.001).source == "policy"


def test_beyond_the_table_nothing_is_extrapolated() -> None:
    policy = table((0.1, 0.2), (0.01, 0.4), (0.001, None))
    strict = policy.threshold_for(1e-6)
    assert (strict.value, strict.source, strict.fmr, strict.wanted_fmr) == (0.4, "policy-limit", 0.01, 1e-6)
    assert strict.note
    loose = policy.threshold_for(0.5)
    assert (loose.value, loose.source, loose.fmr) == (0.2, "policy", 0.1)
    assert loose.note


@given(st.floats(1e-9, 0.999), st.floats(1e-9, 0.999))
def test_a_stricter_rate_never_has_a_lower_threshold(one: float, other: float) -> None:
    policy = table((0.1, 0.2), (0.02, 0.31), (0.01, 0.4), (0.001, 0.4))
    strict, loose = sorted((one, other))
    assert policy.threshold_for(strict).value >= policy.threshold_for(loose).value


def test_saving_and_loading_keep_everything(tmp_path: Path) -> None:
    rows = fit_thresholds(*trials(100, spread=0.2))
    policy = Policy("m1", rows, {"data": "validation speakers", "seed": 7})
    policy.save(tmp_path / "policy.json")
    assert Policy.load(tmp_path / "policy.json", "m1") == policy
    assert [p.name for p in tmp_path.iterdir()] == ["policy.json"]
    with pytest.raises(CheckpointError):
        Policy.load(tmp_path / "policy.json", "m2")


@pytest.mark.parametrize(
    ("key", "value"),
    [("threshold", 1.5), ("threshold", True), ("fmr", 0), ("fmr", math.nan), ("speakers", "2")],
)
def test_a_damaged_row_is_refused(tmp_path: Path, key: str, value: object) -> None:
    path = tmp_path / "policy.json"
    table((0.1, 0.2)).save(path)
    document = json.loads(path.read_text())
    document["thresholds"][0][key] = value
    path.write_text(json.dumps(document))
    with pytest.raises(CheckpointError):
        Policy.load(path)


@pytest.mark.parametrize("text", ["", "[]", "null", "{}", '{"format": 2}', "\x00"])
def test_a_file_that_is_no_policy_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "policy.json"
    path.write_text(text)
    with pytest.raises(CheckpointError):
        Policy.load(path)


def test_a_missing_file_and_a_falling_table_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        Policy.load(tmp_path / "none.json")
    with pytest.raises(RequestError):
        table((0.1, 0.5), (0.01, 0.4))


def test_decisions_use_one_percent_unless_told_otherwise() -> None:
    policy = table((0.1, 0.2), (0.001, 0.6))
    assert verification_threshold(policy).wanted_fmr == 0.01
    assert verification_threshold(policy, fmr=0.1).value == 0.2
    assert identification_threshold(policy, 10).value == pytest.approx(0.6)
    assert identification_threshold(policy, 10).wanted_fmr == pytest.approx(0.001)
    assert identification_threshold(policy, 1000).source == "policy-limit"
    assert identification_threshold(policy, 1000, fmr=0.1).value == 0.2
    assert identification_threshold(policy, 0) == verification_threshold(policy)


def test_a_given_threshold_needs_no_policy_and_zero_is_one() -> None:
    assert verification_threshold(None, 0.0).value == 0.0
    assert identification_threshold(None, 5, threshold=-1).source == "given"


def test_without_threshold_and_policy_there_is_no_decision() -> None:
    for policy in (None, table((0.1, None))):
        with pytest.raises(NoThresholdError):
            verification_threshold(policy)
        with pytest.raises(NoThresholdError):
            identification_threshold(policy, 5)


@pytest.mark.parametrize(
    "given",
    [
        {"threshold": 0.1, "fmr": 0.1},
        {"threshold": math.nan},
        {"threshold": 2.0},
        {"fmr": 0.0},
        {"fmr": math.nan},
    ],
)
def test_choices_out_of_range_are_refused(given: dict[str, float]) -> None:
    with pytest.raises(RequestError):
        verification_threshold(table((0.1, 0.2)), **given)
    with pytest.raises(RequestError):
        identification_threshold(table((0.1, 0.2)), 3, **given)
