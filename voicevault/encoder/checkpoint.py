"""A model on disk: a folder with ``config.json`` and ``model.safetensors``, both required, nothing that can run code.

``policy.json`` (thresholds), ``cohort.safetensors`` and ``MODEL_CARD.md`` may stand beside them; they are no part of `model_id`,
so that retuning a threshold orphans no collection.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from voicevault.encoder.ecapa import EcapaConfig, EcapaTdnn
from voicevault.encoder.frontend import FrontendConfig, LogMel
from voicevault.errors import CheckpointError

T = TypeVar("T")
FORMAT = 1
CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Everything that, with the weights, says what a model computes."""

    name: str
    frontend: FrontendConfig
    architecture: EcapaConfig


class SpeakerModel(nn.Module):
    """Waveforms [b, n] and lengths -> embeddings float32 [b, d], not normalised."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.frontend = LogMel(config.frontend)
        self.network = EcapaTdnn(config.architecture)

    def forward(self, waveforms: Tensor, lengths: Tensor | None = None) -> Tensor:
        features, counts = self.frontend(waveforms, lengths)
        out: Tensor = self.network(features, counts)
        return out


def model_id(config: ModelConfig, weights: Mapping[str, Tensor]) -> str:
    """32 hex digits of the SHA-256 over the weights (as float32), the architecture and the front-end."""
    digest = hashlib.sha256()
    digest.update(
        json.dumps(
            {"frontend": asdict(config.frontend), "ecapa": asdict(config.architecture)}, sort_keys=True
        ).encode()
    )
    for name in sorted(weights):
        tensor = weights[name].detach().to(torch.float32).contiguous()
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.numpy().astype("<f4").tobytes())
    return digest.hexdigest()[:32]


def _network_weights(model: SpeakerModel) -> dict[str, Tensor]:
    # Batch norm counts its batches; inference does not read the counters.
    state = model.network.state_dict()
    return {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}


def save_checkpoint(model: SpeakerModel, folder: Path, *, half: bool = False) -> str:
    """Writes the folder and returns the model_id. With `half` the weights are rounded to float16 first."""
    folder.mkdir(parents=True, exist_ok=True)
    kind = torch.float16 if half else torch.float32
    weights = {
        name: value.detach().cpu().to(kind).contiguous() for name, value in _network_weights(model).items()
    }
    identity = model_id(model.config, weights)
    save_file(weights, folder / WEIGHTS_FILE)
    config = {
        "format": FORMAT,
        "name": model.config.name,
        "model_id": identity,
        "frontend": asdict(model.config.frontend),
        "architecture": {"type": "ecapa-tdnn", **asdict(model.config.architecture)},
    }
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return identity


def load_checkpoint(folder: Path) -> tuple[SpeakerModel, str]:
    """The model in evaluation mode and its model_id.

    Raises:
        CheckpointError: A file is missing, unreadable or does not fit; the message lists keys and shapes that differ.
    """
    config = _read_config(folder)
    path = folder / WEIGHTS_FILE
    if not path.is_file():
        raise CheckpointError(
            f"{folder} has no {WEIGHTS_FILE}; a model folder needs {CONFIG_FILE} and {WEIGHTS_FILE}"
        )
    try:
        weights = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); copy the model folder again") from error
    parsed = parse_config(config, folder)
    model = SpeakerModel(parsed)
    expected = _network_weights(model)
    differences = [
        f"missing: {k} {tuple(expected[k].shape)}" for k in sorted(expected.keys() - weights.keys())
    ]
    differences += [
        f"unexpected: {k} {tuple(weights[k].shape)}" for k in sorted(weights.keys() - expected.keys())
    ]
    differences += [
        f"shape of {k}: {tuple(weights[k].shape)}, expected {tuple(expected[k].shape)}"
        for k in sorted(weights.keys() & expected.keys())
        if weights[k].shape != expected[k].shape
    ]
    if differences:
        shown = "; ".join(differences[:12]) + (
            f"; and {len(differences) - 12} more" if len(differences) > 12 else ""
        )
        raise CheckpointError(
            f"the weights in {folder} do not fit its {CONFIG_FILE}: {shown}", differences=differences
        )
    identity = model_id(parsed, weights)
    if config.get("model_id") not in (None, identity):
        raise CheckpointError(
            f"{path} is not the file that {CONFIG_FILE} was written with (model_id {identity}, "
            f"expected {config['model_id']}); copy the model folder again"
        )
    counters = {k: v for k, v in model.network.state_dict().items() if k.endswith("num_batches_tracked")}
    model.network.load_state_dict({k: v.float() for k, v in weights.items()} | counters, strict=True)
    return model.eval(), identity


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG_FILE
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{folder} has no {CONFIG_FILE}; is it a model folder?") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise CheckpointError(f"{path} is not of format {FORMAT}; it was written by another release")
    return config


def parse_config(config: Mapping[str, Any], folder: Path) -> ModelConfig:
    """Strict: an unknown or missing key raises CheckpointError."""
    architecture = dict(config.get("architecture", {}))
    if architecture.pop("type", None) != "ecapa-tdnn":
        raise CheckpointError(
            f"{folder}: the architecture is not 'ecapa-tdnn', the one that this release runs"
        )
    return ModelConfig(
        str(config.get("name", folder.name)),
        _strict(FrontendConfig, config.get("frontend", {}), folder),
        _strict(EcapaConfig, architecture, folder),
    )


def _strict(cls: type[T], values: Mapping[str, Any], folder: Path) -> T:
    names = {f.name for f in fields(cls)}  # type: ignore[arg-type]
    if wrong := sorted(names ^ values.keys()):
        raise CheckpointError(
            f"{folder}/{CONFIG_FILE}: {cls.__name__} has missing or unknown keys: {', '.join(wrong)}"
        )
    return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})
