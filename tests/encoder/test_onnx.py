"""Speaker models in ONNX, with the front-ends of the toolkits that export them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchaudio.compliance import kaldi

from voicevault.encoder import load_encoder
from voicevault.encoder.checkpoint import load_checkpoint, save_checkpoint
from voicevault.encoder.importers.onnx import preset, read_onnx
from voicevault.encoder.importing import import_model
from voicevault.encoder.store import ModelStore
from voicevault.errors import CheckpointError, RequestError
from voicevault.types import Float32Array

onnx = pytest.importorskip("onnx", reason="onnx is not installed")

# As the inference code of each toolkit calls torchaudio; samples in [-1, 1] are multiplied with the last number before.
TOOLKITS: dict[str, tuple[dict[str, Any], float]] = {
    "wespeaker": ({"num_mel_bins": 80, "window_type": "hamming", "dither": 0.0}, 32768.0),
    "3d-speaker": ({"num_mel_bins": 80, "dither": 0.0}, 1.0),
}


class Pooled(nn.Module):
    """[b, t, 80] -> [b, 24]: convolutions without padding, then mean and deviation over all frames."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv1d(80, 32, 5), nn.ReLU(), nn.BatchNorm1d(32), nn.Conv1d(32, 32, 3, dilation=2), nn.ReLU()
        )
        self.project = nn.Linear(64, 24)

    def forward(self, feats: Tensor) -> Tensor:
        x = self.layers(feats.transpose(1, 2))
        mean = x.mean(2)
        deviation = ((x - mean[:, :, None]).square().mean(2) + 1e-6).sqrt()
        out: Tensor = self.project(torch.cat([mean, deviation], 1))
        return out


