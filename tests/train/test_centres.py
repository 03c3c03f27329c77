"""A fine-tune's class centres: where the initial model hears the speakers and their copies."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import train.fit
from train.config import FitConfig, read_config
from train.fit import Fit
from train.losses import MarginSoftmax
from voicevault.encoder import default_model_dir
from voicevault.errors import SettingsError


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def config() -> FitConfig:
    """Clean crops, a third of them with another speed and a third with another vocal tract."""
    values = {
        "name": "x",
        "seed": 1,
        "data": {"speed_share": 0.4, "tract_share": 0.6, "crops": [[12, 2.0]]},
        "loss": {"centres": "embeddings"},
        "augment": dict.fromkeys(("reverb", "equaliser", "band", "noise", "babble", "volume", "codec"), 0.0),
        "optimiser": {"steps": 4, "bfloat16": False},
    }
    return FitConfig.model_validate(values)


def fit(config: FitConfig, corpus: Path, run: Path, cache: Path, init: Path | None) -> Fit:
    return Fit(config, corpus, run, cache, init=init, say=lambda line: None)


def test_each_copy_of_a_speaker_is_nearest_to_its_own_centre(
    config: FitConfig, corpus: Path, tmp_path: Path, cache: Path
) -> None:
    training = fit(config, corpus, tmp_path / "run", cache, default_model_dir())
    objective, batches = training.objective.eval(), training.batches
    speakers = len(batches.sampler.classes)
    assert batches.classes == 5 * speakers
    hits: dict[int, list[bool]] = {}
    with torch.no_grad():
        for step in range(12):
            waveforms, labels, tract = batches.make(step)
            features = objective.frontend(tract)(waveforms)[0]
            nearest = objective.softmax.cosines(objective.model.network(features)).argmax(dim=1)
            hits.setdefault(int(labels[0]) // speakers, []).extend((nearest == labels).tolist())
    assert hits.keys() == set(range(5))  # every copy was drawn, in a batch of its own
    assert all(sum(found) / len(found) > 0.8 for found in hits.values()), hits


def test_centres_are_made_once(
    config: FitConfig,
    corpus: Path,
    tmp_path: Path,
    cache: Path,
    tiny_model: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = fit(config, corpus, tmp_path / "run", cache, tiny_model)
    again = fit(config, corpus, tmp_path / "again", cache, tiny_model)
    assert torch.equal(first.objective.softmax.weight, again.objective.softmax.weight)
    at_random = config.model_copy(update={"loss": config.loss.model_copy(update={"centres": "random"})})
    fresh = fit(at_random, corpus, tmp_path / "fresh", cache, tiny_model).objective.softmax.weight
    assert torch.allclose(first.objective.softmax.weight.norm(dim=1), fresh.norm(dim=1), rtol=1e-5)
    assert not torch.allclose(first.objective.softmax.weight, fresh, atol=0.1)

    with torch.no_grad():
        first.objective.softmax.weight.add_(0.5)
    first.save()
    monkeypatch.setattr(train.fit, "start_centres", lambda *_: pytest.fail("a resumed run has centres"))
    resumed = fit(config, corpus, tmp_path / "run", cache, None)
    assert torch.equal(resumed.objective.softmax.weight, first.objective.softmax.weight)


def test_sub_centres_start_near_each_other_and_not_as_one() -> None:
    torch.manual_seed(0)
    softmax = MarginSoftmax(16, 3, subcentres=2)
    centres = torch.nn.functional.normalize(torch.randn(3, 16))
    softmax.start(centres)
    rows = torch.nn.functional.normalize(softmax.weight.detach()).unflatten(0, (3, 2))
    near = (rows * centres[:, None]).sum(dim=2)
    assert near.min() > 0.9
    assert ((rows[:, 0] * rows[:, 1]).sum(dim=1) < 0.999).all()
    assert softmax.cosines(centres).argmax(dim=1).tolist() == [0, 1, 2]


def test_without_a_model_there_is_nothing_to_embed_with(
    config: FitConfig, config_file: Path, corpus: Path, tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match=r'loss\.centres = "embeddings" needs a model .* --init'):
        fit(config, corpus, tmp_path / "run", tmp_path / "cache", None)
    assert not (tmp_path / "cache").exists() and not (tmp_path / "run").exists()
    # Runs that were begun before there was this key go on.
    assert "centres" not in read_config(config_file).as_json()["loss"]
