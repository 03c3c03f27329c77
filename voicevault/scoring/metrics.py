"""Error rates of a list of scored trials.

A trial is accepted where ``score >= threshold``. FMR is the share of impostor trials accepted, FNMR the
share of genuine trials rejected (ISO/IEC 19795-1). Shapes: ``n`` trials, ``t`` operating points.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from voicevault.errors import RequestError

Float64Array = NDArray[np.float64]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class DetCurve:
    """Every operating point of a score list, from accept-all to reject-all.

    Attributes:
        thresholds: float64 [t], strictly ascending: each distinct score, then +inf (reject all).
        fmr: float64 [t], falls from 1 to 0.
        fnmr: float64 [t], rises from 0 to 1.
    """

    thresholds: Float64Array
    fmr: Float64Array
    fnmr: Float64Array


def check_trials(scores: ArrayLike, labels: ArrayLike) -> tuple[Float64Array, BoolArray]:
    """Scores as float64 [n] and labels as bool [n] (true = genuine).

    Raises:
        RequestError: Empty, not one label (0 or 1) per score, NaN or infinite scores, or trials of one class
            only.
    """
    values = np.asarray(scores, dtype=np.float64)
    marks = np.asarray(labels)
    if values.ndim != 1 or marks.shape != values.shape:
        raise RequestError(
            "Scores and labels must be two flat lists of one length.",
            scores=list(values.shape),
            labels=list(marks.shape),
        )
    if not len(values):
        raise RequestError("There are no trials to measure.", trials=0)
    if not np.isfinite(values).all():
        raise RequestError("Scores must be finite.", not_finite=int((~np.isfinite(values)).sum()))
    if not np.isin(marks, (0, 1)).all():
        raise RequestError("Labels must be 0 (impostor) or 1 (genuine).")
    genuine = marks.astype(np.bool_)
    if genuine.all() or not genuine.any():
        count = int(genuine.sum())
        raise RequestError(
            "Error rates need genuine and impostor trials.", genuine=count, impostor=len(values) - count
        )
    return values, genuine


def det_curve(scores: ArrayLike, labels: ArrayLike) -> DetCurve:
    """Operating points at every distinct score, accept-all and reject-all included.

    Args:
        scores: [n], finite; higher means more alike.
        labels: [n], 1 or true for genuine trials, 0 or false for impostor trials.

    Raises:
        RequestError: See `check_trials`.
    """
    values, genuine = check_trials(scores, labels)
    distinct = np.unique(values)
    thresholds = np.append(distinct, np.inf)
    impostors = np.sort(values[~genuine])
    mates = np.sort(values[genuine])
    # side='left' counts the scores strictly below each threshold: those are the rejected ones.
    fmr = 1.0 - np.searchsorted(impostors, thresholds, side="left") / len(impostors)
    fnmr = np.searchsorted(mates, thresholds, side="left") / len(mates)
    return DetCurve(thresholds, fmr, fnmr)


def equal_error_rate(scores: ArrayLike, labels: ArrayLike) -> tuple[float, float]:
    """Rate in [0, 1] and threshold where FMR equals FNMR.

    The two rates are step functions that rarely meet: the rate is taken where the straight line between the
    last point with FMR > FNMR and the first with FMR <= FNMR crosses the diagonal, and the threshold on the
    line between their thresholds (the lower one where the upper is reject-all). Separable trials have rate 0
    at the lowest genuine score.

    Raises:
        RequestError: See `check_trials`.
    """
    curve = det_curve(scores, labels)
    rate, before, part = crossing(curve.fmr, curve.fnmr)
    low, high = float(curve.thresholds[before]), float(curve.thresholds[before + 1])
    return rate, low if np.isinf(high) else low * (1.0 - part) + high * part


def crossing(fmr: Float64Array, fnmr: Float64Array) -> tuple[float, int, float]:
    """Where two step curves [t] from accept-all to reject-all meet: the rate, the last point before, and the
    share of the way from it to the next one."""
    gap = fmr - fnmr
    before = int(np.argmax(gap <= 0.0)) - 1  # exists: at accept-all the gap is 1
    part = float(gap[before] / (gap[before] - gap[before + 1]))
    return float(fmr[before] + part * (fmr[before + 1] - fmr[before])), before, part


@dataclass(frozen=True, slots=True)
class CostPoint:
    """An application of verification: how likely a genuine trial is there, and what the errors cost.

    Attributes:
        p_target: Prior of a genuine trial, in (0, 1).
        c_miss: Cost of a false non-match, above 0.
        c_fa: Cost of a false match, above 0.

    Raises:
        RequestError: A value is out of range.
    """

    p_target: float
    c_miss: float = 1.0
    c_fa: float = 1.0

    def __post_init__(self) -> None:
        costs_good = 0.0 < self.c_miss < np.inf and 0.0 < self.c_fa < np.inf
        if not (0.0 < self.p_target < 1.0 and costs_good):
            raise RequestError(
                "The prior must lie in (0, 1) and costs above 0.",
                p_target=self.p_target,
                c_miss=self.c_miss,
                c_fa=self.c_fa,
            )

    def cost(self, fmr: Float64Array, fnmr: Float64Array) -> Float64Array:
        """``C = c_miss * p_target * FNMR + c_fa * (1 - p_target) * FMR``, normalised by the better of
        accept-all and reject-all, ``min(c_miss * p_target, c_fa * (1 - p_target))`` (NIST SRE 2016 evaluation
        plan, section 3)."""
        miss, false_match = self.c_miss * self.p_target, self.c_fa * (1.0 - self.p_target)
        return (miss * fnmr + false_match * fmr) / min(miss, false_match)

    @property
    def bayes_threshold(self) -> float:
        """The natural-log likelihood ratio from which accepting is the cheaper decision."""
        return float(np.log(self.c_fa * (1.0 - self.p_target)) - np.log(self.c_miss * self.p_target))


def min_dcf(
    scores: ArrayLike, labels: ArrayLike, *, p_target: float, c_miss: float = 1.0, c_fa: float = 1.0
) -> float:
    """Minimum of the normalised detection cost over all thresholds, in [0, 1]; see `CostPoint.cost`.

    Args:
        scores: [n], finite.
        labels: [n], 1 for genuine.

    Raises:
        RequestError: Prior or costs out of range; and see `check_trials`.
    """
    return min_dcf_point(scores, labels, CostPoint(p_target, c_miss, c_fa))[0]


def min_dcf_point(scores: ArrayLike, labels: ArrayLike, point: CostPoint) -> tuple[float, float]:
    """`min_dcf` and the lowest threshold that reaches it (+inf where rejecting all does).

    Raises:
        RequestError: See `check_trials`.
    """
    curve = det_curve(scores, labels)
    cost = point.cost(curve.fmr, curve.fnmr)
    best = int(np.argmin(cost))
    return float(cost[best]), float(curve.thresholds[best])


def act_dcf(llrs: ArrayLike, labels: ArrayLike, point: CostPoint) -> float:
    """The normalised cost of deciding by the Bayes threshold, at or above 0: what a calibrated score costs in
    use, where `min_dcf` is what it could cost.

    Args:
        llrs: [n] natural-log likelihood ratios, finite.
        labels: [n], 1 for genuine.

    Raises:
        RequestError: See `check_trials`.
    """
    fmr, fnmr = error_rates(llrs, labels, point.bayes_threshold)
    return float(point.cost(np.array(fmr), np.array(fnmr)))


def error_rates(scores: ArrayLike, labels: ArrayLike, threshold: float) -> tuple[float, float]:
    """FMR and FNMR at a threshold. Raises RequestError; see `check_trials`."""
    values, genuine = check_trials(scores, labels)
    accepted = values >= threshold
    return float(accepted[~genuine].mean()), float((~accepted[genuine]).mean())


@dataclass(frozen=True, slots=True, eq=False)
class DecisionCurves:
    """What a decision is worth against the threshold, on a list's own mix of genuine and impostor trials.

    Attributes:
        thresholds: float64 [t], ascending, one per distinct score.
        fmr, fnmr, precision, recall, f1, accuracy: float64 [t], in [0, 1]. Recall is 1 - FNMR. At these
            thresholds something is always accepted, so precision is defined.
    """

    thresholds: Float64Array
    fmr: Float64Array
    fnmr: Float64Array
    precision: Float64Array
    recall: Float64Array
    f1: Float64Array
    accuracy: Float64Array


def decision_curves(scores: ArrayLike, labels: ArrayLike) -> DecisionCurves:
    """Precision, F1 and accuracy depend on the share of genuine trials in the list; the error rates do not.

    Raises:
        RequestError: See `check_trials`.
    """
    values, genuine = check_trials(scores, labels)
    curve = det_curve(values, genuine)
    fmr, fnmr = curve.fmr[:-1], curve.fnmr[:-1]
    mates, impostors = int(genuine.sum()), int((~genuine).sum())
    true_accepts, false_accepts = (1.0 - fnmr) * mates, fmr * impostors
    precision = true_accepts / (true_accepts + false_accepts)
    recall = 1.0 - fnmr
    f1 = 2.0 * true_accepts / (true_accepts + false_accepts + mates)
    accuracy = (true_accepts + impostors - false_accepts) / len(values)
    return DecisionCurves(curve.thresholds[:-1], fmr, fnmr, precision, recall, f1, accuracy)
