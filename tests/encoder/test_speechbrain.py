"""SpeechBrain's folders: our embedding of a recording is SpeechBrain's, and nothing in a folder is executed."""

from __future__ import annotations

import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from voicevault.encoder import load_encoder
from voicevault.encoder.checkpoint import load_checkpoint, save_checkpoint
from voicevault.encoder.importers.hyperparams import Tagged, read_hyperparams
from voicevault.encoder.importers.speechbrain import read_speechbrain
from voicevault.errors import CheckpointError
from voicevault.types import Float32Array

ecapa = pytest.importorskip("speechbrain.lobes.models.ECAPA_TDNN", reason="speechbrain is not installed")
features = pytest.importorskip("speechbrain.lobes.features")
processing = pytest.importorskip("speechbrain.processing.features")

# The layout of the published one, narrow.
HYPERPARAMS = """
n_mels: 80
pretrained_path: speechbrain/spkrec-ecapa-voxceleb
out_n_neurons: 7205

compute_features: !new:speechbrain.lobes.features.Fbank
    n_mels: !ref <n_mels>

mean_var_norm: !new:speechbrain.processing.features.InputNormalization
    norm_type: sentence
    std_norm: False

embedding_model: !new:speechbrain.lobes.models.ECAPA_TDNN.ECAPA_TDNN
    input_size: !ref <n_mels>
    channels: [64, 64, 64, 64, 96]
    kernel_sizes: [5, 3, 3, 3, 1]
    dilations: [1, 2, 3, 4, 1]
    attention_channels: 16
    se_channels: 16
    lin_neurons: 48

classifier: !new:speechbrain.lobes.models.ECAPA_TDNN.Classifier
    input_size: 48
    out_neurons: !ref <out_n_neurons>

modules:
    compute_features: !ref <compute_features>
    embedding_model: !ref <embedding_model>

pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer
    loadables:
        embedding_model: !ref <embedding_model>
    paths:
        embedding_model: !ref <pretrained_path>/embedding_model.ckpt
"""


@pytest.fixture(scope="module")
def network(randomise: Callable[[nn.Module, int], None]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        made: nn.Module = ecapa.ECAPA_TDNN(
            80, channels=[64, 64, 64, 64, 96], attention_channels=16, se_channels=16, lin_neurons=48
        )
    randomise(made, 11)
    return made.eval()


@pytest.fixture(scope="module")
def original(network: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("speechbrain") / "spkrec"
    folder.mkdir()
    torch.save(network.state_dict(), folder / "embedding_model.ckpt")
    (folder / "hyperparams.yaml").write_text(HYPERPARAMS)
    return folder


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(original, tmp_path / "spkrec"))


def rewrite(folder: Path, old: str, new: str) -> None:
    path = folder / "hyperparams.yaml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_embeddings_are_speechbrains(
    original: Path,
    network: nn.Module,
    speech: list[Float32Array],
    padded: Callable[[list[Float32Array]], tuple[Tensor, Tensor]],
    assert_equal: Callable[[Tensor, Tensor], None],
    tmp_path: Path,
) -> None:
    """From samples to embeddings, against the modules that ``encode_batch`` calls, for each recording alone."""
    model = read_speechbrain(original, "spkrec")
    identity = save_checkpoint(model, tmp_path / "ours")
    model, loaded = load_checkpoint(tmp_path / "ours")
    assert loaded == identity
    fbank = features.Fbank(n_mels=80)
    norm = processing.InputNormalization(norm_type="sentence", std_norm=False)
    with torch.inference_mode():
        theirs = torch.cat(
            [
                network(norm(fbank(samples), torch.ones(1)), torch.ones(1))[:, 0]
                for samples in (torch.from_numpy(recording)[None] for recording in speech)
            ]
        )
        alone = torch.cat([model(torch.from_numpy(recording)[None]) for recording in speech])
        assert_equal(alone, theirs)
        assert_equal(model(*padded(speech)), theirs)
    served = load_encoder(tmp_path / "ours").embed(speech)
    assert_equal(torch.from_numpy(served), torch.nn.functional.normalize(theirs))


