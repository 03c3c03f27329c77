"""Cllr and calibration against definitions worked out another way."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voicevault.errors import RequestError
from voicevault.scoring.calibration import Calibration, cllr, fit_calibration, min_cllr
from voicevault.scoring.metrics import CostPoint, act_dcf, min_dcf

rows = st.lists(st.tuples(st.integers(-6, 6), st.booleans()), min_size=2, max_size=40).filter(
    lambda some: len({label for _, label in some}) == 2
)


def gaussian(count: int, seed: int, separation: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """Scores whose true LLR is `separation * score`: two normals of unit variance at +- separation / 2."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % 4 == 0
    return random.normal(np.where(labels, separation / 2, -separation / 2)), labels


def pooled(scores: list[float], labels: list[bool]) -> float:
    """Minimum Cllr by pooling blocks one by one, in plain Python."""
    mates, others = sum(labels), len(labels) - sum(labels)
    blocks: list[list[int]] = []
    for score in sorted(set(scores)):
        own = [label for s, label in zip(scores, labels, strict=True) if s == score]
        blocks.append([sum(own), len(own) - sum(own)])
        while len(blocks) > 1 and ratio(blocks[-2], mates, others) >= ratio(blocks[-1], mates, others):
            last = blocks.pop()
            blocks[-1] = [blocks[-1][0] + last[0], blocks[-1][1] + last[1]]
    cost = 0.0
    for accepted, wrong in blocks:
        odds = ratio([accepted, wrong], mates, others)
        cost += accepted / mates * (math.log2(1 + 1 / odds) if accepted else 0.0)
        cost += wrong / others * (math.log2(1 + odds) if wrong else 0.0)
    return cost / 2


def ratio(block: list[int], mates: int, others: int) -> float:
    return (block[0] / mates) / (block[1] / others) if block[1] else math.inf


@given(rows)
@settings(max_examples=60)
def test_cllr_and_its_minimum_are_those_of_the_definitions(some: list[tuple[int, bool]]) -> None:
    scores, labels = [s / 2 for s, _ in some], [label for _, label in some]
    own = [math.log2(1 + math.exp(-s)) for s, label in zip(scores, labels, strict=True) if label]
    other = [math.log2(1 + math.exp(s)) for s, label in zip(scores, labels, strict=True) if not label]
    assert cllr(scores, labels) == pytest.approx((np.mean(own) + np.mean(other)) / 2)
    assert min_cllr(scores, labels) == pytest.approx(pooled(scores, labels), abs=1e-9)


def test_scores_that_say_nothing_cost_one_bit_and_separable_ones_nothing() -> None:
    assert cllr([0, 0, 0], [1, 0, 0]) == pytest.approx(1.0)
    assert min_cllr([0.3, 0.3, 0.3], [1, 0, 0]) == pytest.approx(1.0)
    assert min_cllr([0.1, 0.2, 0.9], [0, 0, 1]) == 0.0
    assert cllr([800.0, -800.0], [0, 1]) == pytest.approx(800 / math.log(2))  # no overflow


@pytest.mark.parametrize("p_target", [0.5, 0.01])
def test_calibration_finds_the_true_llr_whatever_the_class_sizes(p_target: float) -> None:
    scores, labels = gaussian(40_000, seed=1)
    fit = fit_calibration(scores * 0.05 + 0.3, labels, p_target=p_target)
    # score = (cosine - 0.3) / 0.05 and llr = 2 * score
    assert fit.slope == pytest.approx(40.0, rel=0.06)
    assert fit.offset == pytest.approx(-12.0, rel=0.06)


def test_calibration_holds_on_other_data_and_makes_the_actual_cost_the_minimal_one() -> None:
    train, labels = gaussian(20_000, seed=2)
    probe, truth = gaussian(20_000, seed=3)
    llrs = fit_calibration(train, labels).llr(probe)
    assert cllr(llrs, truth) < min_cllr(probe, truth) * 1.02
    assert cllr(probe * 0.1, truth) > cllr(llrs, truth) + 0.1
    point = CostPoint(0.1)
    assert act_dcf(llrs, truth, point) == pytest.approx(min_dcf(probe, truth, p_target=0.1), abs=0.02)


def test_what_cannot_be_calibrated_is_refused() -> None:
    with pytest.raises(RequestError, match="without any error"):
        fit_calibration([0.1, 0.9], [0, 1])
    with pytest.raises(RequestError, match="equal"):
        fit_calibration([0.5, 0.5, 0.5], [0, 1, 1])
    with pytest.raises(RequestError, match="check the labels"):
        fit_calibration([0.1, 0.2, 0.8, 0.9], [1, 1, 0, 0])
    with pytest.raises(RequestError, match="genuine and impostor"):
        cllr([0.1, 0.9], [1, 1])
    with pytest.raises(RequestError, match="slope"):
        Calibration(-1.0, 0.0, 0.5)
