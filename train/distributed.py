"""Several processes that train one model together, started by ``torchrun``; alone, nothing of this does anything."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import Tensor, distributed, nn

from voicevault.errors import SettingsError


@dataclass(frozen=True, slots=True)
class Processes:
    """This process' number and how many there are."""

    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """The one that prints, validates and writes files."""
        return self.rank == 0

    def wrap(self, module: nn.Module, device: torch.device) -> nn.Module:
        """The module, its gradients averaged over the processes."""
        if self.world == 1:
            return module
        places = [device.index] if device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(module, device_ids=places)

    def agree(self, value: float, device: torch.device) -> float:
        """The first process' value, in all of them: a clock must not end the training in one process alone."""
        if self.world == 1:
            return value
        shared: Tensor = torch.tensor([value], dtype=torch.float64, device=device)
        distributed.broadcast(shared, 0)
        return float(shared.item())

    def wait(self) -> None:
        if self.world > 1:
            distributed.barrier()


def usable(device: str) -> torch.device:
    """Raises SettingsError where that device is not there."""
    try:
        chosen = torch.device(device)
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise SettingsError(
            f"no training on device {device!r} ({reason}); use --device cpu", device=device
        ) from error
    return chosen


@contextmanager
def processes(device: str) -> Iterator[tuple[Processes, torch.device]]:
    """The processes that ``torchrun`` started (NCCL on GPUs, gloo on CPUs), each with its device; else this one.

    Raises:
        SettingsError: The device is not there.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield Processes(), usable(device)
        return
    chosen = usable(device if device == "cpu" else f"cuda:{os.environ['LOCAL_RANK']}")
    # The others wait while the first one decodes a corpus or validates, which takes hours where there is much of it.
    backend = "gloo" if chosen.type == "cpu" else "nccl"
    distributed.init_process_group(backend, timeout=timedelta(hours=24))
    try:
        yield Processes(distributed.get_rank(), world), chosen
    finally:
        # A wrapped module, which refers to itself, would keep the group and its threads until the interpreter is half gone, and
        # now and then a process would abort, with which torchrun ends the others.
        gc.collect()
        distributed.destroy_process_group()