@pytest.fixture(scope="module")
def network(randomise: Callable[[nn.Module, int], None]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        made = Pooled()
    randomise(made, 2)
    return made.eval()


def export(
    network: nn.Module, path: Path, free: dict[str, dict[int, str]] | None = None, frames: int = 50
) -> Path:
    axes = {"feats": {0: "b", 1: "t"}, "embs": {0: "b"}} if free is None else free
    torch.onnx.export(
        network,
        (torch.zeros(1, frames, 80),),
        str(path),
        input_names=["feats"],
        output_names=["embs"],
        dynamic_axes=axes,
        dynamo=False,
    )
    return path


@pytest.fixture(scope="module")
def original(network: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(network, tmp_path_factory.mktemp("onnx") / "pooled.onnx")


@pytest.mark.parametrize("toolkit", TOOLKITS)
@pytest.mark.parametrize("batch", ["free", "one"])
def test_embeddings_are_those_of_the_toolkit(
    toolkit: str,
    batch: str,
    network: nn.Module,
    speech: list[Float32Array],
    padded: Callable[[list[Float32Array]], tuple[Tensor, Tensor]],
    assert_equal: Callable[[Tensor, Tensor], None],
    tmp_path: Path,
) -> None:
    free = None if batch == "free" else {"feats": {1: "t"}}
    file = export(network, tmp_path / "exported.onnx", free)
    model = read_onnx(file, toolkit, preset(toolkit, {}))
    assert model.config.architecture.minimum_frames() == 12  # of those tried, the first above the reach of 9
    identity = save_checkpoint(model, tmp_path / "ours")
    file.unlink()
    model, loaded = load_checkpoint(tmp_path / "ours")
    assert loaded == identity
    settings, scale = TOOLKITS[toolkit]
    recordings = [*speech, speech[5][::-1].copy()]  # two of one length
    with torch.inference_mode():
        rows = []
        for recording in recordings:
            features = kaldi.fbank(
                torch.from_numpy(recording)[None] * scale, sample_frequency=16000.0, **settings
            )
            rows.append(network((features - features.mean(0))[None]))
        expected = torch.cat(rows)
        assert_equal(torch.cat([model(torch.from_numpy(one)[None]) for one in recordings]), expected)
        assert_equal(model(*padded(recordings)), expected)
    served = load_encoder(tmp_path / "ours").embed(recordings)
    assert_equal(torch.from_numpy(served), torch.nn.functional.normalize(expected))


def test_the_front_end_is_part_of_the_identity(original: Path, tmp_path: Path) -> None:
    identities = {
        save_checkpoint(read_onnx(original, "x", preset(*chosen)), tmp_path / str(i))
        for i, chosen in enumerate(
            [("wespeaker", {}), ("3d-speaker", {}), ("wespeaker", {"dither": 1.0}), (None, {})]
        )
    }
    assert len(identities) == 4


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("nemo", {}, "choose wespeaker, 3d-speaker"),
        ("wespeaker", {"windows": "hann"}, "windows is unknown"),
        ("wespeaker", {"window": "flat"}, "flat"),
        ("wespeaker", {"bins": "many"}, "bins"),
    ],
)
def test_a_front_end_that_cannot_be(name: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        preset(name, changes)


def test_graphs_that_do_not_fit(original: Path, network: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="set bins=80"):
        read_onnx(original, "x", preset("wespeaker", {"bins": 64}))
    fixed = export(network, tmp_path / "fixed.onnx", {"feats": {0: "b"}, "embs": {0: "b"}})
    with pytest.raises(CheckpointError, match="takes 50 frames, no more and no less"):
        read_onnx(fixed, "x", preset("wespeaker", {}))

    class Framewise(nn.Module):
        def forward(self, feats: Tensor) -> Tensor:
            return feats * 2

    framewise = export(Framewise(), tmp_path / "framewise.onnx", {"feats": {1: "t"}, "embs": {1: "t"}})
    with pytest.raises(CheckpointError, match=r"gives float32 \[1, 8, 80\] for one recording"):
        read_onnx(framewise, "x", preset("wespeaker", {}))

    class Broken(nn.Module):
        def forward(self, feats: Tensor) -> Tensor:
            return feats.mean(1) / torch.zeros(80)

    with pytest.raises(
        CheckpointError, match="embeds none of 1 to 128 frames of noise: its output is not finite"
    ):
        read_onnx(export(Broken(), tmp_path / "broken.onnx"), "x", preset("wespeaker", {}))
    package = find_spec("silero_vad")
    assert package is not None and package.origin is not None
    with pytest.raises(CheckpointError, match="a model with one input"):
        read_onnx(Path(package.origin).parent / "data" / "silero_vad.onnx", "x", preset("wespeaker", {}))


@pytest.mark.parametrize("size", [0, 10, -100])
def test_a_truncated_graph(original: Path, tmp_path: Path, size: int) -> None:
    path = tmp_path / "cut.onnx"
    path.write_bytes(original.read_bytes()[:size])
    with pytest.raises(CheckpointError, match="cannot load"):
        read_onnx(path, "x", preset("wespeaker", {}))


def test_a_changed_file_is_noticed(original: Path, tmp_path: Path) -> None:
    folder = tmp_path / "ours"
    save_checkpoint(read_onnx(original, "x", preset("wespeaker", {})), folder)
    data = bytearray((folder / "model.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "model.onnx").write_bytes(data)
    with pytest.raises(CheckpointError, match="is not the file"):
        load_checkpoint(folder)
    (folder / "model.onnx").unlink()
    with pytest.raises(CheckpointError, match=r"has no model\.onnx"):
        load_checkpoint(folder)


@pytest.mark.parametrize("location", ["weights.bin", "../outside.bin", "{absolute}"])
def test_weights_in_other_files_are_not_read(original: Path, tmp_path: Path, location: str) -> None:
    """A graph may point at files; the one in the store stands alone."""
    (tmp_path / "in").mkdir()
    secret = tmp_path / "outside.bin"
    graph = onnx.load(str(original))
    tensor = max(graph.graph.initializer, key=lambda t: len(t.raw_data))
    secret.write_bytes(tensor.raw_data)
    (tmp_path / "in" / "weights.bin").write_bytes(tensor.raw_data)
    onnx.external_data_helper.set_external_data(tensor, location=location.format(absolute=secret))
    tensor.ClearField("raw_data")
    path = tmp_path / "in" / "external.onnx"
    path.write_bytes(graph.SerializeToString())
    store = ModelStore(tmp_path / "models")
    with pytest.raises(CheckpointError, match="ONNX Runtime cannot load"):
        import_model(store, path, frontend="wespeaker")
    assert not list((tmp_path / "models").iterdir())


def test_names_in_the_config_are_checked_with_the_graph(original: Path, tmp_path: Path) -> None:
    folder = tmp_path / "ours"
    save_checkpoint(read_onnx(original, "x", preset("wespeaker", {})), folder)
    for changes in ({"input": "other"}, {"embedding": 23}, {"bins": 40}, {"sha256": "0" * 64}, {"frames": 0}):
        broken = Path(shutil.copytree(folder, tmp_path / "broken", dirs_exist_ok=True))
        config = json.loads((broken / "config.json").read_text())
        config["architecture"] |= changes
        (broken / "config.json").write_text(json.dumps(config))
        with pytest.raises(CheckpointError):
            load_checkpoint(broken)
    assert np.isfinite(load_checkpoint(folder)[0](torch.ones(1, 16000)).numpy()).all()
