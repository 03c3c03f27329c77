"""Cepstra and spectrograms are Kaldi's, mel power is its linear energies, and all of them see an item's own frames alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torchaudio.compliance import kaldi

from voicevault.encoder import load_encoder
from voicevault.encoder.architectures import FRONTENDS, ModelConfig, build_frontend, kind
from voicevault.encoder.checkpoint import SpeakerModel, load_checkpoint, save_checkpoint
from voicevault.encoder.ecapa import EcapaConfig
from voicevault.encoder.spectra import MelPowerConfig, MfccConfig, SpectrogramConfig
from voicevault.errors import CheckpointError
from voicevault.types import Float32Array

Config = MfccConfig | SpectrogramConfig | MelPowerConfig

FLOOR = math.log(torch.finfo(torch.float32).eps)
WINDOWS = {"povey": "povey", "hamming": "hamming", "hann": "hanning"}
PLAIN: list[Config] = [MfccConfig(), SpectrogramConfig(), MelPowerConfig()]


def name(config: Config) -> str:
    return f"{kind(FRONTENDS, config)}-{config.bins}"


def kaldis(config: Config) -> dict[str, Any]:
    """The arguments of torchaudio's functions that all of them take."""
    return {
        "frame_length": config.window_ms,
        "frame_shift": config.hop_ms,
        "preemphasis_coefficient": config.preemphasis,
        "window_type": WINDOWS[config.window],
        "dither": 0.0,
        "energy_floor": 0.0,
        "sample_frequency": 16000.0,
    }


def own(config: Config, recording: Float32Array) -> Tensor:
    """Features [bins, frames] of a recording alone."""
    features: Tensor
    features, counts = build_frontend(config)(torch.from_numpy(recording)[None])
    assert counts is None
    return features[0]


@pytest.mark.parametrize(
    "config",
    [
        MfccConfig(),
        MfccConfig(coefficients=13, mel_bins=23, high_hz=8000.0),
        MfccConfig(coefficients=20, mel_bins=30, lifter=0.0, window="hamming", window_ms=20.0, hop_ms=12.5),
        MfccConfig(coefficients=24, mel_bins=80, lifter=30.0, window="hann", preemphasis=0.0, low_hz=60.0),
    ],
    ids=name,
)
@pytest.mark.parametrize("normalise", [False, True])
def test_cepstra_are_kaldis(config: MfccConfig, normalise: bool, speech: list[Float32Array]) -> None:
    for recording in speech:
        samples = torch.from_numpy(recording)[None] * config.scale
        banks = {"num_mel_bins": config.mel_bins, "low_freq": config.low_hz, "high_freq": config.high_hz}
        theirs = kaldi.mfcc(
            samples,
            num_ceps=config.coefficients,
            cepstral_lifter=config.lifter,
            subtract_mean=normalise,
            **banks,
            **kaldis(config),
        )
        assert kaldi.fbank(samples, **banks, **kaldis(config)).min() > FLOOR + 0.1, "a bin is on the floor"
        ours = own(replace(config, normalise=normalise), recording).T
        assert ours.shape == theirs.shape == (len(theirs), config.bins)
        assert theirs.std() > 1.0
        assert (ours - theirs).abs().max() < 5e-3
        assert (ours - theirs).abs().mean() < 5e-4


@pytest.mark.parametrize(
    "config",
    [
        SpectrogramConfig(),
        SpectrogramConfig(window="hamming", window_ms=16.0, hop_ms=8.0, preemphasis=0.9),
        SpectrogramConfig(window="hann", window_ms=32.0, hop_ms=12.5, preemphasis=0.0),
    ],
    ids=name,
)
@pytest.mark.parametrize("normalise", [False, True])
def test_spectrograms_are_kaldis(
    config: SpectrogramConfig, normalise: bool, speech: list[Float32Array]
) -> None:
    compared = frames = 0
    for recording in speech:
        theirs = kaldi.spectrogram(torch.from_numpy(recording)[None] * config.scale, **kaldis(config))
        # The rounding of a Fourier transform shows in points far below the loudest one of the frame.
        above = theirs > theirs.amax(dim=1, keepdim=True) - math.log(1e9)
        if normalise:
            theirs = theirs - theirs.mean(dim=0)
        ours = own(replace(config, normalise=normalise), recording).T
        assert ours.shape == theirs.shape == (len(theirs), config.bins)
        assert (ours - theirs)[above].abs().max() < 2e-2
        assert (ours - theirs)[above].abs().mean() < 1e-4
        assert (ours - theirs)[:, 0].abs().max() < 1e-3, "the frame's energy stands in the first place"
        compared, frames = compared + int(above.sum()), frames + len(theirs)
    assert compared > 0.95 * frames * config.bins


