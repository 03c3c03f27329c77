"""WavLM x-vectors compute what transformers' module computes, for each recording alone, in whichever batch."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from voicevault.encoder import load_encoder
from voicevault.encoder.checkpoint import load_checkpoint, save_checkpoint
from voicevault.encoder.importers.transformers import read_transformers
from voicevault.encoder.waveform import RawWaveform, WaveformConfig
from voicevault.encoder.wavlm import WavLMConfig
from voicevault.errors import CheckpointError
from voicevault.types import Float32Array

TINY: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "conv_dim": (16, 16, 24),
    "conv_kernel": (10, 8, 4),
    "conv_stride": (5, 8, 8),
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "num_buckets": 32,
    "max_bucket_distance": 80,
    "tdnn_dim": (24, 24, 40),
    "tdnn_kernel": (5, 3, 1),
    "tdnn_dilation": (1, 2, 1),
    "xvector_output_dim": 20,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "base": {"use_weighted_layer_sum": True},
    "last-layer": {"use_weighted_layer_sum": False},
    "large": {
        "feat_extract_norm": "layer",
        "do_stable_layer_norm": True,
        "conv_bias": True,
        "use_weighted_layer_sum": True,
    },
}


def make(settings: dict[str, Any]) -> nn.Module:
    """transformers' module with random weights that keep recordings apart, as its own initial ones do not."""
    from transformers import WavLMConfig as Settings
    from transformers import WavLMForXVector

    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(5)
        network = WavLMForXVector(Settings(**TINY, **settings))
        for name, parameter in network.named_parameters():
            if "norm" in name and name.endswith("weight"):
                parameter.uniform_(0.6, 1.4)
            elif name.endswith("bias") or parameter.ndim == 1:
                parameter.normal_(0, 0.3)
            elif "parametrizations" not in name:
                parameter.normal_(0, 1.4 / max(1, parameter[0].numel()) ** 0.5)
    made: nn.Module = network
    return made.eval()


def save(network: nn.Module, folder: Path, *, do_normalize: bool = False) -> Path:
    from transformers import Wav2Vec2FeatureExtractor

    network.save_pretrained(folder)  # type: ignore[operator]
    extractor: Any = Wav2Vec2FeatureExtractor
    extractor(do_normalize=do_normalize).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(make(VARIANTS["base"]), tmp_path_factory.mktemp("wavlm") / "tiny")


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(original, tmp_path / "tiny"))


def edit(folder: Path, name: str, **changes: Any) -> None:
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("do_normalize", [False, True])
@pytest.mark.parametrize("variant", VARIANTS)
def test_embeddings_are_those_of_transformers(
    variant: str,
    do_normalize: bool,
    speech: list[Float32Array],
    padded: Callable[[list[Float32Array]], tuple[Tensor, Tensor]],
    assert_equal: Callable[[Tensor, Tensor], None],
    tmp_path: Path,
) -> None:
    from transformers import Wav2Vec2FeatureExtractor

    theirs = make(VARIANTS[variant])
    model = read_transformers(save(theirs, tmp_path / "theirs", do_normalize=do_normalize), variant)
    identity = save_checkpoint(model, tmp_path / "ours")
    model, loaded = load_checkpoint(tmp_path / "ours")
    assert loaded == identity
    extract = Wav2Vec2FeatureExtractor.from_pretrained(tmp_path / "theirs")
    recordings = [*speech, speech[5][::-1].copy()]  # two of one length
    with torch.inference_mode():
        expected = torch.cat(
            [
                theirs(extract(recording, sampling_rate=16000, return_tensors="pt").input_values).embeddings
                for recording in recordings
            ]
        )
        assert_equal(torch.cat([model(torch.from_numpy(one)[None]) for one in recordings]), expected)
        assert_equal(model(*padded(recordings)), expected)
    served = load_encoder(tmp_path / "ours").embed(recordings)
    assert_equal(torch.from_numpy(served), torch.nn.functional.normalize(expected))