def test_tags_are_data(original: Path) -> None:
    found = read_hyperparams(original / "hyperparams.yaml")
    assert found["n_mels"] == 80
    assert found["compute_features"] == Tagged(
        "!new:speechbrain.lobes.features.Fbank", {"n_mels": Tagged("!ref", "<n_mels>")}
    )


@pytest.mark.parametrize(
    "tag",
    [
        "!!python/object/apply:os.system ['touch {mark}']",
        "!!python/object/new:os.system ['touch {mark}']",
        "!apply:os.system ['touch {mark}']",
        "!new:os.system ['touch {mark}']",
        "!name:os.system ['touch {mark}']",
        "!module:antigravity",
        "!include:/etc/passwd",
    ],
)
@pytest.mark.parametrize("place", ["elsewhere", "embedding_model", "n_mels"])
def test_tags_are_never_followed(folder: Path, tag: str, place: str, tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    tag = tag.format(mark=mark)
    if place == "elsewhere":
        rewrite(folder, "out_n_neurons: 7205", f"out_n_neurons: 7205\nextra: {tag}")
    elif place == "n_mels":
        rewrite(folder, "n_mels: 80\n", f"n_mels: {tag}\n")
    else:
        rewrite(folder, "!new:speechbrain.lobes.models.ECAPA_TDNN.ECAPA_TDNN", tag)
        rewrite(folder, "    input_size: !ref <n_mels>\n    channels", "    channels")
    if place == "elsewhere" and not tag.startswith("!!"):
        read_speechbrain(folder, "x")
    else:
        with pytest.raises(CheckpointError, match="hyperparams"):
            read_speechbrain(folder, "x")
    assert not mark.exists()


class Bomb:
    """What pickle would execute on loading."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize("form", ["plain", "torch", "beside"])
def test_a_pickle_bomb_does_not_go_off(folder: Path, form: str, network: nn.Module, tmp_path: Path) -> None:
    mark, path = tmp_path / "executed", folder / "embedding_model.ckpt"
    if form == "plain":
        path.write_bytes(pickle.dumps(Bomb(mark)))
    else:
        torch.save(Bomb(mark) if form == "torch" else network.state_dict() | {"bomb": Bomb(mark)}, path)
    with pytest.raises(CheckpointError, match="more than tensors"):
        read_speechbrain(folder, "x")
    assert not mark.exists()
    pickle.loads(pickle.dumps(Bomb(mark)))
    assert mark.exists(), "the bomb was none"


def test_a_compressed_archive_is_refused(folder: Path) -> None:
    """As small as it is, it could unpack to anything."""
    path = folder / "embedding_model.ckpt"
    torch.save({"x": torch.zeros(1_000_000)}, path)
    with zipfile.ZipFile(path) as stored:
        entries = {name: stored.read(name) for name in stored.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    with pytest.raises(CheckpointError, match="compressed"):
        read_speechbrain(folder, "x")


@pytest.mark.parametrize("size", [0, 1, 1000, -1000, -1])
def test_truncated_weights(folder: Path, size: int) -> None:
    path = folder / "embedding_model.ckpt"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(CheckpointError):
        read_speechbrain(folder, "x")


def test_an_archive_with_a_broken_directory(folder: Path) -> None:
    path = folder / "embedding_model.ckpt"
    data = bytearray(path.read_bytes())
    data[data.rindex(b"PK\x01\x02")] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_speechbrain(folder, "x")


@pytest.mark.parametrize("content", [[1, 2], {"a": 1}, {1: torch.zeros(1)}, {}, torch.zeros(3)], ids=repr)
def test_weights_that_are_no_state_dict(folder: Path, content: Any) -> None:
    torch.save(content, folder / "embedding_model.ckpt")
    with pytest.raises(CheckpointError, match="state dict"):
        read_speechbrain(folder, "x")


@pytest.mark.parametrize("name", ["embedding_model.ckpt", "hyperparams.yaml"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=f"{name} is missing"):
        read_speechbrain(folder, "x")


def test_the_weights_of_another_network_are_told_apart(folder: Path) -> None:
    torch.save(
        ecapa.ECAPA_TDNN(80, channels=[32] * 4 + [96], lin_neurons=48).state_dict(),
        folder / "embedding_model.ckpt",
    )
    with pytest.raises(
        CheckpointError, match=r"do not fit hyperparams\.yaml: shape of .*stem|do not fit.*blocks"
    ) as caught:
        read_speechbrain(folder, "x")
    assert any(
        "stem.conv.conv.weight: (32, 80, 5), expected (64, 80, 5)" in d
        for d in caught.value.facts["differences"]
    )


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("ECAPA_TDNN.ECAPA_TDNN", "Xvector.Xvector", r"only SpeechBrain's ECAPA_TDNN"),
        ("speechbrain.lobes.models.ECAPA_TDNN.ECAPA_TDNN", "evil.ECAPA_TDNN", "only SpeechBrain's"),
        ("norm_type: sentence", "norm_type: global", "norm_type 'global'; only 'sentence'"),
        ("std_norm: False", "std_norm: True", "std_norm True; only False"),
        ("    std_norm: False\n", "", "std_norm None; only False"),
        ("[5, 3, 3, 3, 1]", "[5, 3, 3, 3, 3]", "last layer of kernel and dilation 1"),
        ("[64, 64, 64, 64, 96]", "[64, 64, 32, 64, 96]", "of one width"),
        ("[64, 64, 64, 64, 96]", "[1e3, 64, 32, 64, 96]", "list of 3 to 17 integers"),
        ("    lin_neurons: 48", "    lin_neurons: 48\n    global_context: False", "global_context False; only True"),
        ("    lin_neurons: 48", "    lin_neurons: 48\n    activation: !name:torch.nn.Tanh", "argument activation"),
        ("    lin_neurons: 48", "    lin_neurons: '48'", "embedding"),
        ("    n_mels: !ref <n_mels>", "    n_mels: !ref <n_mels>\n    sample_rate: 8000", "sample_rate 8000; only 16000"),
        ("    n_mels: !ref <n_mels>", "    n_mels: !ref <bins>", "'<bins>' cannot be followed"),
        ("    n_mels: !ref <n_mels>", "    n_mels: !ref <n_mels> // 2", "cannot be followed"),
        ("    n_mels: !ref <n_mels>", "    n_mels: 40", "takes 80 bins, the front-end gives 40"),
        ("n_mels: 80\n", "n_mels: !ref <n_mels>\n", "in a circle"),
        ("n_mels: 80\n", "n_mels: [80\n", "as YAML"),
        ("compute_features: !new", "features: !new", "no compute_features"),
    ],
)  # fmt: skip
def test_hyperparams_that_cannot_be_run(folder: Path, old: str, new: str, message: str) -> None:
    rewrite(folder, old, new)
    with pytest.raises(CheckpointError, match=message):
        read_speechbrain(folder, "x")


def test_aliases_do_not_multiply(folder: Path) -> None:
    """Ten levels of ten references each would be ten thousand million words."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 11)]
    rewrite(folder, "n_mels: 80\n", "\n".join(lines) + "\nn_mels: 80\nbomb: *a10\n")
    read_speechbrain(folder, "x")
    for value in ("*a10", "[*a10]", "!ref [*a10]", "!ref {a: *a10}", "!new:x {a: *a10}", "[!ref [*a10]]"):
        for key in ("lin_neurons: 48", "channels: [64, 64, 64, 64, 96]", "n_mels: !ref <n_mels>"):
            broken = Path(shutil.copytree(folder, folder.with_name("broken"), dirs_exist_ok=True))
            rewrite(broken, f"    {key}", f"    {key.split(':')[0]}: {value}")
            with pytest.raises(CheckpointError, match=r"hyperparams\.yaml"):
                read_speechbrain(broken, "x")


@pytest.mark.parametrize("text", ["", "3", "- 1", "a: b: c", "\x00", "{" * 5000, "#" * 2_000_000])
def test_hyperparams_that_are_none(folder: Path, text: str) -> None:
    (folder / "hyperparams.yaml").write_text(text)
    with pytest.raises(CheckpointError, match=r"hyperparams\.yaml"):
        read_speechbrain(folder, "x")
