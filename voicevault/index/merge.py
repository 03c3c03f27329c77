"""What a compaction reads: the rows of a base and those written since, as one."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from voicevault.index.base import Base
from voicevault.types import Float32Array, Int64Array

_STEP = 1 << 10
"""Rows copied at a time: few, because those who write them pause after each step, for answers to have their turn."""


def merged(
    base: Base, live: NDArray[np.bool_], gone: NDArray[np.bool_], keys: Int64Array, vectors: Float32Array
) -> Iterator[tuple[Int64Array, Float32Array]]:
    """Keys and vectors in rising order of the keys, some at a time: the rows of the base that are `live` [n], and others,
    whose keys [w] rise and are none of those. Rows that are `gone` [n] by the time they are read are left out."""
    done = 0
    for places, rows in base.blocks(None, _STEP):
        rows = rows.copy()  # before the next line, because what is erased is marked first
        # Zeros were erased by somebody whose change this index has not come to yet.
        kept = live[places] & ~gone[places] & rows.any(axis=1)
        until = int(np.searchsorted(keys, base.keys[places[-1]]))
        both = np.concatenate([base.keys[places[kept]], keys[done:until]])
        order = np.argsort(both)
        yield both[order], np.concatenate([rows[kept], vectors[done:until]])[order]
        done = until
    yield keys[done:], vectors[done:]