@pytest.mark.parametrize("form", ["bin", "bin-weight_g"])
def test_files_of_the_hub(original: Path, folder: Path, form: str) -> None:
    """Its .bin files, and their older names of weight norm, are the same weights."""
    from safetensors.torch import load_file

    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    if form == "bin-weight_g":
        stem = "wavlm.encoder.pos_conv_embed.conv"
        weights[f"{stem}.weight_g"] = weights.pop(f"{stem}.parametrizations.weight.original0")
        weights[f"{stem}.weight_v"] = weights.pop(f"{stem}.parametrizations.weight.original1")
    torch.save(weights, folder / "pytorch_model.bin")
    ours, theirs = read_transformers(folder, "x"), read_transformers(original, "x")
    for name, value in theirs.network.state_dict().items():
        assert torch.equal(ours.network.state_dict()[name], value)


def test_the_shortest_input(original: Path) -> None:
    model = read_transformers(original, "x")
    least = model.minimum_samples
    noise = torch.randn(1, least, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.isfinite(model(noise)).all()
        assert not torch.isfinite(model(noise[:, :-1])).all()
    assert WavLMConfig().minimum_frames() == 400 + 320 * (1 + 4 + 4 + 6)


def test_normalised_samples(
    padded: Callable[[list[Float32Array]], tuple[Tensor, Tensor]], speech: list[Float32Array]
) -> None:
    frontend = RawWaveform(WaveformConfig(normalise=True))
    batch, counts = frontend(*padded(speech))
    assert counts is not None
    for recording, item, count in zip(speech, batch, counts.tolist(), strict=True):
        assert count == len(recording)
        alone = frontend(torch.from_numpy(recording)[None])[0][0]
        torch.testing.assert_close(item[:count], alone, rtol=1e-4, atol=1e-5)
        assert abs(float(alone.mean())) < 1e-4 and abs(float(alone.std()) - 1) < 1e-2
        assert not item[count:].any()


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("config.json", {"architectures": ["WavLMForCTC"]}, "only WavLMForXVector"),
        ("config.json", {"model_type": "wav2vec2"}, "only WavLMForXVector"),
        ("config.json", {"add_adapter": True}, "adapter"),
        ("config.json", {"hidden_size": "32"}, "hidden_size"),
        ("config.json", {"hidden_size": 30}, "hidden_size must be a multiple"),
        ("config.json", {"num_hidden_layers": 2}, r"do not fit config\.json: .*unexpected: wavlm\.encoder\.layers\.2"),
        ("config.json", {"num_hidden_layers": 10**9}, "num_hidden_layers must be in"),
        ("config.json", {"tdnn_dim": [24, 24, 41]}, r"shape of .*tdnn\.2"),
        ("config.json", {"tdnn_dim": [24, 24]}, "one value for each"),
        ("config.json", {"use_weighted_layer_sum": False}, "unexpected: layer_weights"),
        ("config.json", {"hidden_act": "__import__"}, "unknown activation"),
        ("preprocessor_config.json", {"sampling_rate": 8000}, "8000"),
        ("preprocessor_config.json", {"do_normalize": "yes"}, "normalise"),
    ],
)  # fmt: skip
def test_configs_that_cannot_be_run(folder: Path, name: str, changes: dict[str, Any], message: str) -> None:
    edit(folder, name, **changes)
    with pytest.raises(CheckpointError, match=message):
        read_transformers(folder, "x")


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", "model.safetensors"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=name):
        read_transformers(folder, "x")


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", "model.safetensors"])
@pytest.mark.parametrize("size", [0, 30, -10])
def test_truncated_files(folder: Path, name: str, size: int) -> None:
    (folder / name).write_bytes((folder / name).read_bytes()[:size])
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        read_transformers(folder, "x")


def test_a_pickle_bomb_does_not_go_off(folder: Path, tmp_path: Path) -> None:
    mark = tmp_path / "executed"

    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, (f"touch {mark}",)

    (folder / "model.safetensors").unlink()
    torch.save({"projector.weight": Bomb()}, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="more than tensors"):
        read_transformers(folder, "x")
    assert not mark.exists()
