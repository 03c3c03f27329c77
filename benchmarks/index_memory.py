"""One process that opens an index file and answers: what it costs in time and in memory of its own.

``python -m benchmarks.index_memory PATH UUID MODEL DIM GENERATION TOKEN PROBES`` prints JSON.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np


def private_bytes() -> int:
    """Resident memory that belongs to no file, of this process. Linux only; 0 elsewhere."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon:"))


def main(arguments: list[str]) -> None:
    path, uuid, model, dim, generation, token, count = arguments
    from voicevault.cores import available_cores
    from voicevault.index import Base, CompressedIndex, Crew, write_base
    from voicevault.types import GalleryPosition

    probes = np.random.default_rng(0).standard_normal((int(count), int(dim)), dtype=np.float32)
    probes /= np.linalg.norm(probes, axis=1, keepdims=True)
    # What the libraries take for themselves is there before.
    small = Path(path).with_suffix(".warm")
    here = GalleryPosition("warm", model, int(dim), 1, "warm")
    rows = np.resize(probes, (1000, int(dim)))
    write_base(small, here, [(np.arange(1000), rows)])
    CompressedIndex(Base(small, here)).search(probes[:1], 10)
    small.unlink()

    before, started = private_bytes(), time.perf_counter()
    here = GalleryPosition(uuid, model, int(dim), int(generation), token)
    index = CompressedIndex(Base(path, here, Crew(available_cores())))
    index.search(probes[:1], 10)
    first = time.perf_counter() - started
    for probe in probes:
        index.search(probe[None], 10)
    index.base.scrub()
    print(json.dumps({"first_answer": first, "private": private_bytes() - before}))


if __name__ == "__main__":
    main(sys.argv[1:])
