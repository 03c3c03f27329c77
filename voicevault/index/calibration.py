"""How deep a re-rank must go, measured on the gallery itself.

A code is the mean of what it stands for, hence shorter: codes' products are too small by a constant factor (`scale`
undoes it), and are off by an error beside that which does not depend on how good a row is. So what decides is a
margin: a row belongs among the best k only if its estimated score is no more than the margin below the exact score of
the k-th best. A search takes all such rows as candidates, whatever their number is; `depth` is only the number to
begin with, such that one scan nearly always suffices.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from voicevault.index.codec import Scanner
from voicevault.index.products import Nearest, ranked
from voicevault.types import Float32Array, Int64Array

_PROBES = 128
"""Of each kind."""
_K = 10
_DEEP = 1 << 14
_DEVIATIONS = 4.0
"""Margin in standard deviations above the mean error: 3 in 100,000 of a normal distribution lie beyond."""
_WEAK = (0.35, 0.55)
"""Cosine between a weak probe and its own voiceprint."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """`scale` times the codes' product estimates a score; `margin` is a difference of scores; `depth` the candidates to
    begin with for the best 10; `recall` the share of the exact best 10 within the margin, over the probes tried."""

    scale: float
    margin: float
    depth: int
    recall: float

    def most(self, product: float) -> float:
        """The best score that a row with this product of its code may have."""
        return self.scale * product + self.margin

    def least(self, score: float) -> float:
        """The least product that the code of a row with this score may have."""
        return (score - self.margin) / self.scale

    def facts(self) -> dict[str, float | int]:
        return {"scale": self.scale, "margin": self.margin, "depth": self.depth, "recall": self.recall}

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> Calibration:
        return cls(float(facts["scale"]), float(facts["margin"]), int(facts["depth"]), float(facts["recall"]))


def calibrate(vectors: Float32Array, scanner: Scanner, blocks: Iterable[Float32Array]) -> Calibration:
    """Measures margin and depth with strangers and with weak probes, against the exact scan.

    A stranger is a voiceprint of the gallery that is taken to be absent from it; a weak probe lies between two.

    Args:
        vectors: float32 [n, d], all voiceprints.
        scanner: Their codes, in one shard.
        blocks: `vectors` again, in pieces.
    """
    points, absent = _probes(vectors)
    nearest, start = Nearest(points, _K + 1), 0
    for block in blocks:
        nearest.add(np.arange(start, start + len(block)), block)
        start += len(block)
    probes, places = nearest.candidates()
    step = 1 << 14
    rows = (np.take(vectors, places[at : at + step], axis=0) for at in range(0, len(places), step))
    best, scores = ranked(points, _K + 1, probes, places, rows)

    deep = min(max(_DEEP, len(vectors) // 32), len(vectors))
    scans, exact, seen = [], np.empty((len(points), _K)), np.empty((len(points), _K))
    for row, (point, skip) in enumerate(zip(points, absent, strict=True)):
        kept = np.flatnonzero(best[row] != skip)[:_K]
        found, exact[row] = best[row][kept], scores[row][kept]
        ((approximate, candidates, least),) = scanner.scan(point, deep, lambda *shard: shard)
        order = np.argsort(candidates)
        at = order[np.minimum(np.searchsorted(candidates, found, sorter=order), len(order) - 1)]
        seen[row] = np.where(candidates[at] == found, approximate[at], least)
        scans.append(approximate)
    scale = float(np.sum(exact * exact) / np.sum(exact * seen))
    errors = exact - scale * seen
    margin = max(float(errors.mean() + _DEVIATIONS * errors.std()), float(errors.max()))
    bar = exact[:, -1] - margin
    counts = [np.count_nonzero(scale * scan >= least) for scan, least in zip(scans, bar, strict=True)]
    depth = int(np.quantile(counts, 0.99) * 1.1) + 2 * _K
    recall = float(np.mean(scale * seen >= bar[:, None]))
    return Calibration(scale, margin, min(depth, len(vectors)), recall)


def _probes(vectors: Float32Array) -> tuple[Float32Array, Int64Array]:
    """Probes [2 p, d], and the row that is to be taken as absent for each, or -1."""
    random = np.random.default_rng(len(vectors))
    rows = random.choice(len(vectors), (3, min(_PROBES, len(vectors) // 3)), replace=False)
    strangers, own, other = (np.take(vectors, part, axis=0).astype(np.float64) for part in rows)
    cosine = random.uniform(*_WEAK, size=(len(own), 1))
    aside = other - np.sum(other * own, axis=1, keepdims=True) * own
    length = np.linalg.norm(aside, axis=1, keepdims=True)
    aside = np.where(length > 1e-6, aside / np.maximum(length, 1e-6), 0.0)
    weak = cosine * own + np.sqrt(1 - cosine**2) * aside
    weak /= np.linalg.norm(weak, axis=1, keepdims=True)
    points = np.concatenate([strangers, weak]).astype(np.float32)
    return points, np.concatenate([rows[0], np.full(len(weak), -1)])
