"""All pairs of a gallery that are alike: one person under two names, most often."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from voicevault.errors import RequestError
from voicevault.index.products import exact_scores, rounding, unit_rows
from voicevault.types import Float32Array, Int64Array

_SIDE = 2048
"""Rows on each side of a block of products: 16 MB."""


def similar_pairs(
    keys: Int64Array,
    vectors: Float32Array,
    threshold: float,
    most: int,
    step: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Int64Array, Float32Array]:
    """The pairs with a score of at least `threshold`, exactly: by score descending, then by their keys.

    A matrix product of each block of rows with each: n^2 d operations. 100,000 voiceprints of 192 dimensions take
    some ten seconds on two cores.

    Args:
        keys: int64 [n], rising.
        vectors: float32 [n, d], unit rows.
        threshold: In [-1, 1].
        most: At most so many pairs, the best; at least 1.
        step: Told the blocks that are done, and all.

    Returns:
        Keys int64 [p, 2], the smaller first, and scores float32 [p].

    Raises:
        RequestError: The arguments are not as above.
    """
    if most < 1 or not -1.0 <= threshold <= 1.0:
        raise RequestError("A threshold is a cosine, and at least one pair must be asked for.", most=most)
    unit_rows(vectors, vectors.shape[1])
    slack = rounding(vectors.shape[1])
    bar = np.float32(threshold - slack)
    starts = range(0, len(vectors), _SIDE)
    found: list[tuple[Int64Array, Int64Array, Float32Array]] = []
    pending, done, total = 0, 0, len(starts) * (len(starts) + 1) // 2
    for first in starts:
        for second in starts[first // _SIDE :]:
            products = vectors[first : first + _SIDE] @ vectors[second : second + _SIDE].T
            hits = np.flatnonzero(products >= bar)
            left, right = np.divmod(hits, products.shape[1])
            left, right, scores = left + first, right + second, products.reshape(-1)[hits]
            ordered = left < right
            found.append((left[ordered], right[ordered], scores[ordered]))
            pending += int(ordered.sum())
            if pending > max(4 * most, 1 << 18):
                found, bar = _pruned(found, most, slack, bar)
                pending = len(found[0][0])
            done += 1
            step(done, total)
    if not found:
        return np.empty((0, 2), dtype=np.int64), np.empty(0, dtype=np.float32)
    left, right, _ = _pruned(found, most, slack, bar)[0][0]
    exact = np.empty(len(left), dtype=np.float32)
    for at in range(0, len(left), _SIDE):
        part = slice(at, at + _SIDE)
        exact[part] = exact_scores(vectors[left[part]], vectors[right[part]])
    order = np.lexsort((keys[right], keys[left], -exact))
    order = order[exact[order].astype(np.float64) >= threshold][:most]
    return np.stack([keys[left], keys[right]], axis=1)[order], exact[order]


def _pruned(
    found: list[tuple[Int64Array, Int64Array, Float32Array]], most: int, slack: float, bar: np.float32
) -> tuple[list[tuple[Int64Array, Int64Array, Float32Array]], np.float32]:
    left, right, scores = (np.concatenate(part) for part in zip(*found, strict=True))
    if len(scores) > most:
        least = np.partition(scores, len(scores) - most)[len(scores) - most]
        bar = max(bar, np.float32(least - 2 * slack))
    kept = scores >= bar
    return [(left[kept], right[kept], scores[kept])], bar
