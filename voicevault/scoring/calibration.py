"""Scores to log-likelihood ratios, and how good those are.

An LLR is ``ln p(score | same speaker) / p(score | different speakers)``: with the prior odds of an
application it is all that a decision needs (Brümmer and du Preez, 'Application-independent evaluation of
speaker detection', Computer Speech and Language 20, 2006).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from voicevault.errors import RequestError
from voicevault.scoring.metrics import Float64Array, check_trials


def cllr(llrs: ArrayLike, labels: ArrayLike) -> float:
    """Cost of the log-likelihood ratio in bits, at or above 0; 1 is what scores without information cost.

    ``Cllr = (mean_genuine log2(1 + e^-llr) + mean_impostor log2(1 + e^llr)) / 2`` (Brümmer and du Preez 2006,
    equation 9).

    Args:
        llrs: [n] natural-log likelihood ratios, finite.
        labels: [n], 1 for genuine.

    Raises:
        RequestError: See `metrics.check_trials`.
    """
    values, genuine = check_trials(llrs, labels)
    return _cllr(values[genuine], values[~genuine])


def min_cllr(scores: ArrayLike, labels: ArrayLike) -> float:
    """The `cllr` of the best non-decreasing map from scores to LLRs, in [0, 1], by pooling adjacent violators
    (Brümmer and du Preez 2006, section 5).

    Args:
        scores: [n], finite.
        labels: [n], 1 for genuine.

    Raises:
        RequestError: See `metrics.check_trials`.
    """
    from sklearn.isotonic import isotonic_regression

    values, genuine = check_trials(scores, labels)
    # Each class weighs a half, so the posterior is the LLR's own and equal scores share one.
    weights = np.where(genuine, 0.5 / genuine.sum(), 0.5 / (~genuine).sum())
    block = np.unique(values, return_inverse=True)[1]
    mass = np.bincount(block, weights)
    share = np.bincount(block, weights * genuine) / mass
    posterior = np.clip(isotonic_regression(share, sample_weight=mass), 0.0, 1.0)[block]
    with np.errstate(divide="ignore"):
        llrs = np.log(posterior) - np.log1p(-posterior)
    return _cllr(llrs[genuine], llrs[~genuine])


def _cllr(genuine: Float64Array, impostor: Float64Array) -> float:
    # logaddexp(0, x) = ln(1 + e^x), without overflow; infinite LLRs on their right side cost nothing.
    cost = np.logaddexp(0.0, -genuine).mean() + np.logaddexp(0.0, impostor).mean()
    return float(cost / (2.0 * math.log(2.0)))


@dataclass(frozen=True, slots=True)
class Calibration:
    """``llr = slope * score + offset``, for scores of one kind and one model.

    Attributes:
        slope: Above 0: a higher score is never a lower LLR.
        offset: Natural-log units.
        p_target: The prior at which the fit was weighted.
    """

    slope: float
    offset: float
    p_target: float

    def __post_init__(self) -> None:
        if not (0.0 < self.slope < math.inf and math.isfinite(self.offset) and 0.0 < self.p_target < 1.0):
            raise RequestError("A calibration needs a slope above 0 and a finite offset.", slope=self.slope)

    def llr(self, scores: ArrayLike) -> Float64Array:
        """Natural-log likelihood ratios float64, of the shape of `scores`."""
        return self.slope * np.asarray(scores, dtype=np.float64) + self.offset


def fit_calibration(scores: ArrayLike, labels: ArrayLike, *, p_target: float = 0.5) -> Calibration:
    """Logistic regression that weighs genuine trials `p_target` and impostor trials the rest, whatever their
    numbers (Brümmer and du Preez 2006, section 7; Brümmer et al., 'Fusion of heterogeneous speaker
    recognition systems', IEEE TASLP 15(7), 2007).

    Args:
        scores: [n], finite.
        labels: [n], 1 for genuine.
        p_target: The prior that the fit cares for most, in (0, 1).

    Raises:
        RequestError: The prior is out of range, higher scores do not mean more alike, or a threshold parts
            the classes without error, where no slope is steep enough; and see `metrics.check_trials`.
    """
    from sklearn.linear_model import LogisticRegression

    values, genuine = check_trials(scores, labels)
    if not 0.0 < p_target < 1.0:
        raise RequestError("The prior must lie in (0, 1).", p_target=p_target)
    if values[genuine].min() > values[~genuine].max():
        raise RequestError(
            "Trials without any error cannot be calibrated: more, or harder, trials are needed."
        )
    centre, spread = float(values.mean()), float(values.std())
    if spread == 0.0:
        raise RequestError("All scores are equal: they say nothing about the speakers.")
    weights = np.where(genuine, p_target / genuine.sum(), (1.0 - p_target) / (~genuine).sum()) * len(values)
    model = LogisticRegression(C=np.inf, tol=1e-8, max_iter=1000)
    model.fit(((values - centre) / spread)[:, None], genuine, sample_weight=weights)
    slope = float(model.coef_[0, 0]) / spread
    if slope <= 0.0:
        raise RequestError("Genuine trials do not score higher than impostor trials: check the labels.")
    prior = math.log(p_target) - math.log1p(-p_target)
    return Calibration(slope, float(model.intercept_[0]) - slope * centre - prior, p_target)
