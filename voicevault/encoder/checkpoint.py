"""A model on disk: a folder with ``config.json`` and its weights, both required, nothing that can run code.

The weights are ``model.safetensors``, or ``model.onnx`` for a network that came as ONNX. ``policy.json`` (thresholds),
``cohort.safetensors`` and ``MODEL_CARD.md`` may stand beside them; they are no part of `model_id`, so that retuning a threshold
orphans no collection.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from voicevault.encoder.architectures import ModelConfig, build_frontend, build_network
from voicevault.encoder.onnx import OnnxNetwork
from voicevault.errors import CheckpointError

FORMAT = 1
CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
ONNX_FILE = "model.onnx"
MEASURED_FILES = ("policy.json", "cohort.safetensors", "int8.json")
"""What was measured with a model's weights, and is wrong for any others."""
CONFIG_BYTES = 1 << 20
"""A config.json is far below this."""

__all__ = ["ModelConfig", "SpeakerModel", "fit_weights", "load_checkpoint", "model_id", "save_checkpoint"]


class SpeakerModel(nn.Module):
    """Waveforms [b, n] and lengths int64 [b] -> embeddings float32 [b, d], not normalised.

    Zeros must stand behind the shorter items; `lengths` is None where there are none.
    """

    def __init__(self, config: ModelConfig, network: nn.Module | None = None) -> None:
        super().__init__()
        self.config = config
        self.frontend: Any = build_frontend(config.frontend)
        self.network: Any = build_network(config.architecture) if network is None else network

    @property
    def minimum_samples(self) -> int:
        """The shortest waveform that can be embedded."""
        return int(self.frontend.minimum_samples(self.config.architecture.minimum_frames()))

    def forward(self, waveforms: Tensor, lengths: Tensor | None = None) -> Tensor:
        features, counts = self.frontend(waveforms, lengths)
        out: Tensor = self.network(features, counts)
        return out


def model_id(config: ModelConfig, weights: Mapping[str, Tensor]) -> str:
    """32 hex digits of the SHA-256 over the weights (as float32), the architecture and the front-end."""
    digest = hashlib.sha256()
    digest.update(json.dumps(config.identity(), sort_keys=True).encode())
    for name in sorted(weights):
        tensor = weights[name].detach().to(torch.float32).contiguous()
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.numpy().astype("<f4").tobytes())
    return digest.hexdigest()[:32]


def _is_counter(name: str) -> bool:
    # Batch norm counts its batches; inference does not read the counters.
    return name.endswith("num_batches_tracked")


def _network_weights(network: nn.Module) -> dict[str, Tensor]:
    return {name: value for name, value in network.state_dict().items() if not _is_counter(name)}


def save_checkpoint(model: SpeakerModel, folder: Path, *, half: bool = False) -> str:
    """Writes the folder and returns the model_id. With `half` the weights are rounded to float16 first.

    Thresholds, cohort and int8 ranges of another model that lay there are removed.

    Raises:
        CheckpointError: A weight is not finite, or beyond float16's range with `half`; nothing is written.
    """
    kind = torch.float16 if half else torch.float32
    weights = {
        name: value.detach().cpu().to(kind).contiguous()
        for name, value in _network_weights(model.network).items()
    }
    if broken := [name for name, value in weights.items() if not torch.isfinite(value).all()]:
        raise CheckpointError(
            f"these weights are not finite{' in float16' if half else ''}: {', '.join(broken[:12])}",
            differences=broken,
        )
    folder.mkdir(parents=True, exist_ok=True)
    if _noted_id(folder) != model_id(model.config, weights):
        for name in MEASURED_FILES:
            (folder / name).unlink(missing_ok=True)
    if isinstance(model.network, OnnxNetwork):
        assert model.network.file is not None
        shutil.copyfile(model.network.file, folder / ONNX_FILE)
    else:
        save_file(weights, folder / WEIGHTS_FILE)
    return write_config(model.config, folder, weights)


def _noted_id(folder: Path) -> str | None:
    """The model_id of the model that a folder holds; None where it holds none."""
    try:
        return str(read_config(folder).get("model_id"))
    except CheckpointError:
        return None


