"""ECAPA-TDNN computes what SpeechBrain's module computes, and a batch changes nothing."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from voicevault.encoder import default_model_dir
from voicevault.encoder.checkpoint import SpeakerModel, load_checkpoint
from voicevault.encoder.config import stored
from voicevault.encoder.ecapa import EcapaConfig, EcapaTdnn, LocalCentring
from voicevault.encoder.frontend import FrontendConfig, LogMel
from voicevault.encoder.importers.speechbrain import our_weights
from voicevault.types import Float32Array

Pad = Callable[[list[Float32Array]], tuple[Tensor, Tensor]]
Check = Callable[[Tensor, Tensor], None]


def alone(model: SpeakerModel, recordings: list[Float32Array]) -> Tensor:
    with torch.inference_mode():
        return torch.cat([model(torch.from_numpy(recording)[None]) for recording in recordings])


@pytest.mark.parametrize(
    ("channels", "kernels", "dilations"),
    [((64, 96), (5, 3, 3, 3), (1, 2, 3, 4)), ((128, 160), (5, 5, 3), (2, 1, 4))],
)
def test_equals_speechbrain(
    channels: tuple[int, int],
    kernels: tuple[int, ...],
    dilations: tuple[int, ...],
    speech: list[Float32Array],
    randomise: Callable[[nn.Module, int], None],
    assert_equal: Check,
) -> None:
    module = pytest.importorskip("speechbrain.lobes.models.ECAPA_TDNN", reason="speechbrain is not installed")
    width, aggregate = channels
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        theirs = module.ECAPA_TDNN(
            80,
            channels=[width] * len(kernels) + [aggregate],
            kernel_sizes=[*kernels, 1],
            dilations=[*dilations, 1],
            attention_channels=24,
            se_channels=16,
            lin_neurons=48,
        )
    randomise(theirs, 3)
    ours = EcapaTdnn(
        EcapaConfig(
            channels=width,
            aggregate=aggregate,
            embedding=48,
            kernels=kernels,
            dilations=dilations,
            se_channels=16,
            attention_channels=24,
        )
    )
    ours.load_state_dict(our_weights(theirs.state_dict()), strict=True)
    ours.eval()
    theirs.eval()
    frontend = LogMel(FrontendConfig())
    with torch.inference_mode():
        features = [frontend(torch.from_numpy(recording)[None])[0] for recording in speech]
        assert_equal(
            torch.cat([ours(item) for item in features]),
            torch.cat([theirs(item.transpose(1, 2))[:, 0] for item in features]),
        )


@pytest.mark.parametrize(("stride", "means"), [(1, 0), (2, 0), (3, 0), (2, 3)])
def test_a_batch_equals_its_items(
    stride: int,
    means: int,
    speech: list[Float32Array],
    small_model: Callable[..., SpeakerModel],
    padded: Pad,
    assert_equal: Check,
) -> None:
    model = small_model(stride, seed=5, means=means)
    with torch.inference_mode():
        assert_equal(model(*padded(speech)), alone(model, speech))


def test_a_batch_of_equal_lengths_needs_no_mask(
    speech: list[Float32Array], small_model: Callable[..., SpeakerModel], padded: Pad, assert_equal: Check
) -> None:
    model = small_model(2, seed=6)
    cuts = [recording[:8000] for recording in speech if len(recording) >= 8000]
    waveforms, lengths = padded(cuts)
    with torch.inference_mode():
        unmasked = model(waveforms)
        assert_equal(unmasked, alone(model, cuts))
        assert_equal(model(waveforms, lengths), unmasked)


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_the_shortest_input(stride: int, small_model: Callable[..., SpeakerModel], padded: Pad) -> None:
    """`minimum_samples` suffices, alone and beside a longer one; one frame less does not."""
    model = small_model(stride, seed=7)
    rng = np.random.default_rng(0)
    short = rng.normal(0, 0.1, model.minimum_samples).astype(np.float32)
    batch = [short, rng.normal(0, 0.1, 16000).astype(np.float32)]
    with torch.inference_mode():
        single = alone(model, [short])
        assert torch.isfinite(single).all()
        torch.testing.assert_close(model(*padded(batch))[:1], single, rtol=1e-3, atol=1e-4)
        with pytest.raises(RuntimeError):
            model(torch.from_numpy(short[: -model.frontend.hop * stride])[None])


def test_the_default_model_in_batches(speech: list[Float32Array], padded: Pad, assert_equal: Check) -> None:
    if not (default_model_dir() / "config.json").is_file():
        pytest.skip("this checkout has no default model")
    model, _ = load_checkpoint(default_model_dir())
    usable = [recording for recording in speech if len(recording) >= model.minimum_samples]
    assert len(usable) > 5
    with torch.inference_mode():
        assert_equal(model(*padded(usable)), alone(model, usable))


@pytest.mark.parametrize(
    "wrong",
    [
        {"channels": 100},
        {"embedding": 0},
        {"stride": 0},
        {"kernels": (5, 3, 3)},
        {"kernels": (5, 4, 3, 3)},
        {"dilations": (1, 0, 3, 4)},
        {"local_means": -1},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_an_architecture_that_cannot_be_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        EcapaConfig(**wrong)  # type: ignore[arg-type]


def test_centring_takes_away_the_mean_of_the_kind_that_is_near() -> None:
    layer = LocalCentring(2, 3)
    with torch.no_grad():
        layer.means.copy_(torch.tensor([[0.4, 0.0, 0.0], [0.0, 0.3, 0.0]]))
        near_first, between = layer(torch.tensor([[5.0, 0.0, 0.0], [2.0, 2.0, 0.0]]))
    share = math.exp(20.0) / (math.exp(20.0) + 1.0)  # of the first mean: cosines 1 and 0
    expected = [1.0 - 0.4 * share, -0.3 * (1.0 - share), 0.0]
    assert near_first.tolist() == pytest.approx(expected, abs=1e-6)
    assert between.tolist() == pytest.approx([math.sqrt(0.5) - 0.2, math.sqrt(0.5) - 0.15, 0.0], abs=1e-6)


def test_one_mean_is_plain_centring() -> None:
    layer, vectors = LocalCentring(1, 6), torch.randn(9, 6, generator=torch.Generator().manual_seed(0))
    unit = torch.nn.functional.normalize(vectors)
    with torch.no_grad():
        layer.means.copy_(unit.mean(dim=0)[None])
        torch.testing.assert_close(layer(vectors), unit - unit.mean(dim=0))


def test_a_network_without_means_is_what_it_was() -> None:
    """Models of earlier releases have neither the key in their config nor the weights."""
    assert "local_means" not in stored(EcapaConfig())
    assert stored(EcapaConfig(local_means=3))["local_means"] == 3
    assert not any("centring" in name for name in EcapaTdnn(EcapaConfig(channels=16)).state_dict())
