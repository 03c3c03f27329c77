"""How good thresholds are on people who did not set them: cross-fitting over speakers."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import combinations_with_replacement
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voicevault.errors import RequestError
from voicevault.scoring.metrics import CostPoint
from voicevault.scoring.policy import PolicyRow, operating_points

FOLDS = 5


def cross_fitted(
    scores: NDArray[np.float64],
    genuine: NDArray[np.bool_],
    pairs: Sequence[tuple[str, str]],
    rows: Sequence[PolicyRow],
    *,
    costs: Sequence[tuple[str, CostPoint]] = (),
) -> dict[str, Any]:
    """The rates at thresholds that other people set, beside those at the thresholds of all.

    The speakers are parted into five folds. A trial of speakers in the folds i and j is decided by the threshold of the
    trials in which nobody of i and j takes part, for dependence runs along speakers (cross-fitting of pairs: Chiang, Kato, Ma
    and Sasaki 2022, 'Multiway cluster robust double/debiased machine learning', JBES 40(3)). So every trial counts once.

    Args:
        scores, genuine, pairs: [n] cosines, labels, and the two speakers of each trial.
        rows: The thresholds of all speakers; rows without one are left out.
        costs: Of the rows that stand for a least cost.

    Returns:
        ``folds`` and ``rows``: by name the FMR and FNMR in sample and cross-fitted, and the lowest and highest threshold of
        the folds; or ``reason``, where there is no such measure.
    """
    kept = {row.name: row.threshold for row in rows if row.threshold is not None}
    if not kept:
        return {"reason": "no threshold to measure"}
    fold = _folds({speaker for pair in pairs for speaker in pair})
    sides = np.sort(np.array([[fold[first], fold[second]] for first, second in pairs]), axis=1)
    thresholds = np.full((len(kept), len(scores)), np.nan)
    for i, j in combinations_with_replacement(range(FOLDS), 2):
        decided = (sides[:, 0] == i) & (sides[:, 1] == j)
        others = ~np.isin(sides, (i, j)).any(axis=1)
        try:
            points = operating_points(scores[others], genuine[others], costs=costs)
        except RequestError as error:
            return {"reason": f"too few speakers for {FOLDS} folds: {error.message}"}
        found = {name: np.inf if threshold is None else threshold for name, _, threshold in points}
        for row, name in enumerate(kept):
            thresholds[row, decided] = found[name]
    return {
        "folds": FOLDS,
        "rows": {
            name: {
                "fmr_in_sample": float((scores[~genuine] >= kept[name]).mean()),
                "fmr_cross_fitted": float((scores >= own)[~genuine].mean()),
                "fnmr_in_sample": float((scores[genuine] < kept[name]).mean()),
                "fnmr_cross_fitted": float((scores < own)[genuine].mean()),
                "thresholds": [float(end) if np.isfinite(end) else None for end in (own.min(), own.max())],
            }
            for name, own in zip(kept, thresholds, strict=True)
        },
    }


def _folds(speakers: set[str]) -> dict[str, int]:
    """Folds of equal size, drawn by a hash of the names."""
    drawn = sorted(speakers, key=lambda name: hashlib.sha256(f"fold\t{name}".encode()).digest())
    return {speaker: i % FOLDS for i, speaker in enumerate(drawn)}
