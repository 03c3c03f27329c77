"""Waveforms in, unit vectors out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from voicevault.encoder.checkpoint import load_checkpoint
from voicevault.encoder.engine import open_engine, torch_threads
from voicevault.encoder.variants import BF16, FP32, load_ranges
from voicevault.errors import RequestError, SettingsError
from voicevault.types import SAMPLE_RATE, Float32Array

WHOLE = 60 * SAMPLE_RATE
"""Samples up to which a recording is embedded in one piece."""
PIECE = 30 * SAMPLE_RATE
"""Longest piece of a recording above that."""


class ModelEncoder:
    """A model folder, ready to embed. Thread-safe; implements `types.Encoder`.

    A recording shorter than the network's shortest input is repeated to that length. One above 60 s is cut
    into equal pieces of 30 s at most, and the mean of their unit vectors, weighted by length, is its
    embedding: so memory is bounded, however long it is. Weights stored in half precision compute in float32.

    Args:
        folder: config.json and the weights.
        threads: Most threads of one call; None is one per core. Where torch computes, they are those of the process.
        device: A torch device.
        precision: ``fp32``; ``int8``, on the CPU, for which `quantization` must have made the variant; ``bf16``, on a GPU;
            or None for what the folder says.

    Raises:
        CheckpointError: The folder is incomplete or damaged.
        SettingsError: The device is not there, or the folder has no such precision, or the device cannot compute in it.
    """

    def __init__(
        self, folder: Path, *, threads: int | None = None, device: str = "cpu", precision: str | None = None
    ) -> None:
        with torch_threads(threads):  # which ONNX Runtime keeps
            model, self._model_id = load_checkpoint(folder)
        try:
            target = torch.device(device)
            model.to(target)
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            raise SettingsError(
                f"The model cannot run on device {device!r} ({reason}). Set device to cpu.", device=device
            ) from error
        self._config = model.config
        self._shortest = model.minimum_samples
        ranges = load_ranges(folder, self._model_id, precision)
        self._engine = open_engine(model, target, threads, ranges, half=precision == BF16)
        if precision not in (None, FP32) and not self._engine.name.endswith(precision or ""):
            raise SettingsError(
                f"This model does not run in {precision} on {device} by {self._engine.name}. Set precision to {FP32}.",
                precision=precision,
            )

    @property
    def name(self) -> str:
        return self._config.name

    @property
    def model_id(self) -> str:
        return self._model_id

    @property
    def dim(self) -> int:
        return self._config.architecture.embedding

    @property
    def engine(self) -> str:
        """What computes: see `engine.Engine.name`."""
        return self._engine.name

    def embed(self, waveforms: Sequence[Float32Array]) -> Float32Array:
        """float32 mono 16 kHz [n] each, of any lengths above 0 -> float32 unit rows [len(waveforms), d].

        Raises:
            RequestError: A waveform is empty or not one-dimensional.
        """
        pieces: list[Float32Array] = []
        owners: list[int] = []
        for owner, waveform in enumerate(waveforms):
            if waveform.ndim != 1 or not len(waveform):
                raise RequestError("A waveform must be mono and hold samples.", shape=list(waveform.shape))
            for piece in self._pieces(waveform):
                pieces.append(piece)
                owners.append(owner)
        if not pieces:
            return np.zeros((0, self.dim), np.float32)
        rows = _unit(self._engine.embed(pieces).astype(np.float64))
        if len(pieces) > len(waveforms):
            sums = np.zeros((len(waveforms), self.dim))
            np.add.at(sums, owners, rows * np.array([[len(piece)] for piece in pieces]))
            rows = _unit(sums)
        return rows.astype(np.float32)

    def one_thread_per_call(self) -> AbstractContextManager[None]:
        """See `types.Encoder`."""
        return self._engine.one_thread_per_call()

    def _pieces(self, waveform: Float32Array) -> list[Float32Array]:
        if len(waveform) < self._shortest:
            return [np.resize(waveform, self._shortest)]
        if len(waveform) <= WHOLE:
            return [waveform]
        return list(np.array_split(waveform, math.ceil(len(waveform) / PIECE)))


def _unit(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    # A zero vector becomes NaN, which the pipeline reports; it must not pass as an embedding.
    with np.errstate(invalid="ignore", divide="ignore"):
        unit: NDArray[np.float64] = rows / np.sqrt(np.add.reduce(rows * rows, axis=-1, keepdims=True))
        return unit
