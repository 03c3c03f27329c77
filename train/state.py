"""A training's state in one file without pickle: tensors as safetensors, everything else as JSON in its header."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from voicevault.errors import CheckpointError


def save_state(
    path: Path, modules: dict[str, nn.Module], optimiser: torch.optim.Optimizer | None, facts: dict[str, Any]
) -> None:
    """Atomic: a kill at any moment leaves the old file or the new one."""
    tensors = {
        f"{name}/{key}": value
        for name, module in modules.items()
        for key, value in module.state_dict().items()
    }
    rows = optimiser.state_dict()["state"] if optimiser else {}
    for row, values in rows.items():
        tensors |= {f"optimiser/{row}/{key}": torch.as_tensor(value) for key, value in values.items()}
    partial = path.with_suffix(".partial")
    save_file(
        {k: v.detach().cpu().contiguous() for k, v in tensors.items()}, partial, {"facts": json.dumps(facts)}
    )
    with partial.open("rb+") as file:
        os.fsync(file.fileno())
    partial.replace(path)


def read_facts(path: Path) -> dict[str, Any]:
    """The facts of what `save_state` wrote, without its tensors. Raises CheckpointError where it is another file."""
    try:
        with safe_open(path, framework="pt") as file:
            facts: dict[str, Any] = json.loads(file.metadata()["facts"])
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path} does not fit this training ({error}); choose another --run folder"
        ) from error
    return facts


def load_state(
    path: Path, modules: dict[str, nn.Module], optimiser: torch.optim.Optimizer | None
) -> dict[str, Any]:
    """Restores what `save_state` wrote and returns its facts. Raises CheckpointError where the file does not fit."""
    facts = read_facts(path)
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        for name, module in modules.items():
            module.load_state_dict(_below(tensors, name))
    except (SafetensorError, OSError, RuntimeError) as error:
        raise CheckpointError(
            f"{path} does not fit this training ({error}); choose another --run folder"
        ) from error
    if optimiser is None:
        return facts
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in _below(tensors, "optimiser").items():
        row, _, field = key.partition("/")
        state.setdefault(int(row), {})[field] = value
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
    return facts


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        key.removeprefix(f"{prefix}/"): value
        for key, value in tensors.items()
        if key.startswith(f"{prefix}/")
    }