def write_config(config: ModelConfig, folder: Path, weights: Mapping[str, Tensor]) -> str:
    """Writes config.json for the weights beside it, and returns the model_id."""
    identity = model_id(config, weights)
    values = config.to_json()
    values = {"format": FORMAT, "name": values.pop("name"), "model_id": identity, **values}
    (folder / CONFIG_FILE).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    return identity


def load_checkpoint(folder: Path) -> tuple[SpeakerModel, str]:
    """The model in evaluation mode and its model_id.

    Raises:
        CheckpointError: A file is missing, unreadable or does not fit; the message lists keys and shapes that differ.
    """
    config = read_config(folder)
    parsed = parse_config(config, folder)
    try:
        with torch.device(
            "meta"
        ):  # what the config promises costs nothing before the weights are seen to fit
            network = build_network(parsed.architecture)
    except (RuntimeError, ValueError) as error:
        raise CheckpointError(f"{folder / CONFIG_FILE} describes no network: {error}") from error
    weights: dict[str, Tensor] = {}
    if isinstance(network, OnnxNetwork):
        network.open(_present(folder, ONNX_FILE))
    else:
        path = _present(folder, WEIGHTS_FILE)
        try:
            weights = load_file(path)
        except (SafetensorError, OSError, ValueError) as error:
            raise CheckpointError(f"{path} cannot be read ({error}); copy the model folder again") from error
        fit_weights(network, weights, f"the weights in {folder}", CONFIG_FILE)
    identity = model_id(parsed, weights)
    if identity != config.get("model_id"):
        raise CheckpointError(
            f"the weights in {folder} are not those that {CONFIG_FILE} was written with (model_id {identity}, "
            f"expected {config.get('model_id')}); copy the model folder again"
        )
    return SpeakerModel(parsed, network).eval(), identity


def fit_weights(network: nn.Module, weights: Mapping[str, Tensor], given: str, wanted: str) -> None:
    """Loads the weights into a network on the meta device, in float32. Counters of batch norm may be absent.

    Raises:
        CheckpointError: `given` lacks keys that `wanted` needs, has others, or has other shapes or types.
    """
    expected, found = _network_weights(network), {k: v for k, v in weights.items() if not _is_counter(k)}
    differences = [f"missing: {k} {tuple(v.shape)}" for k, v in sorted(expected.items()) if k not in found]
    differences += [
        f"unexpected: {k} {tuple(v.shape)}" for k, v in sorted(found.items()) if k not in expected
    ]
    for key in sorted(expected.keys() & found.keys()):
        value = found[key]
        if value.shape != expected[key].shape:
            differences.append(f"shape of {key}: {tuple(value.shape)}, expected {tuple(expected[key].shape)}")
        elif not value.is_floating_point():
            differences.append(f"type of {key}: {value.dtype}, expected floating point")
        elif not torch.isfinite(value).all():
            differences.append(f"not finite: {key}")
    if differences:
        shown = "; ".join(differences[:12])
        if len(differences) > 12:
            shown += f"; and {len(differences) - 12} more"
        raise CheckpointError(f"{given} do not fit {wanted}: {shown}", differences=differences)
    counters = {
        k: torch.zeros(v.shape, dtype=v.dtype) for k, v in network.state_dict().items() if _is_counter(k)
    }
    network.load_state_dict({k: v.float() for k, v in found.items()} | counters, strict=True, assign=True)


def _present(folder: Path, name: str) -> Path:
    if not (folder / name).is_file():
        raise CheckpointError(f"{folder} has no {name}; a model folder needs it beside {CONFIG_FILE}")
    return folder / name


def read_config(folder: Path) -> dict[str, Any]:
    """config.json as it stands, of a format that this release knows. Raises CheckpointError."""
    path = folder / CONFIG_FILE
    try:
        if path.stat().st_size > CONFIG_BYTES:
            raise CheckpointError(f"{path} is larger than {CONFIG_BYTES} bytes; it is no model's")
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{folder} has no {CONFIG_FILE}; is it a model folder?") from error
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} is not of format {FORMAT}; it was written by another release, or is no model's"
        )
    return config


def parse_config(config: Mapping[str, Any], folder: Path) -> ModelConfig:
    """Strict: an unknown or missing key raises CheckpointError."""
    try:
        return ModelConfig.from_json(config)
    except ValueError as error:
        raise CheckpointError(f"{folder / CONFIG_FILE}: {error}") from error
