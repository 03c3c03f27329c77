"""The two array operations of the flat index."""

from __future__ import annotations

import numpy as np

from voicevault.errors import RequestError
from voicevault.types import Float32Array, Int64Array

_UNIT_TOLERANCE = 1e-3
_BATCH = 20


def inner_products(points: Float32Array, rows: Float32Array, k: int) -> tuple[Float32Array, Int64Array]:
    """Scores and rows [m, k] of the best k of `rows` [n, d] for each of `points` [m, d]; 1 <= k <= n."""
    import faiss  # heavy, and not needed to write or to import this module

    # From here on a batch is one matrix product: four times as fast for 64 queries over 100,000 rows. The
    # border of the library is far above any batch. Only speed and the last bits of its scores depend on it.
    if faiss.cvar.distance_compute_blas_threshold != _BATCH:
        faiss.cvar.distance_compute_blas_threshold = _BATCH
    threads = faiss.omp_get_max_threads()
    if len(points) == 1:
        # One query over several OpenMP threads costs two to three times the processor time and gains none.
        # The setting is this thread's own.
        faiss.omp_set_num_threads(1)
    try:
        scores, places = faiss.knn(points, rows, k, metric=faiss.METRIC_INNER_PRODUCT)
    finally:
        faiss.omp_set_num_threads(threads)
    return scores, places


def unit_rows(rows: Float32Array, dim: int) -> Float32Array:
    """`rows` as they are.

    Raises:
        RequestError: They are not [n, dim], or a row is not finite and of unit length.
    """
    if rows.ndim != 2 or rows.shape[1] != dim:
        raise RequestError("Vectors have the wrong shape.", shape=list(rows.shape), dim=dim)
    lengths = np.sqrt(np.einsum("ij,ij->i", rows, rows, dtype=np.float64))
    if not (np.abs(lengths - 1.0) <= _UNIT_TOLERANCE).all():  # NaN fails this too
        raise RequestError("Vectors must have unit length.")
    return rows