def test_mel_power_is_kaldis_linear_energies(speech: list[Float32Array]) -> None:
    config = MelPowerConfig(bins=64, window="hamming", preemphasis=0.5, low_hz=40.0, high_hz=7000.0)
    for recording in speech:
        theirs = kaldi.fbank(
            torch.from_numpy(recording)[None] * config.scale,
            use_log_fbank=False,
            num_mel_bins=config.bins,
            low_freq=config.low_hz,
            high_freq=config.high_hz,
            **kaldis(config),
        )
        ours = own(replace(config, layer_norm=False), recording).T
        assert torch.allclose(ours, theirs, rtol=1e-3, atol=1e-6 * float(theirs.max()))
        mean = own(replace(config, layer_norm=False, normalise=True), recording).mean(dim=1)
        assert (mean.abs() <= 1e-5 * theirs.abs().mean(dim=0) + 1e-3).all()
        normalised = own(config, recording).T
        expected = (theirs - theirs.mean(1, keepdim=True)) / theirs.std(1, keepdim=True, correction=0)
        assert (normalised - expected).abs().max() < 5e-3


def test_layer_normalisation_takes_the_level_away(speech: list[Float32Array]) -> None:
    config = MelPowerConfig()
    assert (own(config, speech[6]) - own(config, speech[6] * 0.05)).abs().max() < 1e-2
    silence = own(config, speech[6] * 0.0)
    assert not silence.any(), "a frame without any power stays zero"


@pytest.mark.parametrize("config", PLAIN, ids=name)
def test_a_batch_equals_its_items(
    config: Config, speech: list[Float32Array], padded: Callable[[list[Float32Array]], tuple[Tensor, Tensor]]
) -> None:
    frontend: Any = build_frontend(config)
    batch, lengths = padded(speech)
    dirty = batch.clone()
    for row, length in zip(dirty, lengths.tolist(), strict=True):
        row[length:] = torch.rand(len(row) - length, generator=torch.Generator().manual_seed(length))
    features, counts = frontend(batch, lengths)
    assert torch.equal(features, frontend(dirty, lengths)[0]), "what lies behind a recording is heard"
    for recording, item, count in zip(speech, features, counts.tolist(), strict=True):
        assert count == frontend.frames(len(recording))
        alone = own(config, recording)
        assert (item[:, :count] - alone).abs().max() < 1e-3
        assert not item[:, count:].any()
        if config.normalise:
            assert alone.mean(dim=1).abs().max() < 1e-3


@pytest.mark.parametrize(
    "config", [cls(hop_ms=12.5) for cls in (MfccConfig, SpectrogramConfig, MelPowerConfig)], ids=name
)
@pytest.mark.parametrize("frames", [1, 18])
def test_minimum_samples_is_the_least(config: Config, frames: int) -> None:
    frontend: Any = build_frontend(config)
    least = frontend.minimum_samples(frames)
    assert frontend(torch.ones(1, least))[0].shape == (1, config.bins, frames)
    assert frontend.frames(least - 1) == frames - 1


@pytest.mark.parametrize("config", PLAIN, ids=name)
def test_the_choice_travels_in_the_checkpoint(
    config: Config, speech: list[Float32Array], tmp_path: Path
) -> None:
    architecture = EcapaConfig(
        bins=config.bins, channels=16, aggregate=24, embedding=16, se_channels=8, attention_channels=8
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = SpeakerModel(ModelConfig("spectra", config, architecture)).eval()
    identity = save_checkpoint(model, tmp_path)
    loaded, found = load_checkpoint(tmp_path)
    assert found == identity
    assert loaded.config == model.config
    with torch.inference_mode():
        expected = torch.nn.functional.normalize(
            torch.cat([model(torch.from_numpy(recording)[None]) for recording in speech])
        )
    served = torch.from_numpy(load_encoder(tmp_path).embed(speech))
    assert torch.cosine_similarity(served, expected).min() > 0.9999
    assert served.std(dim=0).max() > 0.01
    # Other settings of the front-end are another model, even if the weights fit.
    path = tmp_path / "config.json"
    path.write_text(
        path.read_text().replace('"high_hz": 7600.0', '"high_hz": 7000.0').replace("povey", "hann")
    )
    with pytest.raises(CheckpointError, match="not those that"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("cls", "wrong", "message"),
    [
        (MfccConfig, {"coefficients": 41}, "coefficients must be in 1 to 40, not 41"),
        (MfccConfig, {"lifter": -1.0}, "lifter must be in"),
        (MfccConfig, {"low_hz": 7700.0}, "high_hz must be in 7701 to 8000"),
        (MfccConfig, {"window": "blackman"}, "unknown window 'blackman'"),
        (SpectrogramConfig, {"window_ms": 40.0}, "window_ms 40 gives 513 features"),
        (SpectrogramConfig, {"preemphasis": 1.0}, "preemphasis must be in"),
        (MelPowerConfig, {"bins": 1}, "bins must be in 2 to 512"),
        (MelPowerConfig, {"scale": 0.0}, "scale must be in"),
    ],
)
def test_a_setting_out_of_range_is_named(cls: type[Config], wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cls(**wrong)
