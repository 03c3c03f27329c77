"""The log-mel front-end is Kaldi's, and padding never reaches a recording's features."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torchaudio.compliance import kaldi

from voicevault.encoder.frontend import FrontendConfig, LogMel, make_window
from voicevault.types import Float32Array

FLOOR = math.log(torch.finfo(torch.float32).eps)
KALDI_WINDOWS = {"povey": "povey", "hamming": "hamming", "hann": "hanning"}


@pytest.mark.parametrize(
    "config",
    [
        FrontendConfig(),
        FrontendConfig(window="hamming", high_hz=8000.0),
        FrontendConfig(window="hann", bins=40, low_hz=60.0, high_hz=4000.0, preemphasis=0.0),
        FrontendConfig(bins=64, window_ms=32.0, hop_ms=8.0, preemphasis=0.9),
        FrontendConfig(bins=23, window_ms=20.0, hop_ms=12.5, low_hz=0.0),
    ],
    ids=lambda c: f"{c.window}-{c.bins}-{c.window_ms:g}ms",
)
@pytest.mark.parametrize("normalise", [False, True])
def test_equals_kaldi(config: FrontendConfig, normalise: bool, speech: list[Float32Array]) -> None:
    settings = {name: getattr(config, name) for name in FrontendConfig.__dataclass_fields__} | {
        "normalise": normalise
    }
    ours = LogMel(FrontendConfig(**settings))
    compared = 0
    for recording in speech:
        samples = torch.from_numpy(recording)[None]
        theirs = kaldi.fbank(
            samples * 32768.0,
            num_mel_bins=config.bins,
            frame_length=config.window_ms,
            frame_shift=config.hop_ms,
            low_freq=config.low_hz,
            high_freq=config.high_hz,
            preemphasis_coefficient=config.preemphasis,
            window_type=KALDI_WINDOWS[config.window],
            dither=0.0,
            energy_floor=0.0,
            sample_frequency=16000.0,
        ).T
        above = theirs > FLOOR + 0.1
        if normalise:
            theirs = theirs - theirs.mean(dim=1, keepdim=True)
            above &= above.all(dim=1, keepdim=True)  # a floored bin moves the mean of its row
        features, counts = ours(samples)
        assert counts is None
        assert features.shape[1:] == theirs.shape == (config.bins, ours.frames(len(recording)))
        assert (features[0] - theirs)[above].abs().max() < 1e-3
        compared += int(above.sum())
    assert compared > 0.9 * config.bins * sum(ours.frames(len(recording)) for recording in speech)


def test_a_batch_equals_its_items(
    speech: list[Float32Array], padded: Callable[[list[Float32Array]], tuple[Tensor, Tensor]]
) -> None:
    frontend = LogMel(FrontendConfig())
    features, counts = frontend(*padded(speech))
    assert counts is not None
    for recording, item, count in zip(speech, features, counts.tolist(), strict=True):
        assert count == frontend.frames(len(recording))
        alone, _ = frontend(torch.from_numpy(recording)[None])
        assert (item[:, :count] - alone[0]).abs().max() < 1e-4
        assert not item[:, count:].any()


def test_what_lies_behind_a_recording_does_not_matter(speech: list[Float32Array]) -> None:
    """Even noise in the place of the padding."""
    frontend = LogMel(FrontendConfig())
    recording = torch.from_numpy(speech[4])
    clean = torch.zeros(2, len(recording) + 8000)
    clean[:, : len(recording)] = recording
    dirty = clean.clone()
    dirty[0, len(recording) :] = torch.rand(8000, generator=torch.Generator().manual_seed(0))
    lengths = torch.tensor([len(recording), clean.shape[1]])
    assert torch.equal(frontend(clean, lengths)[0][0], frontend(dirty, lengths)[0][0])


@pytest.mark.parametrize("frames", [1, 5, 18])
def test_minimum_samples_is_the_least(frames: int) -> None:
    frontend = LogMel(FrontendConfig(window_ms=25.0, hop_ms=12.5))
    least = frontend.minimum_samples(frames)
    assert frontend.frames(least) == frames
    assert frontend.frames(least - 1) == frames - 1


def test_dither_adds_its_expected_energy(speech: list[Float32Array]) -> None:
    """Kaldi's random dither, averaged over many draws in the domain of energies."""
    config = FrontendConfig(window="hamming", dither=30.0, normalise=False)
    quiet = torch.from_numpy(speech[2])[None] * 1e-3
    draws = 100
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        energies = torch.stack(
            [
                kaldi.fbank(
                    quiet * 32768.0,
                    num_mel_bins=config.bins,
                    low_freq=config.low_hz,
                    high_freq=config.high_hz,
                    window_type="hamming",
                    dither=config.dither,
                    sample_frequency=16000.0,
                ).exp()
                for _ in range(draws)
            ]
        )
    ours, theirs = LogMel(config)(quiet)[0][0].T, energies.mean(0).log()
    assert (ours - theirs).abs().max() < 0.6  # a mean over 100 draws of few degrees of freedom
    assert (ours - theirs).mean(0).abs().max() < 0.05
    undithered = LogMel(FrontendConfig(window="hamming", normalise=False))(quiet)[0][0].T
    assert (undithered - theirs).mean(0).abs().max() > 1.0


def test_scale_moves_every_energy_alike(speech: list[Float32Array]) -> None:
    samples = torch.from_numpy(speech[3])[None]
    whole = LogMel(FrontendConfig(normalise=False))(samples)[0]
    unit = LogMel(FrontendConfig(normalise=False, scale=1.0))(samples)[0]
    above = unit > FLOOR + 0.1
    assert above.any()
    assert ((whole - unit)[above] - 2 * math.log(32768.0)).abs().max() < 1e-3
    assert unit.min() >= FLOOR - 1e-3


@pytest.mark.parametrize(
    "wrong", [{"window": "blackman"}, {"bins": 0}, {"high_hz": 9000.0}, {"low_hz": 7700.0}, {"dither": -1.0}]
)
def test_a_setting_out_of_range_is_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="blackman" if "window" in wrong else "must be in"):
        FrontendConfig(**wrong)
    with pytest.raises(ValueError, match="blackman"):
        make_window("blackman", 400)
