"""Galleries for the tests of the index: speaker-like vectors, with duplicates and near ties."""

from __future__ import annotations

from typing import Any

import numpy as np

from voicevault.types import Change, Float32Array, Int64Array, Op

DIM = 32


def unit(rows: object) -> Float32Array:
    array = np.asarray(rows, dtype=np.float64)
    return (array / np.linalg.norm(array, axis=-1, keepdims=True)).astype(np.float32)


def gallery(count: int, seed: int = 0, dim: int = DIM) -> tuple[Int64Array, Float32Array]:
    """Rising keys with gaps, and vectors: one in ten is a copy of another, one in ten lies within 1e-4 of another."""
    random = np.random.default_rng(seed)
    vectors = unit(random.normal(size=(count, dim)) * np.linspace(1.5, 0.5, dim))
    some = random.permutation(count)
    tenth = count // 10
    vectors[some[:tenth]] = vectors[some[tenth : 2 * tenth]]
    vectors[some[2 * tenth : 3 * tenth]] = unit(
        vectors[some[3 * tenth : 4 * tenth]] + random.normal(0, 1e-5, size=(tenth, dim))
    )
    return np.cumsum(random.integers(1, 4, count)), vectors


def probes_of(vectors: Float32Array, count: int, seed: int = 1) -> Float32Array:
    """Copies, own voices (cosine 0.4 to 0.9) and strangers in turn."""
    random = np.random.default_rng(seed)
    own = vectors[random.integers(0, len(vectors), count)].astype(np.float64)
    cosine = random.uniform(0.4, 0.9, (count, 1))
    noise = random.normal(size=own.shape)
    noise -= (noise * own).sum(axis=1, keepdims=True) * own
    probes = cosine * own + np.sqrt(1 - cosine**2) * unit(noise)
    probes[::3] = own[::3]
    probes[2::3] = random.normal(size=probes[2::3].shape)
    return unit(probes)


def half_precision(dim: int) -> Any:
    """A CPU index of the precision that GPU indexes have."""
    import faiss

    return faiss.IndexScalarQuantizer(dim, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)


def upsert(generation: int, key: int, vector: Float32Array) -> Change:
    return Change(generation, f"t{generation}", key, Op.UPSERT, vector)


def remove(generation: int, key: int) -> Change:
    return Change(generation, f"t{generation}", key, Op.REMOVE, None)
