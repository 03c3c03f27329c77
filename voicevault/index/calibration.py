"""How deep a re-rank must go, measured on the gallery itself.

A code is the mean of what it stands for, hence shorter: codes' products are too small by a constant factor (`scale`
undoes it), and are off by an error beside that which does not depend on how good a row is. So what decides is a
margin: a row belongs among the best k only if its estimated score is no more than the margin below the exact score of
the k-th best. A search takes all such rows as candidates, whatever their number is; `depth` is only the number to
begin with, such that one scan nearly always suffices.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voicevault.index.codec import Scanner
from voicevault.index.products import Nearest, ranked
from voicevault.types import Float32Array, Int64Array

_PROBES = 128
"""Of each kind."""
K = 10
"""Neighbours that recall is measured over."""
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
    take = partial(np.take, vectors, axis=0)
    points, absent = draw_probes(np.arange(len(vectors)), take)
    absent[len(absent) // 2 :] = -1  # what weak probes find does not matter, only how far off codes are
    best, exact = exact_best(points, absent, _placed(blocks), take)

    deep = min(max(_DEEP, len(vectors) // 32), len(vectors))
    scans, seen = [], np.empty((len(points), K))
    for row, (point, found) in enumerate(zip(points, best, strict=True)):
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
    depth = int(np.quantile(counts, 0.99) * 1.1) + 2 * K
    recall = float(np.mean(scale * seen >= bar[:, None]))
    return Calibration(scale, margin, min(depth, len(vectors)), recall)


def draw_probes(
    live: Int64Array, take: Callable[[Int64Array], Float32Array], count: int = _PROBES
) -> tuple[Float32Array, Int64Array]:
    """Probes [2 p, d], strangers and then weak ones, and for each the row to be taken as absent: the stranger's own, and
    the other voice that a weak probe is a mixture with.

    Args:
        live: The rows to draw from.
        take: Their vectors.
        count: p, strangers and as many weak probes; fewer where there are not three times as many rows.
    """
    random = np.random.default_rng(len(live))
    rows = live[random.choice(len(live), (3, min(count, len(live) // 3)), replace=False)]
    strangers, own, other = (take(part).astype(np.float64) for part in rows)
    cosine = random.uniform(*_WEAK, size=(len(own), 1))
    aside = other - np.sum(other * own, axis=1, keepdims=True) * own
    length = np.linalg.norm(aside, axis=1, keepdims=True)
    aside = np.where(length > 1e-6, aside / np.maximum(length, 1e-6), 0.0)
    weak = cosine * own + np.sqrt(1 - cosine**2) * aside
    weak /= np.linalg.norm(weak, axis=1, keepdims=True)
    points = np.concatenate([strangers, weak]).astype(np.float32)
    return points, np.concatenate([rows[0], rows[2]])


def exact_best(
    points: Float32Array,
    absent: Int64Array,
    blocks: Iterable[tuple[Int64Array, Float32Array]],
    take: Callable[[Int64Array], Float32Array],
) -> tuple[Int64Array, NDArray[np.float64]]:
    """Rows and scores [m, K] of the exact best of each probe [m, d], in order.

    Args:
        absent: The row that each is not to find, or -1.
        blocks: Rows and their vectors, all that are to be compared.
        take: Vectors of some rows.
    """
    nearest = Nearest(points, K + 1)
    for places, block in blocks:
        nearest.add(places, block)
    probes, places = nearest.candidates()
    step = 1 << 14
    pieces = (take(places[at : at + step]) for at in range(0, len(places), step))
    rows, scores = ranked(points, K + 1, probes, places, pieces)
    kept = np.argsort(rows == absent[:, None], axis=1, kind="stable")[:, :K]
    return np.take_along_axis(rows, kept, 1), np.take_along_axis(scores, kept, 1).astype(np.float64)


def _placed(blocks: Iterable[Float32Array]) -> Iterable[tuple[Int64Array, Float32Array]]:
    start = 0
    for block in blocks:
        yield np.arange(start, start + len(block)), block
        start += len(block)
