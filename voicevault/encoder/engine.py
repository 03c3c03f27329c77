"""What runs a model: on the CPU, OpenVINO for the networks that it has a graph for; torch for all others and on GPUs."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from importlib.util import find_spec
from typing import Protocol

import torch

from voicevault.encoder.checkpoint import SpeakerModel
from voicevault.encoder.ecapa import EcapaTdnn
from voicevault.types import Float32Array

logger = logging.getLogger(__name__)


class Engine(Protocol):
    """Pieces of recordings to embeddings. Thread-safe."""

    @property
    def name(self) -> str:
        """``openvino`` or ``torch``, with ``-int8`` or ``-bf16`` where the arithmetic is not float32."""
        ...

    def embed(self, pieces: Sequence[Float32Array]) -> Float32Array:
        """float32 mono 16 kHz [n] each, as long as the network needs at least -> float32 [len(pieces), d], not normalised.

        What else is in a call changes no row beyond rounding.
        """
        ...

    def one_thread_per_call(self) -> AbstractContextManager[None]:
        """See `types.Encoder`."""
        ...


def open_engine(
    model: SpeakerModel,
    device: torch.device,
    threads: int | None,
    ranges: Mapping[str, tuple[float, float]] | None = None,
    *,
    half: bool = False,
) -> Engine:
    """The fastest engine for a model on a device.

    Args:
        threads: Most threads of one call; None is one per core.
        ranges: Of the inputs of the network's convolutions, for 8-bit arithmetic on the CPU; where that is not exact, the model
            runs in float32.
        half: bfloat16 on a GPU.
    """
    if device.type == "cpu" and isinstance(model.network, EcapaTdnn):
        if find_spec("openvino") is not None:
            from voicevault.encoder.engine_openvino import OpenVinoEngine, saturates

            if ranges is not None and saturates():
                logger.warning("this processor has no exact 8-bit arithmetic: the model runs in float32.")
                ranges = None
            return OpenVinoEngine(model, threads, ranges)
        logger.warning("openvino is not installed: the model runs in torch, two to seven times as slow.")
    from voicevault.encoder.engine_torch import TorchEngine

    return TorchEngine(model, device, threads, half=half and device.type != "cpu")


@contextmanager
def torch_threads(count: int | None) -> Iterator[None]:
    """What the calling thread does inside, torch computes on so many threads; the number is put back. None changes nothing."""
    before = torch.get_num_threads()
    if count is None or count == before:
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
