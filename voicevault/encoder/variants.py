"""Other precisions of a model: small files beside its weights, named in ``config.json`` with their digest.

The float weights stay the only weights. ``int8.json`` holds the ranges that the inputs of the convolutions had on speech; the
8-bit kernels follow from them and the weights each time the model is loaded.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from voicevault.encoder.checkpoint import CONFIG_FILE, read_config
from voicevault.errors import CheckpointError, SettingsError

FP32 = "fp32"
INT8 = "int8"
BF16 = "bf16"
"""On a GPU, and from the float weights alone."""
PRECISIONS = (FP32, INT8, BF16)
RANGES_FILE = "int8.json"


def load_ranges(folder: Path, model_id: str, precision: str | None) -> dict[str, tuple[float, float]] | None:
    """Ranges by input, or None where the model computes in float32.

    Args:
        precision: ``fp32``, ``int8``, ``bf16``, or None for the folder's default.

    Raises:
        CheckpointError: The variant's file is missing, damaged, or another model's.
        SettingsError: There is no such precision, or the folder has no such variant.
    """
    config = read_config(folder)
    wanted = precision if precision is not None else config.get("precision", FP32)
    if wanted not in PRECISIONS:
        raise SettingsError(
            f"There is no precision {wanted!r}. Set precision to {', '.join(PRECISIONS)}.", precision=wanted
        )
    if wanted != INT8:
        return None
    variants = config.get("variants", {})
    if not isinstance(variants, dict) or INT8 not in variants:
        how = f"Make one (voicevault models quantize {model_id[:12]} --calibration FOLDER), or set"
        if config.get("architecture", {}).get("type") != "ecapa-tdnn":
            how = "Only ECAPA-TDNN can have one. Set"
        raise SettingsError(
            f"The model in {folder} has no int8 variant. {how} precision to {FP32}.",
            precision=INT8,
            model_id=model_id,
        )
    path = folder / RANGES_FILE
    try:
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() != variants[INT8]["sha256"]:
            raise ValueError(f"it is not the file that {CONFIG_FILE} names")
        values = json.loads(content)
        if values["model_id"] != model_id:
            raise ValueError(f"it was made for model {values['model_id']}")
        ranges = {str(name): (float(low), float(high)) for name, (low, high) in values["ranges"].items()}
        if not ranges or not all(
            math.isfinite(low) and low <= high < math.inf for low, high in ranges.values()
        ):
            raise ValueError("it holds no ranges, or ranges that are none")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{path} cannot be used ({type(error).__name__}: {error}). Quantize the model again: voicevault models quantize."
        ) from error
    return ranges


def save_ranges(
    folder: Path,
    model_id: str,
    ranges: Mapping[str, tuple[float, float]],
    facts: Mapping[str, Any],
    *,
    default: bool,
) -> None:
    """Writes the int8 variant beside the weights and names it in config.json.

    Args:
        facts: What it was made from and what it costs, for people.
        default: Whether the model computes with it where nobody chooses.
    """
    config = read_config(folder)
    if config.get("model_id") != model_id:
        raise CheckpointError(f"{folder} holds model {config.get('model_id')}, and not {model_id}.")
    content = (
        json.dumps({"model_id": model_id, "ranges": {k: list(v) for k, v in ranges.items()}}, indent=1) + "\n"
    )
    (folder / RANGES_FILE).write_text(content, encoding="utf-8")
    digest = hashlib.sha256(content.encode()).hexdigest()
    config["variants"] = {INT8: {"file": RANGES_FILE, "sha256": digest, **facts}}
    config["precision"] = INT8 if default else FP32
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
