"""AS-norm against its formula in plain loops, and the file of the cohort."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from voicevault.errors import CheckpointError, ModelMismatchError, RequestError
from voicevault.scoring.normalise import Cohort


def units(count: int, seed: int, dim: int = 16) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32)
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), dtype=np.float32)


def test_each_side_is_measured_by_its_nearest_cohort_speakers() -> None:
    cohort, vectors = Cohort(units(40, 1), "m"), units(6, 2)
    enroll, test = np.triu_indices(6, 1)
    scores = (vectors[enroll] * vectors[test]).sum(axis=1).astype(np.float64)
    found = cohort.normalise(scores, vectors, enroll, test, model_id="m", top=10)
    for i in range(len(scores)):
        both = 0.0
        for side in (enroll[i], test[i]):
            near = sorted((float(vectors[side] @ c) for c in cohort.vectors), reverse=True)[:10]
            both += (scores[i] - np.mean(near)) / np.std(near)
        assert found.values[i] == pytest.approx(both / 2, rel=1e-4)
    assert (found.model_id, found.cohort) == ("m", 40)


def test_what_a_channel_adds_to_all_its_scores_is_taken_out() -> None:
    channel = units(1, 5, dim=32)

    def heard(count: int, seed: int, share: float) -> np.ndarray:
        rows = units(count, seed, dim=32) + share * channel
        return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), dtype=np.float32)

    cohort = Cohort(np.concatenate([heard(150, 1, 0.0), heard(150, 2, 0.8)]), "m")
    vectors = np.concatenate([heard(30, 3, 0.0), heard(30, 4, 0.8)])
    enroll, test = (side.astype(np.int64) for side in np.triu_indices(60, 1))
    scores = (vectors[enroll] * vectors[test]).sum(axis=1).astype(np.float64)
    normalised = cohort.normalise(scores, vectors, enroll, test, model_id="m", top=80).values
    plain, shared = test < 30, enroll >= 30

    def gap(values: np.ndarray) -> float:
        return float((values[shared].mean() - values[plain].mean()) / values[plain].std())

    assert gap(scores) > 1.5
    assert gap(normalised) < 0.5 * gap(scores)


def test_the_file_comes_back_as_it_was_and_belongs_to_one_model(tmp_path: Path) -> None:
    path = tmp_path / "cohort.safetensors"
    Cohort(units(5, 1), "m", "five people").save(path)
    loaded = Cohort.load(path, "m")
    assert np.array_equal(loaded.vectors, units(5, 1))
    assert (loaded.model_id, loaded.description) == ("m", "five people")
    with pytest.raises(CheckpointError, match="another model"):
        Cohort.load(path, "n")
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(CheckpointError, match="cannot be used"):
        Cohort.load(path)
    path.write_bytes(b"")
    with pytest.raises(CheckpointError, match="cannot be used"):
        Cohort.load(path)


def test_what_cannot_be_normalised_is_refused() -> None:
    cohort, vectors, sides = Cohort(units(5, 1), "m"), units(2, 2), np.array([0])
    with pytest.raises(ModelMismatchError):
        cohort.normalise(np.array([0.5]), vectors, sides, sides + 1, model_id="n", top=3)
    with pytest.raises(RequestError, match="5 speakers"):
        cohort.normalise(np.array([0.5]), vectors, sides, sides + 1, model_id="m")
    with pytest.raises(ModelMismatchError):
        cohort.statistics(units(2, 2, dim=8), top=3)
    with pytest.raises(RequestError, match="unit vectors"):
        Cohort(units(5, 1) * 2, "m")
    same = Cohort(np.repeat(units(1, 1), 4, axis=0), "m")
    with pytest.raises(RequestError, match="equally far"):
        same.normalise(np.array([0.5]), units(2, 2), sides, sides + 1, model_id="m", top=3)
