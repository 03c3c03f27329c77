"""SpeechBrain's front-end: its own decibels, of each recording alone and of each in a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from voicevault.encoder.fbank import SpeechBrainConfig, SpeechBrainFbank
from voicevault.types import Float32Array

features = pytest.importorskip("speechbrain.lobes.features", reason="speechbrain is not installed")
processing = pytest.importorskip("speechbrain.processing.features")


@pytest.mark.parametrize(
    "settings", [{}, {"n_mels": 40, "f_min": 60, "f_max": 7000, "n_fft": 512, "hop_length": 12}]
)
def test_features_are_speechbrains(settings: dict[str, Any], speech: list[Float32Array]) -> None:
    theirs = features.Fbank(**{"n_mels": 80} | settings)
    norm = processing.InputNormalization(norm_type="sentence", std_norm=False)
    ours = SpeechBrainFbank(
        SpeechBrainConfig(
            bins=settings.get("n_mels", 80),
            low_hz=float(settings.get("f_min", 0)),
            high_hz=float(settings.get("f_max", 8000)),
            fft_size=settings.get("n_fft", 400),
            hop_ms=float(settings.get("hop_length", 10)),
        )
    )
    floored = 0
    for recording in [*speech, speech[5] * (torch.arange(len(speech[5])) < 20_000).numpy()]:
        samples = torch.from_numpy(recording)[None]
        expected = norm(theirs(samples)).transpose(1, 2)
        found, counts = ours(samples)
        assert counts is None
        assert found.shape == expected.shape == (1, ours.config.bins, ours.frames(len(recording)))
        assert (found - expected).abs().max() < 2e-2  # of decibels
        assert (found - expected).abs().mean() < 1e-3
        floored += int((found == found.amin()).sum() > 10)
    assert floored, "no recording came to the floor"


def test_each_item_of_a_batch_has_its_own_floor_and_mean(
    speech: list[Float32Array], padded: Callable[[list[Float32Array]], tuple[Tensor, Tensor]]
) -> None:
    ours = SpeechBrainFbank(SpeechBrainConfig())
    levels = [recording * 10 ** (-i / 4) for i, recording in enumerate(speech)]
    batch, counts = ours(*padded(levels))
    assert counts is not None
    for recording, item, count in zip(levels, batch, counts.tolist(), strict=True):
        assert count == ours.frames(len(recording))
        alone = ours(torch.from_numpy(recording)[None])[0][0]
        assert (item[:, :count] - alone).abs().max() < 1e-3
        assert not item[:, count:].any()
