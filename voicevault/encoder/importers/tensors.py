"""Weights of others, read as data: nothing in a file is ever executed."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from voicevault.errors import CheckpointError


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a ``.safetensors`` file, or of a state dict that torch saved.

    torch's own format is a pickle. It goes through torch's restricted reader, which knows tensors and plain containers only and
    refuses everything else unexecuted.

    Raises:
        CheckpointError: The file is missing, damaged, holds anything but named tensors, or would unpack to more than it is.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        _refuse_bombs(path)
        found = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing; bring the whole folder") from error
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} holds more than tensors and was not opened. Only trust it to a tool of its makers: have it write the"
            " weights as safetensors there, or save its state_dict alone."
        ) from error
    except (
        SafetensorError,
        zipfile.BadZipFile,
        OSError,
        RuntimeError,
        ValueError,
        EOFError,
        LookupError,
        TypeError,
        AttributeError,
    ) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise CheckpointError(f"{path} cannot be read ({reason[0]}); bring the file again") from error
    if isinstance(found, dict) and set(found) == {"state_dict"} and isinstance(found["state_dict"], dict):
        found = found["state_dict"]
    if not isinstance(found, dict) or not found:
        raise CheckpointError(f"{path} holds no state dict, but {type(found).__name__}")
    for key, value in found.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise CheckpointError(f"{path} is no state dict: {key!r} is {type(value).__name__}, not a tensor")
    return found


def _refuse_bombs(path: Path) -> None:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
        if unpacked > path.stat().st_size:
            raise CheckpointError(
                f"{path} is compressed, which torch's own files are not; bring the original"
            )
