"""WavLM x-vectors as transformers saves them: a folder with ``config.json``, ``preprocessor_config.json`` and weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from voicevault.encoder.architectures import ModelConfig
from voicevault.encoder.checkpoint import SpeakerModel, fit_weights
from voicevault.encoder.config import parse, stored
from voicevault.encoder.importers.tensors import read_weights
from voicevault.encoder.waveform import WaveformConfig
from voicevault.encoder.wavlm import WavLMConfig, WavLMXVector
from voicevault.errors import CheckpointError
from voicevault.types import SAMPLE_RATE

CONFIG_FILE = "config.json"
PREPROCESSOR_FILE = "preprocessor_config.json"
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
"""In order of preference."""

# The classifier over the speakers of the training, and the vector that masked frames were replaced by there.
TRAINING_ONLY = ("classifier.weight", "classifier.bias", "objective.weight", "wavlm.masked_spec_embed")
# Weight normalisation under its old names, and under those of torch's parametrisation.
WEIGHT_NORM = {
    "wavlm.encoder.pos_conv_embed.conv.weight_g": "wavlm.encoder.pos_conv_embed.conv.parametrizations.weight.original0",
    "wavlm.encoder.pos_conv_embed.conv.weight_v": "wavlm.encoder.pos_conv_embed.conv.parametrizations.weight.original1",
}


def read_transformers(folder: Path, name: str) -> SpeakerModel:
    """The model of such a folder, in evaluation mode.

    Raises:
        CheckpointError: A file is missing or unreadable, describes what cannot be run here, or the weights do not fit.
    """
    settings = _read_json(folder / CONFIG_FILE)
    try:
        config = ModelConfig(name, _frontend(_read_json(folder / PREPROCESSOR_FILE)), _architecture(settings))
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{folder / CONFIG_FILE}: {error}") from error
    assert isinstance(config.architecture, WavLMConfig)
    found = [file for file in WEIGHT_FILES if (folder / file).is_file()]
    if not found:
        raise CheckpointError(f"{folder} has none of {', '.join(WEIGHT_FILES)}; bring the whole folder")
    with torch.device("meta"):
        network = WavLMXVector(config.architecture)
    weights = our_weights(read_weights(folder / found[0]))
    fit_weights(network, weights, f"the weights in {folder / found[0]}", CONFIG_FILE)
    return SpeakerModel(config, network).eval()


def our_weights(theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of ``WavLMForXVector`` without what only training needs."""
    return {WEIGHT_NORM.get(name, name): value for name, value in theirs.items() if name not in TRAINING_ONLY}


def _architecture(settings: Mapping[str, Any]) -> WavLMConfig:
    classes = settings.get("architectures")
    if settings.get("model_type") != "wavlm" or classes not in (None, ["WavLMForXVector"]):
        raise CheckpointError(
            f"{CONFIG_FILE} is of {classes or settings.get('model_type')!r}; of transformers' models, only WavLMForXVector"
            " can be imported"
        )
    if settings.get("add_adapter"):
        raise CheckpointError(f"{CONFIG_FILE} asks for an adapter, which cannot be run here")
    # What transformers leaves out has its default, which is ours too.
    named = {"embedding" if key == "xvector_output_dim" else key: value for key, value in settings.items()}
    defaults = stored(WavLMConfig())
    return parse(WavLMConfig, {key: named.get(key, default) for key, default in defaults.items()})


def _frontend(settings: Mapping[str, Any]) -> WaveformConfig:
    if settings.get("sampling_rate", SAMPLE_RATE) != SAMPLE_RATE:
        raise CheckpointError(
            f"{PREPROCESSOR_FILE}: the model listens at {settings['sampling_rate']!r} Hz; only {SAMPLE_RATE} can be run"
        )
    return parse(WaveformConfig, {"normalise": settings.get("do_normalize", True)})


def _read_json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > 1 << 20:
            raise CheckpointError(f"{path} is larger than 1 MB; it is no model's")
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing; bring the whole folder") from error
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{path} holds no JSON object")
    return found
