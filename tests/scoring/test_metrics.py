"""The error rates against scikit-learn and against counting by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, precision_recall_fscore_support, roc_curve

from voicevault.errors import RequestError
from voicevault.scoring.metrics import (
    CostPoint,
    act_dcf,
    decision_curves,
    det_curve,
    equal_error_rate,
    error_rates,
    min_dcf,
    min_dcf_point,
)

Trials = list[tuple[int, bool]]
# Few distinct scores, so that ties within and across the classes are the rule.
trials = st.lists(st.tuples(st.integers(-6, 6), st.booleans()), min_size=2, max_size=60).filter(
    lambda rows: len({label for _, label in rows}) == 2
)


def split(rows: Trials) -> tuple[np.ndarray, np.ndarray]:
    return np.array([score / 6 for score, _ in rows]), np.array([label for _, label in rows])


@given(trials)
def test_the_curve_is_that_of_counting(rows: Trials) -> None:
    scores, labels = split(rows)
    curve = det_curve(scores, labels)
    for threshold, fmr, fnmr in zip(curve.thresholds, curve.fmr, curve.fnmr, strict=True):
        assert fmr == pytest.approx(np.mean(scores[~labels] >= threshold))
        assert fnmr == pytest.approx(np.mean(scores[labels] < threshold))
    assert (curve.fmr[0], curve.fnmr[0], curve.fmr[-1], curve.fnmr[-1]) == (1, 0, 0, 1)


@given(trials)
def test_the_equal_error_rate_is_where_the_roc_of_scikit_learn_meets_the_diagonal(rows: Trials) -> None:
    scores, labels = split(rows)
    fpr, tpr, _ = roc_curve(labels, scores, drop_intermediate=False)
    # Bisection along the polyline: an independent way to the crossing.
    low, high = 0.0, float(len(fpr) - 1)
    steps = np.arange(len(fpr))
    for _ in range(80):
        middle = (low + high) / 2
        if np.interp(middle, steps, fpr) < 1 - np.interp(middle, steps, tpr):
            low = middle
        else:
            high = middle
    rate, threshold = equal_error_rate(scores, labels)
    assert rate == pytest.approx(np.interp(high, steps, fpr), abs=1e-9)
    assert scores.min() <= threshold <= scores.max()


@given(trials, st.floats(0.001, 0.999), st.floats(0.1, 10), st.floats(0.1, 10))
def test_min_dcf_is_the_smallest_cost_of_any_threshold(
    rows: Trials, p_target: float, c_miss: float, c_fa: float
) -> None:
    scores, labels = split(rows)
    costs = [
        c_miss * p_target * np.mean(scores[labels] < t)
        + c_fa * (1 - p_target) * np.mean(scores[~labels] >= t)
        for t in [*(k / 6 - 1 / 12 for k in range(-6, 7)), 2.0]
    ]
    expected = min(costs) / min(c_miss * p_target, c_fa * (1 - p_target))
    found = min_dcf(scores, labels, p_target=p_target, c_miss=c_miss, c_fa=c_fa)
    assert found == pytest.approx(expected)
    assert 0 <= found <= 1


def test_known_values() -> None:
    assert equal_error_rate([0.1, 0.2, 0.8, 0.9], [0, 0, 1, 1]) == (0.0, 0.8)
    assert equal_error_rate([0.5, 0.5], [0, 1]) == (0.5, 0.5)
    assert equal_error_rate([0.9, 0.1], [0, 1])[0] == 1.0
    assert min_dcf([0.9, 0.1], [0, 1], p_target=0.01) == pytest.approx(1.0)
    assert min_dcf([0.1, 0.9], [0, 1], p_target=0.01) == 0.0


@pytest.mark.parametrize(
    ("scores", "labels"),
    [
        ([], []),
        ([0.1, 0.2], [1, 1]),
        ([0.1, 0.2], [0, 0]),
        ([0.1, float("nan")], [0, 1]),
        ([0.1, float("inf")], [0, 1]),
        ([0.1, 0.2], [0, 2]),
        ([0.1, 0.2, 0.3], [0, 1]),
        ([[0.1, 0.2]], [[0, 1]]),
    ],
)
def test_trials_without_a_rate_are_refused(scores: list[float], labels: list[int]) -> None:
    for measure in (det_curve, equal_error_rate, lambda s, y: min_dcf(s, y, p_target=0.5)):
        with pytest.raises(RequestError):
            measure(scores, labels)


@pytest.mark.parametrize(
    "costs", [{"p_target": 0}, {"p_target": 1}, {"p_target": 0.5, "c_miss": 0}, {"p_target": 0.5, "c_fa": -1}]
)
def test_costs_out_of_range_are_refused(costs: dict[str, float]) -> None:
    with pytest.raises(RequestError):
        min_dcf([0.1, 0.2], [0, 1], **costs)


@given(trials, st.floats(0.01, 0.99), st.floats(0.1, 10), st.floats(0.1, 10))
def test_the_actual_cost_is_that_of_the_bayes_decision(
    rows: Trials, p_target: float, c_miss: float, c_fa: float
) -> None:
    llrs, labels = split(rows)
    point = CostPoint(p_target, c_miss, c_fa)
    cost = 0.0
    for llr, label in zip(llrs * 6, labels, strict=True):
        accept = c_fa * (1 - p_target) <= c_miss * p_target * np.exp(llr) * (1 + 1e-12)
        if label and not accept:
            cost += c_miss * p_target / labels.sum()
        elif accept and not label:
            cost += c_fa * (1 - p_target) / (~labels).sum()
    expected = cost / min(c_miss * p_target, c_fa * (1 - p_target))
    assert act_dcf(llrs * 6, labels, point) == pytest.approx(expected)
    assert (
        act_dcf(llrs * 6, labels, point)
        >= min_dcf(llrs, labels, p_target=p_target, c_miss=c_miss, c_fa=c_fa) - 1e-9
    )


@given(trials)
@settings(max_examples=25)
def test_decision_curves_are_those_of_scikit_learn(rows: Trials) -> None:
    scores, labels = split(rows)
    curves = decision_curves(scores, labels)
    for i, threshold in enumerate(curves.thresholds):
        said = scores >= threshold
        precision, recall, f1, _ = precision_recall_fscore_support(
            labels, said, average="binary", zero_division=0.0
        )
        expected = (precision, recall, f1, accuracy_score(labels, said))
        found = (curves.precision[i], curves.recall[i], curves.f1[i], curves.accuracy[i])
        assert found == pytest.approx(expected)
        assert error_rates(scores, labels, threshold) == pytest.approx((curves.fmr[i], curves.fnmr[i]))


@given(trials, st.floats(0.001, 0.999))
def test_the_threshold_of_the_minimal_cost_has_that_cost(rows: Trials, p_target: float) -> None:
    scores, labels = split(rows)
    point = CostPoint(p_target)
    cost, threshold = min_dcf_point(scores, labels, point)
    fmr, fnmr = error_rates(scores, labels, threshold)
    assert float(point.cost(np.array(fmr), np.array(fnmr))) == pytest.approx(cost)
