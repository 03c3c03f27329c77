"""Pairs that are alike, against counting."""

from __future__ import annotations

import numpy as np
import pytest

from tests.index.galleries import gallery
from voicevault.errors import RequestError
from voicevault.index.pairs import similar_pairs
from voicevault.types import Float32Array, Int64Array

KEYS, VECTORS = gallery(300, seed=3)


def counted(keys: Int64Array, vectors: Float32Array, threshold: float) -> list[tuple[float, int, int]]:
    pairs = []
    for left in range(len(keys)):
        products = (vectors[left + 1 :].astype(np.float64) * vectors[left]).sum(axis=1).astype(np.float32)
        for right, score in enumerate(np.clip(products, -1, 1).tolist(), start=left + 1):
            if score >= threshold:
                pairs.append((-score, int(keys[left]), int(keys[right])))
    return sorted(pairs)


@pytest.mark.parametrize("side", [64, 2048])
@pytest.mark.parametrize("threshold", [-1.0, 0.3, 0.9999, 1.0])
@pytest.mark.parametrize("most", [1, 50, 10**6])
def test_as_counted(side: int, threshold: float, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("voicevault.index.pairs._SIDE", side)
    steps: list[tuple[int, int]] = []
    pairs, scores = similar_pairs(KEYS, VECTORS, threshold, most, lambda *done: steps.append(done))
    expected = counted(KEYS, VECTORS, threshold)[:most]
    assert [(-score, *pair) for score, pair in zip(scores.tolist(), pairs.tolist(), strict=True)] == expected
    assert steps[-1][0] == steps[-1][1] == len(steps)


def test_pruning_on_the_way_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("voicevault.index.pairs._SIDE", 600)
    keys, vectors = gallery(800, seed=4)
    pairs, scores = similar_pairs(keys, vectors, -1.0, 40)  # 319,600 pairs are above it
    assert [(-s, *p) for s, p in zip(scores.tolist(), pairs.tolist(), strict=True)] == counted(
        keys, vectors, 0.5
    )[:40]


def test_nobody_and_one_alone() -> None:
    for count in (0, 1):
        pairs, scores = similar_pairs(KEYS[:count], VECTORS[:count], 0.0, 10)
        assert pairs.shape == (0, 2)
        assert scores.shape == (0,)


def test_questions_that_make_no_sense_are_refused() -> None:
    for vectors, threshold, most in ((VECTORS, 1.5, 1), (VECTORS, 0.5, 0), (VECTORS * 2, 0.5, 1)):
        with pytest.raises(RequestError):
            similar_pairs(KEYS, vectors, threshold, most)
