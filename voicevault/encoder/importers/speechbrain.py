"""ECAPA-TDNN as SpeechBrain publishes it: a folder with ``embedding_model.ckpt`` and ``hyperparams.yaml``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from voicevault.encoder.architectures import ModelConfig
from voicevault.encoder.checkpoint import SpeakerModel, fit_weights
from voicevault.encoder.config import parse, stored
from voicevault.encoder.ecapa import EcapaConfig, EcapaTdnn
from voicevault.encoder.fbank import SpeechBrainConfig
from voicevault.encoder.importers.hyperparams import arguments, read_hyperparams
from voicevault.encoder.importers.tensors import read_weights
from voicevault.errors import CheckpointError
from voicevault.types import SAMPLE_RATE

WEIGHTS_FILE = "embedding_model.ckpt"
HYPERPARAMS_FILE = "hyperparams.yaml"

# Ours in the place of SpeechBrain's, in this order.
NAMES = (
    (r"^blocks\.0\.(conv|norm)\.", r"stem.\1."),
    (r"^blocks\.(\d+)\.", lambda m: f"blocks.{int(m[1]) - 1}."),
    (r"\.res2net_block\.", ".res2net."),
    (r"\.se_block\.(conv\d)\.conv\.", r".se.\1."),
    (r"^asp\.conv\.conv\.", "pool.conv."),
    (r"^asp\.", "pool."),
    (r"^asp_bn\.norm\.", "pool_norm."),
    (r"\.norm\.norm\.", ".norm."),
    (r"^fc\.conv\.", "project."),
)


def our_name(theirs: str) -> str:
    """What a parameter of ``speechbrain.lobes.models.ECAPA_TDNN`` is called in `EcapaTdnn`."""
    for pattern, ours in NAMES:
        theirs = re.sub(pattern, ours, theirs)
    return theirs


def our_weights(theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of SpeechBrain's module under our names; its last layer is a convolution of width 1."""
    found = {our_name(name): value for name, value in theirs.items()}
    if (last := found.get("project.weight")) is not None and last.ndim == 3 and last.shape[2] == 1:
        found["project.weight"] = last[..., 0]
    return found


def read_speechbrain(folder: Path, name: str) -> SpeakerModel:
    """The model of such a folder, in evaluation mode.

    Raises:
        CheckpointError: A file is missing or unreadable, describes what cannot be run here, or the weights do not fit.
    """
    hyperparams = read_hyperparams(folder / HYPERPARAMS_FILE)
    try:
        config = ModelConfig(name, _frontend(hyperparams), _architecture(hyperparams))
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{folder / HYPERPARAMS_FILE}: {error}") from error
    assert isinstance(config.architecture, EcapaConfig)
    with torch.device("meta"):
        network = EcapaTdnn(config.architecture)
    weights = our_weights(read_weights(folder / WEIGHTS_FILE))
    fit_weights(network, weights, f"the weights in {folder / WEIGHTS_FILE}, in our names,", HYPERPARAMS_FILE)
    return SpeakerModel(config, network).eval()


def _frontend(hyperparams: Mapping[str, Any]) -> SpeechBrainConfig:
    features = arguments(hyperparams, "compute_features", "Fbank")
    norm = arguments(hyperparams, "mean_var_norm", "InputNormalization")
    _only(
        "mean_var_norm",
        norm,
        {"norm_type": "sentence", "std_norm": False, "mean_norm": True},
        {"norm_type", "std_norm"},
    )
    settings = {
        "bins": features.pop("n_mels", 40),
        "fft_size": features.pop("n_fft", 400),
        "window_ms": float(features.pop("win_length", 25)),
        "hop_ms": float(features.pop("hop_length", 10)),
        "low_hz": float(features.pop("f_min", 0)),
        "high_hz": float(features.pop("f_max", None) or SAMPLE_RATE // 2),
    }
    _only(
        "compute_features",
        features,
        {
            "sample_rate": SAMPLE_RATE,
            "deltas": False,
            "context": False,
            "requires_grad": False,
            "filter_shape": "triangular",
            "param_rand_factor": 0.0,
            "param_change_factor": 1.0,
            "left_frames": features.get("left_frames"),
            "right_frames": features.get("right_frames"),
        },
    )
    return parse(SpeechBrainConfig, {**stored(SpeechBrainConfig()), **settings})


def _architecture(hyperparams: Mapping[str, Any]) -> EcapaConfig:
    given = arguments(hyperparams, "embedding_model", "ECAPA_TDNN")
    channels = given.pop("channels", [512, 512, 512, 512, 1536])
    kernels = given.pop("kernel_sizes", [5, 3, 3, 3, 1])
    dilations = given.pop("dilations", [1, 2, 3, 4, 1])
    if not isinstance(given.get("input_size"), int):
        raise CheckpointError("hyperparams.yaml: embedding_model has no input_size")
    for key, values in (("channels", channels), ("kernel_sizes", kernels), ("dilations", dilations)):
        if (
            not isinstance(values, list)
            or not 3 <= len(values) <= 17
            or any(type(v) is not int for v in values)
        ):
            raise CheckpointError(
                f"hyperparams.yaml: {key} of embedding_model must be a list of 3 to 17 integers"
            )
    if len(set(channels[:-1])) != 1 or (kernels[-1], dilations[-1]) != (1, 1):
        raise CheckpointError(
            "hyperparams.yaml: only an ECAPA-TDNN of one width, with a last layer of kernel and dilation 1, can be run;"
            f" this one has channels {channels}, kernel_sizes {kernels} and dilations {dilations}"
        )
    settings = {
        "bins": given.pop("input_size"),
        "embedding": given.pop("lin_neurons", 192),
        "res2net_scale": given.pop("res2net_scale", 8),
        "se_channels": given.pop("se_channels", 128),
        "attention_channels": given.pop("attention_channels", 128),
    }
    _only(
        "embedding_model",
        given,
        {
            "global_context": True,
            "groups": [1] * len(channels),
            "device": given.get("device"),
            "dropout": given.get("dropout"),
        },
    )
    return parse(
        EcapaConfig,
        {
            "channels": channels[0],
            "aggregate": channels[-1],
            "stride": 1,
            "kernels": kernels[:-1],
            "dilations": dilations[:-1],
            **settings,
        },
    )


def _only(
    key: str, given: Mapping[str, Any], allowed: Mapping[str, Any], needed: set[str] | None = None
) -> None:
    """Refuses what would compute something else."""
    for name in sorted(given.keys() | (needed or set())):
        if name not in allowed:
            raise CheckpointError(f"hyperparams.yaml: {key} has an argument {name}, which is not known here")
        if given.get(name) != allowed[name]:
            raise CheckpointError(
                f"hyperparams.yaml: {key} has {name} {given.get(name)!r}; only {allowed[name]!r} can be run"
            )
