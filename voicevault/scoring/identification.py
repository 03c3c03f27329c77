"""Error rates of 1:N search: is the speaker found, and is a stranger turned away?

Shapes: ``m`` probes, ``N`` voiceprints. See ISO/IEC 19795-1 and Grother and Ngan, NIST Interagency Report
8009, section 3, for the rates.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from voicevault.errors import RequestError
from voicevault.scoring.metrics import Float64Array
from voicevault.types import Int64Array


@dataclass(frozen=True, slots=True)
class OpenSetRate:
    """One operating point of open-set identification.

    Attributes:
        fpir: False positive identification rate wanted: share of strangers with any candidate.
        threshold: The lowest score that keeps it; +inf where none does.
        dir: Detection and identification rate: share of enrolled probes whose speaker ranks first, at or
            above the threshold.
        strangers: Probes of people who are not enrolled.
        reason: Why there are no numbers.
    """

    fpir: float
    threshold: float | None
    dir: float | None
    strangers: int
    reason: str | None = None


def ranks(scores: ArrayLike, truth: ArrayLike) -> Int64Array:
    """Rank of the right voiceprint for each enrolled probe, from 1; equal scores count against it.

    Args:
        scores: [m, N], finite.
        truth: int [m], column of the right voiceprint, -1 for a stranger.

    Returns:
        int64 [enrolled probes], in order.

    Raises:
        RequestError: Shapes do not fit, or a column does not exist.
    """
    values, columns = _check(scores, truth)
    enrolled = columns >= 0
    own = values[enrolled, columns[enrolled]]
    # The right one itself is among those that reach its score.
    return np.asarray((values[enrolled] >= own[:, None]).sum(axis=1), dtype=np.int64)


def rank_accuracy(scores: ArrayLike, truth: ArrayLike) -> Float64Array:
    """Cumulative match characteristic float64 [N]: share of enrolled probes found at rank k or better.

    Raises:
        RequestError: See `ranks`; or nobody is enrolled.
    """
    values, columns = _check(scores, truth)
    found = ranks(values, columns)
    if not len(found):
        raise RequestError("No probe is of an enrolled speaker.")
    counts = np.bincount(found, minlength=values.shape[1] + 1)[1:]
    return np.asarray(np.cumsum(counts) / len(found), dtype=np.float64)


def open_set_rates(scores: ArrayLike, truth: ArrayLike, fpirs: tuple[float, ...]) -> tuple[OpenSetRate, ...]:
    """Detection and identification rate at each wanted FPIR.

    A rate that would rest on less than one false positive is not promised.

    Raises:
        RequestError: See `ranks`; or nobody is enrolled.
    """
    values, columns = _check(scores, truth)
    enrolled = columns >= 0
    if not enrolled.any():
        raise RequestError("No probe is of an enrolled speaker.")
    own = values[enrolled, columns[enrolled]]
    first = ranks(values, columns) == 1
    highest = np.sort(values[~enrolled].max(axis=1)) if (~enrolled).any() else np.zeros(0)
    rows = []
    for fpir in fpirs:
        allowed = int(np.floor(fpir * len(highest) + 1e-9))
        if allowed < 1:
            reason = f"{len(highest)} strangers' probes, {int(np.ceil(1.0 / fpir))} needed"
            rows.append(OpenSetRate(fpir, None, None, len(highest), reason))
            continue
        barred = highest[len(highest) - 1 - allowed] if allowed < len(highest) else -np.inf
        threshold = float(np.nextafter(barred, np.inf))
        share = float((first & (own >= threshold)).mean())
        rows.append(OpenSetRate(fpir, threshold, share, len(highest)))
    return tuple(rows)


def _check(scores: ArrayLike, truth: ArrayLike) -> tuple[Float64Array, Int64Array]:
    values, columns = np.asarray(scores, dtype=np.float64), np.asarray(truth, dtype=np.int64)
    if values.ndim != 2 or columns.shape != values.shape[:1] or not values.size:
        raise RequestError("There must be one row of scores per probe.", scores=list(values.shape))
    if not np.isfinite(values).all():
        raise RequestError("Scores must be finite.")
    if columns.min() < -1 or columns.max() >= values.shape[1]:
        raise RequestError("A probe names a voiceprint that is not there.", voiceprints=values.shape[1])
    return values, columns
