"""How sure an error rate is: bootstrap over speakers, because trials that share a speaker are not
independent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from voicevault.errors import RequestError
from voicevault.scoring.metrics import CostPoint, Float64Array, check_trials, crossing

REPLICATES = 500


@dataclass(frozen=True, slots=True)
class Intervals:
    """Percentile intervals.

    Attributes:
        eer: Lower and upper end.
        min_dcf: The same for each cost point asked for.
        confidence: Share of replicates inside.
        speakers: Speakers drawn from.
        replicates: How often.
    """

    eer: tuple[float, float]
    min_dcf: tuple[tuple[float, float], ...]
    confidence: float
    speakers: int
    replicates: int


def speaker_intervals(
    scores: ArrayLike,
    labels: ArrayLike,
    speakers: ArrayLike,
    *,
    points: Sequence[CostPoint] = (),
    confidence: float = 0.95,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> Intervals:
    """Intervals of EER and minDCF when the speakers are drawn anew; see `speaker_replicates`.

    Args:
        confidence: In (0, 1).

    Raises:
        RequestError: The confidence is out of range; and see `speaker_replicates`.
    """
    if not 0.0 < confidence < 1.0:
        raise RequestError("The confidence lies in (0, 1).", confidence=confidence)
    rates, costs = speaker_replicates(
        scores, labels, speakers, points=points, replicates=replicates, seed=seed
    )
    return Intervals(
        eer=interval(rates, confidence),
        min_dcf=tuple(interval(column, confidence) for column in costs.T),
        confidence=confidence,
        speakers=len(np.unique(np.asarray(speakers))),
        replicates=replicates,
    )


def interval(replicates: Float64Array, confidence: float = 0.95) -> tuple[float, float]:
    """The percentiles between which that share of the replicates lies."""
    low, high = np.percentile(replicates, (50.0 * (1.0 - confidence), 50.0 * (1.0 + confidence)))
    return float(low), float(high)


def speaker_replicates(
    scores: ArrayLike,
    labels: ArrayLike,
    speakers: ArrayLike,
    *,
    points: Sequence[CostPoint] = (),
    replicates: int = REPLICATES,
    seed: int = 0,
) -> tuple[Float64Array, Float64Array]:
    """EER float64 [replicates] and minDCF [replicates, points] when the speakers are drawn with replacement.

    A speaker drawn k times counts k times in each of their trials, so a different-speaker trial weighs the
    product of its two speakers' draws (Owen, 'The pigeonhole bootstrap', Annals of Applied Statistics 1(2),
    2007). Each replicate's EER is interpolated as `metrics.equal_error_rate` does. The draws depend on the
    seed, the labels and the speakers alone, so two models' replicates on one list are pairs.

    Args:
        scores: [n], finite.
        labels: [n], 1 for genuine.
        speakers: [n, 2], names or codes of the two speakers of each trial; equal for genuine trials.
        points: Cost points of the minDCF.
        replicates: 20 or more.
        seed: Of the draws.

    Raises:
        RequestError: Arguments out of range, speakers that contradict the labels, or too few speakers for two
            to be drawn; and see `metrics.check_trials`.
    """
    values, genuine = check_trials(scores, labels)
    if replicates < 20:
        raise RequestError("Replicates are 20 or more.", replicates=replicates)
    names, flat = np.unique(np.asarray(speakers).ravel(), return_inverse=True)
    codes = flat.reshape(-1, 2)
    if len(codes) != len(values) or not np.array_equal(codes[:, 0] == codes[:, 1], genuine):
        raise RequestError("Genuine trials must be of one speaker and impostor trials of two.")
    if len(names) < 3:
        raise RequestError("An interval over speakers needs three speakers.", speakers=len(names))
    order = np.argsort(values, kind="stable")
    ascending = values[order]
    # The first trial of each distinct score: what lies before it is rejected there. The last place rejects all.
    starts = np.append(np.flatnonzero(np.diff(ascending, prepend=-np.inf)), len(values))
    mates, others = order[genuine[order]], order[~genuine[order]]
    mates_before = np.searchsorted(values[mates], np.append(ascending[starts[:-1]], np.inf), side="left")
    others_before = np.searchsorted(values[others], np.append(ascending[starts[:-1]], np.inf), side="left")
    own, one, two = codes[mates, 0], codes[others, 0], codes[others, 1]

    random = np.random.default_rng(seed)
    rates: list[float] = []
    costs: list[list[float]] = []
    for _ in range(100 * replicates):
        if len(rates) == replicates:
            break
        drawn = random.multinomial(len(names), np.full(len(names), 1.0 / len(names)))
        rejected_mates = np.concatenate([[0], np.cumsum(drawn[own])])
        rejected_others = np.concatenate([[0], np.cumsum(drawn[one] * drawn[two])])
        if not rejected_mates[-1] or not rejected_others[-1]:
            continue  # no trial of one kind: no rate
        fnmr = rejected_mates[mates_before] / rejected_mates[-1]
        fmr = 1.0 - rejected_others[others_before] / rejected_others[-1]
        rates.append(crossing(fmr, fnmr)[0])
        costs.append([float(point.cost(fmr, fnmr).min()) for point in points])
    if len(rates) < replicates:
        raise RequestError("Too few draws of these speakers hold both kinds of trials.", speakers=len(names))
    return np.array(rates), np.array(costs, dtype=np.float64).reshape(replicates, len(points))
