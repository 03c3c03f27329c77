"""Speaker models that come as an ONNX file which takes filter bank energies, run by ONNX Runtime."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from voicevault.encoder.config import check_ranges
from voicevault.encoder.lengths import by_length
from voicevault.errors import CheckpointError


@dataclass(frozen=True, slots=True)
class OnnxConfig:
    """What the graph takes and gives.

    Attributes:
        bins: Mel bins of its input, float32 [batch, frames, bins].
        embedding: Dimensions of its output, float32 [batch, embedding].
        input, output: Names of the two.
        frames: The least number of frames that it takes.
        sha256: Of the file, which is what the model's identity rests on.

    Raises:
        ValueError: A value is out of range.
    """

    bins: int
    embedding: int
    input: str
    output: str
    frames: int
    sha256: str

    def __post_init__(self) -> None:
        check_ranges(self, bins=(1, 512), embedding=(1, 4096), frames=(1, 1000))
        if not re.fullmatch(r"[0-9a-f]{64}", self.sha256):
            raise ValueError("sha256 must be 64 hex digits")

    def minimum_frames(self) -> int:
        """The shortest input."""
        return self.frames


def open_session(path: Path) -> Any:
    """An onnxruntime.InferenceSession on the CPU, with as many threads as torch uses.

    Raises:
        CheckpointError: The file is missing, or no graph that ONNX Runtime can run.
    """
    from voicevault.quiet_onnxruntime import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4
    try:
        # Without its fallback, which prints to stdout and tries the same again.
        return onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"], enable_fallback=0
        )
    except Exception as error:  # onnxruntime's exceptions share no base
        reason = str(error).strip().splitlines()[0]
        raise CheckpointError(f"ONNX Runtime cannot load {path}: {reason}") from error


class OnnxNetwork(nn.Module):
    """Features [b, bins, t] -> embeddings float32 [b, embedding], not normalised. Runs on the CPU.

    What such a graph does with padding is not known, so items of one length go through together.
    """

    def __init__(self, config: OnnxConfig) -> None:
        super().__init__()
        self.config = config
        self.file: Path | None = None
        self._session: Any = None

    def open(self, path: Path) -> None:
        """Raises CheckpointError where the file is not the one that the config was written with."""
        try:
            found = hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError as error:
            raise CheckpointError(
                f"{path} cannot be read: {error.strerror}; copy the model folder again"
            ) from error
        if found != self.config.sha256:
            raise CheckpointError(
                f"{path} is not the file that its config.json was written with (SHA-256 {found}, expected"
                f" {self.config.sha256}); copy the model folder again"
            )
        self._session, self.file = open_session(path), path

    def forward(self, features: Tensor, counts: Tensor | None = None) -> Tensor:
        return by_length(self._embed, features, counts)

    def _embed(self, features: Tensor) -> Tensor:
        frames = np.ascontiguousarray(features.detach().cpu().float().transpose(1, 2).numpy())
        fixed = self._session.get_inputs()[0].shape[0] == 1
        parts = [frames[i : i + 1] for i in range(len(frames))] if fixed else [frames]
        rows = [self._session.run([self.config.output], {self.config.input: part})[0] for part in parts]
        return torch.from_numpy(np.concatenate(rows).reshape(len(frames), -1)).float().to(features.device)
