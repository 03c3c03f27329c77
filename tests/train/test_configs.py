"""Every front-end can be trained, the shipped configs are what they say, and few speakers are enough for a fine-tune."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import train
import voicevault
from train.config import FitConfig, OptimiserSection, ValidationSection, read_config
from train.fit import BEST_FILE, Fit
from train.state import load_state
from voicevault.audio import decode
from voicevault.encoder import load_encoder
from voicevault.encoder.architectures import FRONTENDS, kind
from voicevault.encoder.checkpoint import load_checkpoint
from voicevault.encoder.ecapa import EcapaConfig, EcapaTdnn
from voicevault.encoder.frontend import FrontendConfig
from voicevault.encoder.spectra import MelPowerConfig

CONFIGS = Path(train.__file__).parent / "configs"
DEFAULT_MODEL = Path(voicevault.__file__).parent / "models" / "default"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def ten_speakers(corpus: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "corpus"
    folder.mkdir()
    for speaker in sorted(corpus.iterdir())[:10]:
        (folder / speaker.name).symlink_to(speaker)
    return folder


def fit(config: FitConfig, corpus: Path, run: Path, cache: Path, init: Path | None = None) -> Fit:
    return Fit(config, corpus, run, cache, init=init, say=lambda line: None)


@pytest.mark.parametrize(
    ("frontend", "bins"),
    [
        ('type = "kaldi"\nbins = 40', 40),
        ('type = "mfcc"\ncoefficients = 24', 24),
        ('type = "spectrogram"\nwindow_ms = 16.0', 129),
        ('type = "mel-power"\nbins = 32', 32),
    ],
)
def test_every_front_end_is_trained_and_travels_with_the_model(
    frontend: str, bins: int, corpus: Path, config_file: Path, tmp_path: Path, cache: Path
) -> None:
    text = config_file.read_text(encoding="utf-8").replace("steps = 12", "steps = 2")
    text = text.replace("[model]\n", f"[frontend]\n{frontend}\n[model]\nbins = {bins}\n")
    config_file.write_text(text, encoding="utf-8")
    config = read_config(config_file)
    name = kind(FRONTENDS, config.frontend)
    assert f'type = "{name}"' in frontend
    training = fit(config, corpus, tmp_path / "run", cache)
    before = training.objective.model.network.stem.conv.conv.weight.clone()
    training.run()
    after = training.objective.model.network.stem.conv.conv.weight
    assert torch.isfinite(after).all() and not torch.equal(before, after)
    training.export(tmp_path / "model")
    model, identity = load_checkpoint(tmp_path / "model")
    assert model.config.frontend == config.frontend
    encoder = load_encoder(tmp_path / "model")
    assert encoder.model_id == identity
    assert encoder.embed([decode(corpus / "alba" / "1.opus").samples]).shape == (1, 24)
    facts = json.loads((tmp_path / "run" / "provenance.json").read_text(encoding="utf-8"))
    assert facts["config"]["frontend"].get("type", "kaldi") == name
    assert FitConfig.model_validate(facts["config"]).digest() == facts["config_sha256"] == config.digest()


def test_a_front_end_without_a_type_is_the_first_releases(config_file: Path) -> None:
    config = read_config(config_file)
    assert config.frontend == FrontendConfig()
    # Runs that were begun before there were others go on: their config has the same digest.
    assert "type" not in config.as_json()["frontend"]
    config_file.write_text(
        config_file.read_text(encoding="utf-8") + '[frontend]\ntype = "kaldi"\n', encoding="utf-8"
    )
    assert read_config(config_file).digest() == config.digest()


def test_keys_that_came_later_are_in_the_digest_only_where_they_are_used(config_file: Path) -> None:
    config = read_config(config_file)
    values = config.as_json()
    assert not {"rivals", "centres", "uniformity"} & values["loss"].keys()
    assert "alike" not in values["data"] and "clean" not in values["augment"]
    assert "local_means" not in values["model"]
    changed = config.model_copy(
        update={
            "loss": config.loss.model_copy(update={"rivals": "collection", "uniformity": 2.0}),
            "augment": replace(config.augment, clean=0.4),
        }
    )
    assert changed.as_json()["loss"]["rivals"] == "collection"
    assert changed.as_json()["loss"]["uniformity"] == 2.0
    assert changed.as_json()["augment"]["clean"] == 0.4
    assert FitConfig.model_validate(changed.as_json()).digest() == changed.digest() != config.digest()


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.toml")), ids=lambda path: path.stem)
def test_shipped_configs_can_be_read(path: Path) -> None:
    config = read_config(path)
    assert config.model.bins == config.frontend.bins


def test_the_baseline_is_plain(corpus: Path, tmp_path: Path) -> None:
    config = read_config(CONFIGS / "baseline-ecapa-c512.toml")
    assert config.model == EcapaConfig() == EcapaConfig(
        bins=80, channels=512, aggregate=1536, embedding=192, stride=1, kernels=(5, 3, 3, 3),
        dilations=(1, 2, 3, 4), res2net_scale=8, se_channels=128, attention_channels=128,
    )  # fmt: skip
    with torch.device("meta"):
        parameters = sum(p.numel() for p in EcapaTdnn(config.model).parameters())
    assert 6.0e6 < parameters < 6.4e6  # the paper's table 1: 6.2 million
    assert isinstance(config.frontend, MelPowerConfig)
    assert config.frontend.layer_norm
    assert (config.frontend.window_ms, config.frontend.hop_ms) == (25.0, 10.0)
    assert config.data.crops == config.large_margin.crops == ((32, 3.0),)
    assert (config.loss.margin, config.loss.margin_share, config.loss.scale) == (0.2, 0.0, 30.0)
    assert config.loss.prototypical == config.large_margin.share == config.data.speed_share == 0.0
    # A batch is the crops themselves, to the rounding of the filter that leaves them as they are.
    small = config.model_copy(
        update={"data": config.data.model_copy(update={"manifest": ""}), "validation": ValidationSection()}
    )
    training = fit(small, corpus, tmp_path / "run", tmp_path / "cache")
    waveforms, labels, _ = training.batches.make(3)
    speakers = len(training.batches.sampler.classes)
    crops, classes = training.batches.sampler.draw(3, speakers, 48_000)
    assert (waveforms - torch.from_numpy(crops)).abs().max() < 1e-5
    assert labels.tolist() == classes.tolist()
    assert training.batches.classes == speakers == 13


def test_a_fine_tune_of_the_default_model_takes_ten_speakers(
    ten_speakers: Path, tmp_path: Path, cache: Path
) -> None:
    config = read_config(CONFIGS / "finetune.toml")
    config = config.model_copy(
        update={"optimiser": OptimiserSection(steps=1, learning_rate=1e-4, bfloat16=False)}
    )
    training = fit(config, ten_speakers, tmp_path / "run", cache, init=DEFAULT_MODEL)
    assert len({u.speaker for u in training.corpus.validation}) == 2
    assert training.batches.classes == 3 * 8
    for last_part in (False, True):
        waveforms, labels, _ = training.batches.make(0, last_part)
        assert len(waveforms) == len(labels) == 2 * 8  # every speaker that is left, not the 24 of the config
    before = {name: value.clone() for name, value in training.average.network.state_dict().items()}
    training.run()
    training.export(tmp_path / "model", half=False)
    after = load_checkpoint(tmp_path / "model")[0].network.state_dict()
    moved = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert {"project.weight", "stem.conv.conv.weight", "stem.norm.weight"} <= moved
    assert not any("running_" in name for name in moved), (
        "statistics of ten speakers replace those of thousands"
    )


@pytest.mark.parametrize(("learning_rate", "best"), [(1e-12, 2), (0.2, 0)], ids=["harmless", "ruinous"])
def test_a_fine_tune_keeps_no_weights_that_are_worse_than_its_start(
    learning_rate: float, best: int, corpus: Path, tmp_path: Path, cache: Path
) -> None:
    config = read_config(CONFIGS / "finetune.toml")
    config = config.model_copy(
        update={
            "optimiser": OptimiserSection(
                steps=2, learning_rate=learning_rate, warmup_share=0.0, average_decay=0.0, bfloat16=False
            ),
            "validation": ValidationSection(share=0.5, every_steps=1),
        }
    )
    training = fit(config, corpus, tmp_path / "run", cache, init=DEFAULT_MODEL)
    training.run()
    facts = load_state(tmp_path / "run" / BEST_FILE, {"average": training.average}, None)
    assert facts["step"] == best
