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
    gap = curve.fmr - curve.fnmr
    after = int(np.argmax(gap <= 0.0))
    before = after - 1  # exists: at accept-all the gap is 1
    part = float(gap[before] / (gap[before] - gap[after]))
    rate = float(curve.fmr[before] + part * (curve.fmr[after] - curve.fmr[before]))
    low, high = float(curve.thresholds[before]), float(curve.thresholds[after])
    return rate, low if np.isinf(high) else low * (1.0 - part) + high * part


def min_dcf(
    scores: ArrayLike, labels: ArrayLike, *, p_target: float, c_miss: float = 1.0, c_fa: float = 1.0
) -> float:
    """Minimum of the detection cost over all thresholds, in [0, 1].

    ``C(t) = c_miss * p_target * FNMR(t) + c_fa * (1 - p_target) * FMR(t)``, normalised by the better of
    accept-all and reject-all, ``min(c_miss * p_target, c_fa * (1 - p_target))`` (NIST SRE 2016 evaluation
    plan, section 3).

    Args:
        scores: [n], finite.
        labels: [n], 1 for genuine.
        p_target: Prior of a genuine trial, in (0, 1).
        c_miss: Cost of a false non-match, above 0.
        c_fa: Cost of a false match, above 0.

    Raises:
        RequestError: Prior or costs out of range; and see `check_trials`.
    """
    costs_good = 0.0 < c_miss < np.inf and 0.0 < c_fa < np.inf
    if not (0.0 < p_target < 1.0 and costs_good):
        raise RequestError(
            "The prior must lie in (0, 1) and costs above 0.", p_target=p_target, c_miss=c_miss, c_fa=c_fa
        )
    curve = det_curve(scores, labels)
    miss, false_match = c_miss * p_target, c_fa * (1.0 - p_target)
    cost = miss * curve.fnmr + false_match * curve.fmr
    return float(cost.min() / min(miss, false_match))
