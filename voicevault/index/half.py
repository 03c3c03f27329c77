"""All voiceprints in half precision on a GPU, beside a base: its candidates are compared exactly on the CPU.

Half precision rounds each component by 2^-11 of itself at most, so a product of unit vectors is off by no more than a
known margin: unlike the codes', it is no estimate, and the answers are exact. What needs a GPU is `find_gpu` alone; the
rest runs over any FAISS index of that precision.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voicevault.index.products import rounding
from voicevault.types import Float32Array, Int64Array

log = logging.getLogger(__name__)

MOST = 2048
"""Rows that one search can bring on a GPU (a limit of FAISS)."""
_BATCH = 1024
"""Probes at a time: the device holds their candidates, and the host their vectors."""

Usable = Callable[[Int64Array], NDArray[np.bool_]]


class Device:
    """Where half-precision copies are. All of its work is done by one thread: FAISS' GPU indexes and their memory are
    not safe for several, not even for searches.

    Args:
        make: Dimensions -> an empty FAISS inner-product index that keeps vectors in half precision.
        most: Rows that one search can bring.
    """

    def __init__(self, make: Callable[[int], Any], most: int = MOST) -> None:
        self._make, self.most = make, most
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="voicevault-device")

    def copy(self, blocks: Iterable[Float32Array], dim: int) -> HalfCopy:
        """A copy of unit vectors that come in blocks [b, d].

        Raises:
            RuntimeError: The device has not the memory, or fails.
        """
        index = self.run(lambda: self._make(dim))
        for block in blocks:
            self.run(lambda block=block: index.add(block))  # type: ignore[misc]
        return HalfCopy(self, index)

    def run(self, work: Callable[[], Any]) -> Any:
        return self._thread.submit(work).result()

    def forget(self, held: list[Any]) -> None:
        """Empties a list that holds the last reference to something of the device."""
        with suppress(RuntimeError):  # closed: nobody works there any more
            self._thread.submit(held.clear)

    def close(self) -> None:
        self._thread.shutdown()


class HalfCopy:
    """The vectors of one base on a device, row by row. Many threads may search."""

    def __init__(self, device: Device, index: Any) -> None:
        self._device, self._index = device, index
        # Both vectors of a product are rounded; their lengths may be off by a thousandth. See `rounding` for the sum.
        self._margin = 1.01 * 2.0**-10 + rounding(index.d)

    def __del__(self) -> None:
        # The last reader may be any thread; the memory goes back on the device's own.
        last = [self._index]
        del self._index
        self._device.forget(last)

    @property
    def most(self) -> int:
        return self._device.most

    def candidates(
        self, points: Float32Array, k: int, depth: int, usable: Usable | None
    ) -> tuple[NDArray[np.bool_], Int64Array, Int64Array]:
        """The rows that may be among the best k usable ones of each probe [m, d].

        Args:
            depth: Rows to look at for each probe, k <= depth <= `most`.
            usable: Which of some rows count; None is all.

        Returns:
            Whether so many rows were enough, for each probe [m]; and of those for which they were: probe and row of
            each candidate, by probe.

        Raises:
            RuntimeError: The device fails.
        """
        depth = min(depth, self._index.ntotal)
        parts = [
            self._device.run(lambda at=at: self._index.search(points[at : at + _BATCH], depth))  # type: ignore[misc]
            for at in range(0, len(points), _BATCH)
        ]
        rough = np.concatenate([part[0] for part in parts])
        rows = np.concatenate([part[1] for part in parts])
        fits = (
            np.ones(rows.shape, dtype=np.bool_)
            if usable is None
            else usable(rows.reshape(-1)).reshape(rows.shape)
        )
        counts = np.cumsum(fits, axis=1)
        enough = counts[:, -1] >= k
        worst = np.where(enough, np.argmax(counts >= k, axis=1), 0)
        bar = rough[np.arange(len(rows)), worst] - 2 * self._margin
        certain: NDArray[np.bool_] = enough & ((rough[:, -1] < bar) | (depth == self._index.ntotal))
        probes, places = np.nonzero(fits & (rough >= bar[:, None]) & certain[:, None])
        return certain, probes, rows[probes, places]


def find_gpu() -> Device | None:
    """The first GPU that FAISS sees, or None; one that it cannot use is logged."""
    import faiss

    if not faiss.get_num_gpus():
        return None
    try:
        resources = faiss.StandardGpuResources()
    except RuntimeError as error:
        log.warning("the GPU cannot be used for indexes: %s", error)
        return None
    config = faiss.GpuIndexFlatConfig()
    config.device, config.useFloat16 = 0, True

    def make(dim: int) -> Any:
        return faiss.GpuIndexFlatIP(resources, dim, config)

    return Device(make)
