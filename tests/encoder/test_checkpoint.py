"""A model folder is loaded whole and unchanged, or refused with what is wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from voicevault.encoder import read_identity
from voicevault.encoder.architectures import ModelConfig
from voicevault.encoder.checkpoint import SpeakerModel, load_checkpoint, model_id, save_checkpoint
from voicevault.encoder.ecapa import EcapaConfig
from voicevault.encoder.frontend import FrontendConfig
from voicevault.errors import CheckpointError


@pytest.fixture(scope="module")
def original(small_model: Callable[..., SpeakerModel], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "small"
    save_checkpoint(small_model(2), folder)
    return folder


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(original, tmp_path / "small"))


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


def edit_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")


def test_what_was_saved_is_what_is_loaded(small_model: Callable[..., SpeakerModel], tmp_path: Path) -> None:
    saved = small_model(2, seed=9)
    identity = save_checkpoint(saved, tmp_path)
    loaded, found = load_checkpoint(tmp_path)
    assert identity == found == read_identity(tmp_path).model_id
    assert loaded.config == saved.config
    assert not loaded.training
    waveforms = torch.rand(2, 16000, generator=torch.Generator().manual_seed(0)) - 0.5
    with torch.inference_mode():
        assert torch.equal(saved(waveforms), loaded(waveforms))


def test_half_precision_is_its_own_model_and_stable(
    small_model: Callable[..., SpeakerModel], tmp_path: Path
) -> None:
    """The identity covers the rounded weights; saving what was loaded rounds nothing further."""
    whole = save_checkpoint(small_model(), tmp_path / "whole")
    half = save_checkpoint(small_model(), tmp_path / "half", half=True)
    assert whole != half
    assert {t.dtype for t in load_file(tmp_path / "half" / "model.safetensors").values()} == {torch.float16}
    model, identity = load_checkpoint(tmp_path / "half")
    assert identity == half
    assert all(p.dtype == torch.float32 for p in model.parameters())
    assert save_checkpoint(model, tmp_path / "again", half=True) == half
    assert save_checkpoint(model, tmp_path / "widened") == half


def test_weights_beyond_float16_are_not_written(
    small_model: Callable[..., SpeakerModel], tmp_path: Path
) -> None:
    model = small_model()
    model.network.pool_norm.running_var[0] = 1e6
    with pytest.raises(CheckpointError, match=r"not finite in float16: pool_norm\.running_var"):
        save_checkpoint(model, tmp_path / "new", half=True)
    assert not (tmp_path / "new").exists()


def test_identity_of_the_first_release_stays(small_model: Callable[..., SpeakerModel]) -> None:
    """Collections are bound to these hashes: they must never move."""
    config = ModelConfig("any", FrontendConfig(), EcapaConfig(channels=8, aggregate=8, embedding=4))
    weights = {"b": torch.tensor([1.5]), "a": torch.arange(4).reshape(2, 2) / 4}
    assert model_id(config, weights) == "633523eb589ff46e902d9cb64dbea0a2"
    assert model_id(replace(config, name="other"), weights) == model_id(config, weights)
    assert model_id(config, {k: v.half() for k, v in weights.items()}) == model_id(config, weights)


@pytest.mark.parametrize(
    "changed",
    [
        lambda c, w: (replace(c, frontend=replace(c.frontend, high_hz=7000.0)), w),
        lambda c, w: (replace(c, frontend=replace(c.frontend, scale=1.0)), w),
        lambda c, w: (replace(c, frontend=replace(c.frontend, normalise=False)), w),
        lambda c, w: (replace(c, architecture=replace(c.architecture, dilations=(1, 2, 3, 5))), w),
        lambda c, w: (c, w | {"project.bias": w["project.bias"].nextafter(torch.tensor(torch.inf))}),
        lambda c, w: (c, {("x" if k == "project.bias" else k): v for k, v in w.items()}),
    ],
    ids=["band", "scale", "normalise", "dilation", "one-bit", "name"],
)
def test_whatever_changes_embeddings_changes_the_identity(
    changed: Callable[..., Any], small_model: Callable[..., SpeakerModel]
) -> None:
    model = small_model()
    weights = dict(model.network.state_dict())
    assert model_id(*changed(model.config, weights)) != model_id(model.config, weights)


def test_policy_and_cohort_do_not_move_the_identity(folder: Path) -> None:
    before = load_checkpoint(folder)[1]
    (folder / "policy.json").write_text("{}")
    (folder / "cohort.safetensors").write_bytes(b"anything")
    (folder / "MODEL_CARD.md").write_text("# small")
    edit(folder, lambda c: c.update(name="renamed"))
    assert load_checkpoint(folder)[1] == before


def test_what_was_measured_with_other_weights_does_not_stay(
    folder: Path, small_model: Callable[..., SpeakerModel]
) -> None:
    """Exported again while the training goes on: a vault refuses the thresholds of the earlier weights."""
    measured = [folder / name for name in ("policy.json", "cohort.safetensors", "int8.json")]
    for path in measured:
        path.write_text("measured", encoding="utf-8")
    save_checkpoint(small_model(2), folder)
    assert all(path.exists() for path in measured)
    save_checkpoint(small_model(3), folder)
    assert not any(path.exists() for path in measured)


def test_a_config_of_the_first_release_loads(folder: Path) -> None:
    """It has no type of its front-end, and none of the settings that came later."""
    edit(folder, lambda c: c["frontend"].pop("type"))
    config = json.loads((folder / "config.json").read_text())
    assert set(config["frontend"]) == {
        "bins", "window", "window_ms", "hop_ms", "low_hz", "high_hz", "preemphasis", "normalise"
    }  # fmt: skip
    load_checkpoint(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("project.bias"), r"missing: project\.bias \(48,\)"),
        (lambda w: w.update(extra=torch.zeros(3)), r"unexpected: extra \(3,\)"),
        (
            lambda w: w.update({"project.bias": torch.zeros(47)}),
            r"shape of project\.bias: \(47,\), expected \(48,\)",
        ),
        (lambda w: w.update({"project.bias": torch.zeros(48).int()}), r"type of project\.bias: torch\.int32"),
        (lambda w: w["project.bias"].fill_(torch.nan), r"not finite: project\.bias"),
        (lambda w: w["project.bias"].add_(1), r"not those that config\.json was written with"),
    ],
    ids=["missing", "unexpected", "shape", "type", "nan", "changed"],
)
def test_weights_that_do_not_fit(folder: Path, change: Callable[..., Any], message: str) -> None:
    edit_weights(folder, change)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(folder)


def test_many_differences_are_listed_and_counted(folder: Path) -> None:
    edit_weights(folder, lambda w: [w.pop(k) for k in list(w) if k.startswith("blocks.0")])
    with pytest.raises(CheckpointError, match=r"and [0-9]+ more") as caught:
        load_checkpoint(folder)
    assert len(caught.value.facts["differences"]) > 12


@pytest.mark.parametrize("place", [0.1, 0.5, 0.9, 0.999])
def test_a_flipped_bit_is_noticed(folder: Path, place: float) -> None:
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[int(place * len(data))] ^= 0x10
    path.write_bytes(data)
    with pytest.raises(CheckpointError):
        load_checkpoint(folder)


@pytest.mark.parametrize("size", [0, 5, 100, -1])
def test_a_truncated_file_is_noticed(folder: Path, size: int) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_checkpoint(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=f"has no {name}"):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(format=2), "not of format 1"),
        (lambda c: c.pop("format"), "not of format 1"),
        (lambda c: c.pop("name"), "name is missing"),
        (lambda c: c.pop("model_id"), "expected None"),
        (lambda c: c.update(model_id="0" * 32), "expected 0000"),
        (lambda c: c.pop("frontend"), "frontend is missing"),
        (lambda c: c.update(architecture=[]), "architecture is missing"),
        (lambda c: c["architecture"].pop("type"), "type is None; this release knows ecapa-tdnn"),
        (lambda c: c["architecture"].update(type="resnet34"), "'resnet34'"),
        (lambda c: c["frontend"].update(type="gabor"), "'gabor'; this release knows kaldi"),
        (lambda c: c["frontend"].update(colour=1), "frontend: colour is unknown"),
        (lambda c: c["frontend"].pop("bins"), "frontend: bins is missing"),
        (lambda c: c["frontend"].update(bins="80"), "bins: Input should be a valid integer"),
        (lambda c: c["frontend"].update(normalise=1), "normalise: Input should be a valid boolean"),
        (lambda c: c["frontend"].update(window="flat"), "unknown window 'flat'"),
        (lambda c: c["frontend"].update(bins=64), "takes 80 bins, the front-end gives 64"),
        (lambda c: c["architecture"].update(channels=10**12), "channels must be in 1 to"),
        (lambda c: c["architecture"].update(channels=8192), "do not fit config.json: shape of"),
        (lambda c: c["architecture"].update(kernels=[5, 3, 3]), "one value for each"),
        (lambda c: c["architecture"].update(kernels=3), "kernels: "),
    ],
)
def test_a_config_that_does_not_fit(folder: Path, change: Callable[..., Any], message: str) -> None:
    edit(folder, change)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "\ud800", "[" * 100_000, '{"format": 1}', " " * 2_000_000]
)
def test_a_config_that_is_none(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text, encoding="utf-8", errors="surrogatepass")
    with pytest.raises(CheckpointError):
        load_checkpoint(folder)
