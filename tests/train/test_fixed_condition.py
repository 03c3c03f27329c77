"""The fixed condition of a validation: the same at every validation and in every training, and heard."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import train.augment
from train.augment import AugmentConfig, Augmenter
from train.config import FitConfig
from train.fixed_condition import FixedCondition
from train.split import Corpus, read_corpus
from voicevault.errors import ManifestError
from voicevault.types import Float32Array


def config(seed: int = 1, validation_seed: int | None = 4, **augment: object) -> FitConfig:
    values = {
        "name": "x",
        "seed": seed,
        "optimiser": {"steps": 1},
        "validation": {"share": 0.3, "seed": validation_seed},
        "augment": augment,
    }
    return FitConfig.model_validate(values)


@pytest.fixture(scope="module")
def kept_out(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return read_corpus(config(), corpus, tmp_path_factory.mktemp("cache"))


def heard(settings: FitConfig, root: Path, kept_out: Corpus) -> list[Float32Array]:
    utterances = kept_out.validation[:12]
    condition = FixedCondition(settings, root, kept_out.cache, utterances)
    return [condition(kept_out.cache.read(u), place) for place, u in enumerate(utterances)]


def test_a_recording_sounds_the_same_in_every_training_with_that_validation_seed(
    corpus: Path, kept_out: Corpus
) -> None:
    first = heard(config(), corpus, kept_out)
    other = heard(config(seed=9, noise=0.0, reverb=0.9, snr_db=(0.0, 1.0)), corpus, kept_out)
    assert all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))
    reseeded = heard(config(validation_seed=5), corpus, kept_out)
    assert not any(np.array_equal(a, b) for a, b in zip(first, reseeded, strict=True))
    # Without a seed of its own the validation has the training's.
    own = heard(config(seed=4, validation_seed=None), corpus, kept_out)
    assert all(np.array_equal(a, b) for a, b in zip(first, own, strict=True))
    # Asked for in another order, or after a pause.
    utterances = kept_out.validation[:12]
    condition = FixedCondition(config(), corpus, kept_out.cache, utterances)
    again = [condition(kept_out.cache.read(u), 11 - i) for i, u in enumerate(utterances[::-1])][::-1]
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))


def test_recordings_have_conditions_of_their_own(corpus: Path, kept_out: Corpus) -> None:
    clean = [kept_out.cache.read(u) for u in kept_out.validation[:12]]
    changed = heard(config(), corpus, kept_out)
    assert all(a.shape == b.shape and np.isfinite(b).all() for a, b in zip(clean, changed, strict=True))
    added = [float(np.linalg.norm(b - a) / np.linalg.norm(a)) for a, b in zip(clean, changed, strict=True)]
    assert sum(ratio > 0.05 for ratio in added) > 9  # chance leaves one in thirty as it was
    assert len({round(ratio, 3) for ratio in added}) > 9


def test_the_noise_is_that_of_the_config(corpus: Path, kept_out: Corpus, tmp_path: Path) -> None:
    synthetic = heard(config(), corpus, kept_out)
    recorded = heard(config(noise_folder="alba"), corpus, kept_out)
    assert any(not np.array_equal(a, b) for a, b in zip(synthetic, recorded, strict=True))
    with pytest.raises(ManifestError, match="holds no noise recordings"):
        heard(config(noise_folder="."), tmp_path, kept_out)


def test_babble_behind_one_crop_is_of_the_voices_that_are_given() -> None:
    generator = torch.Generator().manual_seed(0)
    crop, voices = (torch.randn(1, 8000, generator=generator) * 0.1 for _ in range(2))
    augment = Augmenter(AugmentConfig(snr_db=(10.0, 10.0)).only("babble"), Path(), 3)
    added = augment(crop, 0, voices) - crop
    assert torch.cosine_similarity(added, voices)[0] > 0.999
    assert 20 * torch.log10(crop.norm() / added.norm()) == pytest.approx(10.0, abs=0.05)
    assert torch.allclose(augment(crop, 0), crop, atol=1e-5)  # nobody else is in the batch


def test_rooms_are_the_same_for_lengths_whose_spectra_are_kept_and_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    crops = torch.randn(6, 8000, generator=torch.Generator().manual_seed(0)) * 0.1
    augment = Augmenter(AugmentConfig(rooms=4).only("reverb"), Path(), 3)
    kept = augment(crops, 1)
    assert augment._spectra
    monkeypatch.setattr(train.augment, "KEPT_SAMPLES", 0)
    fresh = Augmenter(AugmentConfig(rooms=4).only("reverb"), Path(), 3)
    assert torch.allclose(fresh(crops, 1), kept, atol=1e-6)
    assert not fresh._spectra
