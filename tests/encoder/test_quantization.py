"""The int8 variant: made from the float weights and real speech, close to them, and never mixed up."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from voicevault.encoder import load_encoder, read_identity
from voicevault.encoder.checkpoint import SpeakerModel, load_checkpoint, save_checkpoint
from voicevault.encoder.encoder import ModelEncoder
from voicevault.encoder.engine_openvino import observe, saturates
from voicevault.encoder.quantization import quantize
from voicevault.encoder.variants import load_ranges
from voicevault.errors import CheckpointError, RequestError, SettingsError
from voicevault.types import Float32Array

SmallModel = Callable[..., SpeakerModel]


@pytest.fixture(scope="module")
def original(
    small_model: SmallModel, speech: list[Float32Array], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    if saturates():
        pytest.skip("this processor has no exact 8-bit arithmetic (VNNI), so nothing runs in int8 here")
    folder = tmp_path_factory.mktemp("models") / "small"
    save_checkpoint(small_model(2, seed=9, means=3), folder)
    quantize(folder, speech)
    return folder


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(original, tmp_path / "small"))


def config_of(folder: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((folder / "config.json").read_text())
    return found


def test_int8_is_close_and_not_the_same(original: Path, speech: list[Float32Array]) -> None:
    exact, rounded = (ModelEncoder(original, threads=2, precision=p) for p in ("fp32", "int8"))
    assert (exact.engine, rounded.engine) == ("openvino", "openvino-int8")
    assert exact.model_id == rounded.model_id == read_identity(original).model_id
    a, b = exact.embed(speech), rounded.embed(speech)
    cosines = (a * b).sum(axis=1)
    apart = (a @ a.T)[np.triu_indices(len(a), 1)]
    assert cosines.min() > 0.98
    assert 1 - cosines.min() < 0.5 * (1 - apart.max())
    assert np.abs(a - b).max() > 1e-4, "nothing was rounded"
    alone = np.concatenate([rounded.embed([samples]) for samples in speech])
    np.testing.assert_allclose(alone, b, atol=2e-3)


def test_the_model_says_what_the_variant_was_made_from(folder: Path, speech: list[Float32Array]) -> None:
    facts = quantize(folder, speech, default=True)
    config = config_of(folder)
    variant = config["variants"]["int8"]  # type: ignore[index]
    assert variant["recordings"] == facts.recordings == len(speech)
    assert variant["seconds"] == pytest.approx(sum(map(len, speech)) / 16_000, abs=0.1)
    a, b = (ModelEncoder(folder, precision=p).embed(speech) for p in ("fp32", "int8"))
    assert facts.cosine_min == pytest.approx((a * b).sum(axis=1).min(), abs=1e-3)
    assert config["precision"] == "int8"
    assert load_encoder(folder).engine == "openvino-int8"  # type: ignore[attr-defined]
    quantize(folder, speech)
    assert load_encoder(folder).engine == "openvino"  # type: ignore[attr-defined]


def test_weights_and_identity_stay(original: Path, small_model: SmallModel, tmp_path: Path) -> None:
    identity = save_checkpoint(small_model(2, seed=9, means=3), tmp_path / "plain")
    assert read_identity(original).model_id == identity
    weights = [(folder / "model.safetensors").read_bytes() for folder in (original, tmp_path / "plain")]
    assert weights[0] == weights[1]


def test_ranges_are_those_of_the_network(original: Path, speech: list[Float32Array]) -> None:
    """Against torch: the inputs of a convolution, as a hook sees them."""
    import torch

    model, _ = load_checkpoint(original)
    seen: list[tuple[float, float]] = []

    def hook(_module: object, inputs: tuple[torch.Tensor, ...]) -> None:
        low, high = np.quantile(inputs[0].numpy(), (0.001, 0.999))
        seen.append((float(low), float(high)))

    handle = model.network.blocks[1].tdnn2.conv.register_forward_pre_hook(hook)
    with torch.inference_mode():
        for samples in speech:
            model(torch.from_numpy(samples)[None])
    handle.remove()
    low, high = observe(model, speech)["blocks.1.tdnn2.conv"]
    assert low == pytest.approx(min(0.0, *(s[0] for s in seen)), abs=1e-4)
    assert high == pytest.approx(max(s[1] for s in seen), abs=1e-4)


@pytest.mark.skipif(
    platform.machine().lower() not in ("x86_64", "amd64"), reason="only x86-64 has processors that saturate"
)
def test_where_products_saturate_the_model_runs_in_float32(folder: Path, speech: list[Float32Array]) -> None:
    """As on a processor without VNNI, whose 8-bit embeddings would be far off."""
    quantize(folder, speech, default=True)
    program = (
        "import sys, numpy as np\n"
        "from pathlib import Path\n"
        "from voicevault.encoder.encoder import ModelEncoder\n"
        "from voicevault.encoder.quantization import quantize\n"
        "from voicevault.errors import SettingsError\n"
        "folder = Path(sys.argv[1])\n"
        "encoder = ModelEncoder(folder, threads=1)\n"
        "assert encoder.engine == 'openvino', encoder.engine\n"
        "np.save(sys.argv[2], encoder.embed([np.load(sys.argv[3])]))\n"
        "try: ModelEncoder(folder, threads=1, precision='int8')\n"
        "except SettingsError as error: assert 'Set precision to fp32' in str(error), error\n"
        "else: raise AssertionError('int8 was taken')\n"
        "try: quantize(folder, [np.ones(48000, np.float32)] * 8)\n"
        "except SettingsError as error: assert 'VNNI' in str(error), error\n"
        "else: raise AssertionError('int8 was made')\n"
    )
    given, found = folder / "given.npy", folder / "found.npy"
    np.save(given, speech[3])
    done = subprocess.run(
        [sys.executable, "-c", program, str(folder), str(found), str(given)],
        env={**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "no exact 8-bit arithmetic" in done.stderr
    exact = ModelEncoder(folder, threads=1, precision="fp32").embed([speech[3]])
    np.testing.assert_allclose(np.load(found), exact, atol=1e-4)


def test_too_little_to_calibrate_on(folder: Path, speech: list[Float32Array]) -> None:
    with pytest.raises(RequestError, match="too few") as caught:
        quantize(folder, [*speech[:3], speech[0][:10]])
    assert caught.value.facts["found"] == 3


def test_a_variant_of_other_weights_is_refused(folder: Path, small_model: SmallModel, tmp_path: Path) -> None:
    save_checkpoint(small_model(2, seed=10), tmp_path / "other")
    other = config_of(tmp_path / "other")
    other["variants"] = config_of(folder)["variants"]
    (tmp_path / "other" / "config.json").write_text(json.dumps(other))
    shutil.copy(folder / "int8.json", tmp_path / "other")
    with pytest.raises(CheckpointError, match="made for model"):
        ModelEncoder(tmp_path / "other", precision="int8")
    assert ModelEncoder(tmp_path / "other").engine == "openvino"


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda path: path.unlink(), "No such file"),
        (lambda path: path.write_text("{}"), "config.json names"),
        (lambda path: path.write_bytes(path.read_bytes()[:-20]), "config.json names"),
    ],
)
def test_a_damaged_variant_is_refused(folder: Path, damage: Callable[[Path], object], told: str) -> None:
    damage(folder / "int8.json")
    with pytest.raises(CheckpointError, match=told):
        ModelEncoder(folder, precision="int8")
    assert ModelEncoder(folder).engine == "openvino", "the float weights are whole"


@pytest.mark.parametrize(
    "content", ["{}", '{"mfa.conv": [NaN, 1]}', '{"mfa.conv": [2, 1]}', '{"mfa.conv": 3}']
)
def test_ranges_that_are_none(folder: Path, content: str) -> None:
    import hashlib

    identity = read_identity(folder).model_id
    text = f'{{"model_id": "{identity}", "ranges": {content}}}'
    (folder / "int8.json").write_text(text)
    config = config_of(folder)
    config["variants"] = {"int8": {"file": "int8.json", "sha256": hashlib.sha256(text.encode()).hexdigest()}}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="Quantize the model again"):
        load_ranges(folder, identity, "int8")


def test_a_folder_without_the_variant(folder: Path, small_model: SmallModel) -> None:
    identity = save_checkpoint(small_model(2, seed=9, means=3), folder)
    with pytest.raises(SettingsError, match="no int8 variant") as caught:
        ModelEncoder(folder, precision="int8")
    assert f"voicevault models quantize {identity[:12]} --calibration FOLDER" in str(caught.value)
    config = config_of(folder)
    config["architecture"] = {"type": "wavlm-xvector"}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(SettingsError, match="Only ECAPA-TDNN can have one"):
        load_ranges(folder, identity, "int8")
