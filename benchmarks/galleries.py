"""Large galleries of voiceprints and probes of three kinds, drawn from one seed.

``hard`` is an anisotropic Gaussian in a random basis with an effective dimension of 100 (participation ratio), so that
impostor cosines are about N(0, 0.1): no clusters help any index. ``grown`` has the mean, the scatter between speakers
and the scatter within a speaker of real embeddings of a model, both normal and shrunk (Ledoit and Wolf, 2004).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.benchmark import Options
from benchmarks.workbench import by_speaker, find_recordings, model_path
from voicevault.types import Float32Array

if TYPE_CHECKING:
    from numpy.typing import NDArray

KINDS = ("own", "weak", "stranger")
EFFECTIVE_DIMENSION = 100
OWN, WEAK = (0.70, 0.07), (0.35, 0.55)
"""Cosine of a probe and its voiceprint in a hard gallery: mean and deviation, and the range of weak ones."""
_STEP = 1 << 16
_PER_SPEAKER, _SPEAKERS = 6, 120


@dataclass(frozen=True, slots=True, eq=False)
class Population:
    """Voiceprints are unit(mean + z @ between), own probes unit(voiceprint + z @ within), with z normal; `within` is
    None where probes are drawn at a given cosine instead."""

    name: str
    mean: NDArray[np.float64]
    between: NDArray[np.float64]
    within: NDArray[np.float64] | None
    note: str

    def speakers(self, count: int, seed: int) -> Float32Array:
        """float32 [count, d] unit vectors."""
        random = np.random.default_rng(seed)
        rows = np.empty((count, len(self.mean)), dtype=np.float32)
        shape, mean = self.between.astype(np.float32), self.mean.astype(np.float32)
        for at in range(0, count, _STEP):
            drawn = random.standard_normal((min(_STEP, count - at), len(mean)), dtype=np.float32)
            rows[at : at + _STEP] = _unit(mean + drawn @ shape)
        return rows

    def probes(self, gallery: Float32Array, count: int, kind: str, seed: int) -> Float32Array:
        """float32 [count, d] unit vectors of one of KINDS."""
        random = np.random.default_rng([seed, KINDS.index(kind)])
        if kind == "stranger":
            return self.speakers(count, int(random.integers(1 << 62)))
        own = gallery[random.integers(0, len(gallery), count)].astype(np.float64)
        if self.within is not None and kind == "own":
            return _unit(own + random.standard_normal(own.shape) @ self.within).astype(np.float32)
        if kind == "own":
            cosine = np.clip(random.normal(*OWN, (count, 1)), 0.3, 0.99)
        else:
            cosine = random.uniform(*WEAK, (count, 1))
        aside = random.standard_normal(own.shape) @ self.between
        aside -= np.sum(aside * own, axis=1, keepdims=True) * own
        return _unit(cosine * own + np.sqrt(1 - cosine**2) * _unit(aside)).astype(np.float32)


def hard(dim: int, seed: int) -> Population:
    """The synthetic population; below 200 dimensions its effective dimension is half of them."""
    wanted = min(EFFECTIVE_DIMENSION, dim / 2)
    low, high = 0.0, 50.0
    for _ in range(60):
        middle = (low + high) / 2
        weights = np.exp(-middle * np.arange(dim) / dim)
        low, high = (middle, high) if weights.sum() ** 2 / (weights**2).sum() > wanted else (low, middle)
    basis = np.linalg.qr(np.random.default_rng(seed).standard_normal((dim, dim)))[0]
    between = np.sqrt(weights / weights.sum())[:, None] * basis
    return Population("hard", np.zeros(dim), between, None, f"effective dimension {wanted:g}")


def grown(options: Options) -> Population:
    """The population of a model's own embeddings of the recordings that the options name.

    Raises:
        RequestError: There are too few recordings; ModelNotFoundError, ManifestError.
    """
    from sklearn.covariance import ledoit_wolf

    from voicevault.embedding import EmbeddingPipeline
    from voicevault.encoder import LazyEncoder
    from voicevault.errors import AudioError, RequestError

    pipeline = EmbeddingPipeline(LazyEncoder(model_path(options)))
    speakers: list[NDArray[np.float64]] = []
    for rows in list(by_speaker(find_recordings(options)).values())[:_SPEAKERS]:
        found = []
        for row in rows[:_PER_SPEAKER]:
            try:
                found.append(pipeline.embed_one(row.path, min_speech=None).vector)
            except AudioError:
                continue
        if len(found) > 1:
            speakers.append(np.array(found, dtype=np.float64))
    if len(speakers) < 3:
        raise RequestError("A grown gallery needs three speakers with two recordings each; give --voices.")
    means = np.array([rows.mean(axis=0) for rows in speakers])
    within = np.concatenate([rows - rows.mean(axis=0) for rows in speakers])
    note = f"{sum(map(len, speakers))} recordings of {len(speakers)} speakers"
    return Population(
        "grown",
        means.mean(axis=0),
        _root(ledoit_wolf(means)[0]),
        _root(ledoit_wolf(within)[0]),
        note,
    )


def _root(covariance: NDArray[np.float64]) -> NDArray[np.float64]:
    values, axes = np.linalg.eigh(covariance)
    root: NDArray[np.float64] = np.sqrt(np.maximum(values, 0))[:, None] * axes.T
    return root


def _unit(rows: NDArray[np.floating]) -> NDArray[np.floating]:
    found: NDArray[np.floating] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return found


def mixed(
    population: Population, gallery: Float32Array, count: int, seed: int
) -> tuple[Float32Array, Sequence[str]]:
    """`count` probes, a third of each kind in turn, and the kind of each."""
    each = -(-count // len(KINDS))
    probes = np.stack([population.probes(gallery, each, kind, seed) for kind in KINDS], axis=1)
    return probes.reshape(-1, gallery.shape[1])[:count], (list(KINDS) * each)[:count]
