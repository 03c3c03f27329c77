"""The array operations of the indexes: products, and exact order among candidates.

A score is the product of two unit vectors, summed in float64 and rounded once to float32: it does not depend on a
row's place, on the filter or on the size of a batch. float32 products find the candidates.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voicevault.errors import RequestError
from voicevault.types import Float32Array, Int64Array

_UNIT_TOLERANCE = 1e-3
_SCORES = 1 << 20
"""Products held at a time: 4 MB, which stays in the caches."""
_MOST_PROBES = 1024
_EXACT = 1 << 14
"""Rows summed in float64 at a time."""


def unit_rows(rows: Float32Array, dim: int) -> Float32Array:
    """`rows` as they are.

    Raises:
        RequestError: They are not [n, dim], or a row is not finite and of unit length.
    """
    if rows.ndim != 2 or rows.shape[1] != dim:
        raise RequestError("Vectors have the wrong shape.", shape=list(rows.shape), dim=dim)
    off = np.abs(np.vecdot(rows, rows) - 1)
    if len(rows) and not off.max() <= 2 * _UNIT_TOLERANCE:  # which NaN is not
        raise RequestError("Vectors must have unit length.")
    return rows


def rounding(dim: int) -> float:
    """How far a float32 product of two unit vectors [dim] may be from its score."""
    # d * 2^-24 at most (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1); doubled for uneven
    # lengths and the last rounding.
    return (dim + 2) * 2.0**-23


def exact_scores(rows: Float32Array, point: Float32Array) -> Float32Array:
    """The scores float32 [n] of unit vectors [n, d] against one of [d] or, row by row, [n, d]."""
    # Products of two float32 are exact in float64.
    sums = (rows.astype(np.float64) * point).sum(axis=1)
    scores: Float32Array = np.maximum(np.minimum(sums.astype(np.float32), 1.0), -1.0)
    return scores


class one_thread:
    """Within it, FAISS works on the calling thread alone: one query over several OpenMP threads costs two to three
    times the processor time and gains none, and a build must leave cores to the answers."""

    def __enter__(self) -> None:
        import faiss  # heavy, and not needed to write or to import this module

        self._threads = faiss.omp_get_max_threads()  # this thread's own setting
        if self._threads != 1:
            faiss.omp_set_num_threads(1)

    def __exit__(self, *_: object) -> None:
        import faiss

        if self._threads != 1:
            faiss.omp_set_num_threads(self._threads)


def within(keys: Int64Array, allow: Int64Array) -> NDArray[np.bool_]:
    """Which of `keys` [n] are among `allow` (rising)."""
    if not len(allow):
        return np.zeros(len(keys), dtype=np.bool_)
    at = np.minimum(np.searchsorted(allow, keys), len(allow) - 1)
    found: NDArray[np.bool_] = allow[at] == keys
    return found


def ask_for_huge_pages(array: NDArray[Any]) -> None:
    """Asks the system, where it can, for huge pages under an array that is not written yet. A scan that finds the
    translations of small pages gone from the caches takes a tenth longer, and more where memory is fragmented."""
    advice = getattr(mmap, "MADV_HUGEPAGE", None)
    if advice is None:
        return
    start = -(-array.ctypes.data // mmap.PAGESIZE) * mmap.PAGESIZE
    size = (array.ctypes.data + array.nbytes - start) // mmap.PAGESIZE * mmap.PAGESIZE
    if size > 0:  # what it answers does not matter: an advice
        ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(size), advice)


def row_products(point: Float32Array, vectors: Float32Array, rows: Int64Array) -> Float32Array:
    """float32 products [r] of one probe [d] with rows of `vectors` [n, d], read where they lie."""
    from faiss import fvec_inner_products_by_idx, swig_ptr  # type: ignore[attr-defined]

    # Three times as fast as copying the rows out, and as knn of the library, on one thread.
    point, rows = np.ascontiguousarray(point), np.ascontiguousarray(rows)
    found = np.empty(len(rows), dtype=np.float32)
    with one_thread():
        fvec_inner_products_by_idx(
            swig_ptr(found), swig_ptr(point), swig_ptr(vectors), swig_ptr(rows), len(point), 1, len(rows)
        )
    return found


def best_rows(
    point: Float32Array, k: int, vectors: Float32Array, keys: Int64Array, rows: Int64Array
) -> tuple[Int64Array, Float32Array]:
    """Keys and scores [min(k, r)] of the best of `rows` [r] for one probe [d], exactly and in order."""
    near = rows[best_of(row_products(point, vectors, rows), rounding(len(point)), k)]
    near_keys, scores = keys[near], exact_scores(np.take(vectors, near, axis=0), point)
    order = np.lexsort((near_keys, -scores))[:k]
    return near_keys[order], scores[order]


def best_of(rough: Float32Array, error: float, k: int) -> Int64Array:
    """The places, in no order, of all that may be among the best k of `rough` [n], each known to within `error`."""
    if len(rough) <= k:
        return np.arange(len(rough))
    ordered = rough.copy()
    ordered.partition(len(rough) - k)
    places: Int64Array = (rough >= ordered[len(rough) - k] - 2 * error).nonzero()[0]
    return places


class Nearest:
    """The exact best k for each of `points` [m, d], over rows that come in blocks: one matrix product a block.

    Every row whose float32 product could still be among the best is kept, so that the order of the exact scores,
    ties included, decides. What is kept for a probe is k rows and those within rounding of the last of them.
    """

    def __init__(self, points: Float32Array, k: int) -> None:
        self._points, self._k = points, k
        self._slack = 2 * rounding(points.shape[1])
        self._least = np.full(len(points), -np.inf, dtype=np.float32)
        self._found: list[tuple[Int64Array, Int64Array, Float32Array]] = []
        self._pending = 0
        self._scores = np.empty(0, dtype=np.float32)
        self._near = np.empty(0, dtype=np.bool_)

    @staticmethod
    def block(probes: int) -> int:
        """Rows per block for a number of probes."""
        return max(512, min(1 << 14, _SCORES // max(1, min(probes, _MOST_PROBES))))

    def add(self, places: Int64Array, rows: Float32Array) -> None:
        """Compares rows [b, d] that stand at `places` [b]."""
        for start in range(0, len(self._points), _MOST_PROBES):
            some = slice(start, start + _MOST_PROBES)
            scores, near = self._room(len(self._points[some]), len(rows))
            np.matmul(self._points[some], rows.T, out=scores)
            if self._least[start] == -np.inf and len(rows) > self._k:
                # Until there is a bar, the block sets one.
                least = np.partition(scores, len(rows) - self._k, axis=1)[:, len(rows) - self._k]
                self._least[some] = np.maximum(self._least[some], least)
            hits = np.flatnonzero(
                np.greater_equal(scores, (self._least[some] - self._slack)[:, None], out=near)
            )
            if len(hits):
                self._found.append(
                    (hits // len(rows) + start, places[hits % len(rows)], scores.reshape(-1)[hits])
                )
                self._pending += len(hits)
        if self._pending > 2 * len(self._points) * (self._k + 32):
            self._settle()

    def _room(self, probes: int, rows: int) -> tuple[Float32Array, NDArray[np.bool_]]:
        """Two arrays [probes, rows], the same memory for every block: new pages cost as much as a quarter of the product."""
        size = probes * rows
        if size > len(self._scores):
            self._scores, self._near = np.empty(size, dtype=np.float32), np.empty(size, dtype=np.bool_)
        return self._scores[:size].reshape(probes, rows), self._near[:size].reshape(probes, rows)

    def candidates(self) -> tuple[Int64Array, Int64Array]:
        """Probe and place of each row that may be among the best, by probe."""
        self._settle()
        if not self._found:
            return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
        return self._found[0][:2]

    def _settle(self) -> None:
        if not self._found:
            return
        probes, places, scores = (np.concatenate(part) for part in zip(*self._found, strict=True))
        # By probe, then score, which is in [-1, 1]: one sort is faster than two.
        order = np.argsort(4.0 * probes - scores)
        probes, places, scores = probes[order], places[order], scores[order]
        starts = np.searchsorted(probes, np.arange(len(self._points) + 1))
        full = np.flatnonzero(np.diff(starts) >= self._k)
        self._least[full] = scores[starts[full] + self._k - 1]
        kept = scores >= self._least[probes] - self._slack
        self._found = [(probes[kept], places[kept], scores[kept])]
        self._pending = 0


def ranked(
    points: Float32Array, k: int, probes: Int64Array, keys: Int64Array, rows: Iterable[Float32Array]
) -> tuple[Int64Array, Float32Array]:
    """The best k of each probe, by score descending and then key, from candidates sorted by probe.

    Args:
        points: float32 [m, d].
        k: No more than each probe has candidates.
        probes, keys: int64 [c], the probe that a candidate belongs to, and its key.
        rows: The candidates' vectors in order, in pieces.

    Returns:
        Keys int64 and scores float32 [m, k].
    """
    scores, done = np.empty(len(probes), dtype=np.float32), 0
    for piece in rows:
        part = slice(done, done + len(piece))
        scores[part] = exact_scores(piece, points[probes[part]])
        done += len(piece)
    order = np.lexsort((keys, -scores, probes))
    first = np.searchsorted(probes, np.arange(len(points)))
    chosen = order[first[:, None] + np.arange(k)]
    return keys[chosen], scores[chosen]
