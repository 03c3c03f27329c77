"""Any network in torch, on the CPU or a GPU: padded batches of recordings of like length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch

from voicevault.encoder.checkpoint import SpeakerModel
from voicevault.encoder.engine import torch_threads
from voicevault.types import SAMPLE_RATE, Float32Array

BATCH = 60 * SAMPLE_RATE
"""Samples of a batch on the CPU, padding included: what bounds the memory."""
BATCH_ON_GPU = 16 * BATCH
PADDING = 0.1
"""Of a batch, the most that is padding."""


class TorchEngine:
    """Implements `engine.Engine`.

    Args:
        threads: Torch's threads, of the whole process; None leaves them.
        half: Whether the network's matrix products are in bfloat16; the front-end and the sums over time stay in float32.
    """

    def __init__(
        self, model: SpeakerModel, device: torch.device, threads: int | None = None, *, half: bool = False
    ) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        self.name = "torch-bf16" if half else "torch"
        self._half = half
        self._model = model
        self._device = device
        self._batch = BATCH if device.type == "cpu" else BATCH_ON_GPU

    def embed(self, pieces: Sequence[Float32Array]) -> Float32Array:
        """See `engine.Engine`."""
        rows = np.empty((len(pieces), self._model.config.architecture.embedding), np.float32)
        for batch in batches([len(piece) for piece in pieces], self._batch):
            rows[batch] = self._forward([pieces[i] for i in batch])
        return rows

    @contextmanager
    def one_thread_per_call(self) -> Iterator[None]:
        """See `types.Encoder`. The number of torch's threads belongs to the process."""
        with torch_threads(1):
            yield

    def _forward(self, batch: Sequence[Float32Array]) -> Float32Array:
        lengths = [len(piece) for piece in batch]
        padded = np.zeros((len(batch), max(lengths)), dtype=np.float32)
        for row, piece in zip(padded, batch, strict=True):
            row[: len(piece)] = piece
        with torch.inference_mode():
            counts = None if min(lengths) == max(lengths) else torch.tensor(lengths, device=self._device)
            features, counts = self._model.frontend(torch.from_numpy(padded).to(self._device), counts)
            with torch.autocast(self._device.type, torch.bfloat16, enabled=self._half):
                rows = self._model.network(features, counts)
            out: Float32Array = rows.float().cpu().numpy()
            return out


def batches(lengths: Sequence[int], most: int) -> Iterator[list[int]]:
    """Places of recordings that go through the network together, shortest first.

    A batch holds up to `most` samples with its padding (a single longer recording is a batch too), and up to `PADDING` of them
    are padding.
    """
    batch: list[int] = []
    filled = 0
    for i in sorted(range(len(lengths)), key=lengths.__getitem__):
        whole = (len(batch) + 1) * lengths[i]
        if batch and (whole > most or filled + lengths[i] < (1 - PADDING) * whole):
            yield batch
            batch, filled = [], 0
        batch.append(i)
        filled += lengths[i]
    if batch:
        yield batch
