"""What the encoder tests share: recordings of many lengths, networks that keep them apart, and the measure of equality."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from voicevault.audio import decode
from voicevault.encoder.checkpoint import ModelConfig, SpeakerModel
from voicevault.encoder.ecapa import EcapaConfig
from voicevault.encoder.frontend import FrontendConfig
from voicevault.types import SAMPLE_RATE, Float32Array

SECONDS = (0.3, 0.31, 0.5, 0.8, 1.3, 2.0, 2.005, 3.1, 4.7, 10.0)

Randomise = Callable[[nn.Module, int], None]
AssertEqual = Callable[[Tensor, Tensor], None]
SmallModel = Callable[..., SpeakerModel]


@pytest.fixture(scope="session")
def speech(voices: dict[str, list[Path]]) -> list[Float32Array]:
    """Real speech, each of another length and, as far as there are enough, of another speaker: 0.3 to 10 s."""
    speakers = list(voices.values())
    cuts = []
    for i, seconds in enumerate(SECONDS):
        files, length = speakers[i % len(speakers)], round(seconds * SAMPLE_RATE)
        whole, used = np.zeros(0, np.float32), i // len(speakers)
        while len(whole) < length:
            whole = np.concatenate([whole, decode(files[used % len(files)]).samples])
            used += 1
        loudest = int(np.abs(whole).argmax())
        start = min(max(loudest - length // 2, 0), len(whole) - length)
        cuts.append(whole[start : start + length])
    return cuts


@pytest.fixture(scope="session")
def randomise() -> Randomise:
    """(network, seed): gives every batch norm statistics and affine parameters of its own."""

    def change(network: nn.Module, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm1d):
                for tensor, centre, spread in (
                    (module.running_mean, 0.3, 0.3),
                    (module.running_var, 0.5, 0.3),
                    (module.weight, 1.0, 0.4),
                    (module.bias, 0.0, 0.4),
                ):
                    assert tensor is not None
                    noise = 2 * torch.rand(tensor.shape, generator=generator) - 1
                    tensor.data.copy_(centre + spread * noise)

    return change


@pytest.fixture(scope="session")
def assert_equal() -> AssertEqual:
    """(ours, theirs), [n, d] embeddings of n different recordings: equal to 1/1000 of the distance between any two.

    The recordings must lie apart to begin with, or equality would prove nothing.
    """

    def check(ours: Tensor, theirs: Tensor) -> None:
        assert ours.shape == theirs.shape and len(ours) > 2
        assert torch.isfinite(ours).all()
        apart = torch.pdist(theirs.double())
        assert apart.min() > 1e-3 * theirs.double().norm(dim=1).mean(), "the network maps everything together"
        difference = (ours.double() - theirs.double()).norm(dim=1).max()
        assert difference <= 1e-3 * apart.min(), f"{difference:.3g} apart, recordings {apart.min():.3g}"
        cosines = torch.cosine_similarity(ours.double(), theirs.double())
        assert cosines.min() >= 0.9999

    return check


@pytest.fixture(scope="session")
def small_model(randomise: Randomise) -> SmallModel:
    """(stride=1, seed=0, means=0, **front-end settings) -> a narrow ECAPA-TDNN with randomised batch norms, and means near what
    it gives, in evaluation mode."""

    def make(stride: int = 1, seed: int = 0, means: int = 0, **frontend: object) -> SpeakerModel:
        architecture = EcapaConfig(
            channels=64, aggregate=96, embedding=48, stride=stride, se_channels=16, attention_channels=16,
            local_means=means,
        )  # fmt: skip
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = SpeakerModel(ModelConfig("small", FrontendConfig(**frontend), architecture))  # type: ignore[arg-type]
        randomise(model, seed)
        model.eval()
        if means:
            noise = 0.1 * torch.randn(means, 16000, generator=torch.Generator().manual_seed(seed))
            with torch.no_grad():
                model.network.centring.means.copy_(nn.functional.normalize(model(noise)))
        return model

    return make


@pytest.fixture(scope="session")
def padded() -> Callable[[list[Float32Array]], tuple[Tensor, Tensor]]:
    """Recordings -> waveforms float32 [b, longest], zeros behind each, and lengths int64 [b]."""

    def pad(recordings: list[Float32Array]) -> tuple[Tensor, Tensor]:
        lengths = torch.tensor([len(recording) for recording in recordings])
        batch = torch.zeros(len(recordings), int(lengths.max()))
        for row, recording in zip(batch, recordings, strict=True):
            row[: len(recording)] = torch.from_numpy(recording)
        return batch, lengths

    return pad
