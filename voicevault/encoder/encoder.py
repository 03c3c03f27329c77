"""Batched inference: waveforms in, unit vectors out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from voicevault.encoder.checkpoint import load_checkpoint
from voicevault.encoder.frontend import minimum_samples
from voicevault.errors import RequestError, SettingsError
from voicevault.types import SAMPLE_RATE, Float32Array

WHOLE = 60 * SAMPLE_RATE
"""Samples up to which a recording is embedded in one piece."""
PIECE = 30 * SAMPLE_RATE
"""Longest piece of a recording above that."""
BATCH = 64 * SAMPLE_RATE
"""Samples of a batch, padding included: what bounds the memory."""
SPREAD = 1.25
"""The longest of a batch is at most so many times as long as its shortest, so padding stays below a fifth."""


class TorchEncoder:
    """A model folder, ready to embed. Thread-safe; implements `types.Encoder`.

    A recording shorter than the network's shortest input is repeated to that length. One above 60 s is cut
    into equal pieces of 30 s at most, and the mean of their unit vectors, weighted by length, is its
    embedding. Weights stored in half precision compute in float32.

    Args:
        folder: config.json and model.safetensors.
        threads: torch threads, of the whole process; None leaves them.
        device: A torch device.

    Raises:
        CheckpointError: The folder is incomplete or damaged.
        SettingsError: The device is not there.
    """

    def __init__(self, folder: Path, *, threads: int | None = None, device: str = "cpu") -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        self._model, self._model_id = load_checkpoint(folder)
        try:
            self._device = torch.device(device)
            self._model.to(self._device)
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            raise SettingsError(
                f"The model cannot run on device {device!r} ({reason}). Set device to cpu.", device=device
            ) from error
        config = self._model.config
        self._shortest = minimum_samples(config.frontend, config.architecture.minimum_frames())

    @property
    def name(self) -> str:
        return self._model.config.name

    @property
    def model_id(self) -> str:
        return self._model_id

    @property
    def dim(self) -> int:
        return self._model.config.architecture.embedding

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
        sums = np.zeros((len(waveforms), self.dim), dtype=np.float64)
        for batch in batches([len(piece) for piece in pieces]):
            vectors = self._forward([pieces[i] for i in batch])
            for i, vector in zip(batch, vectors, strict=True):
                sums[owners[i]] += _unit(vector) * len(pieces[i])
        return _unit(sums).astype(np.float32)

    @contextmanager
    def one_thread_per_call(self) -> Iterator[None]:
        """See `types.Encoder`. The number of torch's threads belongs to the process and is put back."""
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(before)

    def _pieces(self, waveform: Float32Array) -> list[Float32Array]:
        if len(waveform) < self._shortest:
            return [np.resize(waveform, self._shortest)]
        if len(waveform) <= WHOLE:
            return [waveform]
        return list(np.array_split(waveform, math.ceil(len(waveform) / PIECE)))

    def _forward(self, batch: Sequence[Float32Array]) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
        lengths = [len(waveform) for waveform in batch]
        padded = np.zeros((len(batch), max(lengths)), dtype=np.float32)
        for row, waveform in zip(padded, batch, strict=True):
            row[: len(waveform)] = waveform
        with torch.inference_mode():
            counts = None if min(lengths) == max(lengths) else torch.tensor(lengths, device=self._device)
            out = self._model(torch.from_numpy(padded).to(self._device), counts)
            return out.cpu().numpy().astype(np.float64)  # type: ignore[no-any-return]


def batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Places of recordings that go through the network together, shortest first."""
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lengths.__getitem__):
        full = (len(batch) + 1) * lengths[i] > BATCH
        if batch and (full or lengths[i] > SPREAD * lengths[batch[0]]):
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def _unit(
    rows: np.ndarray[tuple[int, ...], np.dtype[np.float64]],
) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    # A zero vector becomes NaN, which the pipeline reports; it must not pass as an embedding.
    with np.errstate(invalid="ignore", divide="ignore"):
        return rows / np.linalg.norm(rows, axis=-1, keepdims=True)  # type: ignore[no-any-return]
