"""The immutable part of a large index: codes in memory, exact vectors in a mapped file, rows in order of their keys."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from voicevault.errors import RequestError
from voicevault.index.calibration import Calibration, calibrate
from voicevault.index.codec import (
    CENTROIDS,
    MIN_TRAINING,
    TRAINING_ROWS,
    Codec,
    Scanner,
    UInt8Array,
    packed_bytes,
    parts_of,
)
from voicevault.index.crew import Crew
from voicevault.index.products import best_rows, rounding, row_products, unit_rows
from voicevault.index.segment import Segment, SegmentWriter
from voicevault.index.snapshot import SnapshotRejected
from voicevault.types import Float32Array, GalleryPosition, Int64Array

ROWS = 32
"""Vectors per digest: few enough that an answer which reads a thousand rows before all are checked is quick."""
_BLOCK = 1 << 16
_STEP = 1 << 12
"""Rows handled at a time by builds and checks: 3 MB, so that no step keeps the interpreter from answering."""
_PAUSE = 2e-4
"""Seconds between two steps. A thread that lets go of the interpreter for microseconds, as one that hashes does, has it
back before another that waits for it has woken; that one would wait for its whole switch interval, 5 ms."""

Ranked = tuple[Int64Array, Float32Array, float]
Blocks = Iterable[tuple[Int64Array, Float32Array]]
Then = Callable[[Float32Array, Int64Array, float], Ranked]
Scan = Callable[[Float32Array, int, Then], list[Ranked]]
"""Finds rows by their codes, see `Scanner.scan`."""


class BuildStoppedError(Exception):
    """A build was told to stop; there is no new file."""


def never() -> bool:
    return False


def can_compress(count: int, dim: int) -> bool:
    """Whether a gallery of this many voiceprints can have a base."""
    return count >= MIN_TRAINING and parts_of(dim) is not None


def write_base(
    path: str | Path, position: GalleryPosition, blocks: Blocks, stop: Callable[[], bool] = never
) -> None:
    """Builds the file of a base from voiceprints in rising order of keys: trains the codes on them, encodes them,
    and measures how deep a re-rank must go. Memory: the codes and keys, and one block of vectors.

    Args:
        path: Written whole or not at all.
        position: The generation that the voiceprints are of.
        blocks: Pairs of keys int64 [b] and unit vectors float32 [b, d].
        stop: Asked now and then.

    Raises:
        RequestError: Keys that do not rise, no unit vectors, or too few of them (see `can_compress`).
        BuildStoppedError: `stop` answered True.
        OSError: The file cannot be written.
    """
    dim = position.dim
    with SegmentWriter(path) as writer:
        keys = _write_vectors(writer, blocks, dim, stop)
        count = len(keys)
        if not can_compress(count, dim):
            raise RequestError("The gallery is too small to be compressed.", vectors=count, dim=dim)
        vectors = writer.mapped("vectors", np.float32).reshape(count, dim)
        codec = Codec.train(_sample(vectors, TRAINING_ROWS))
        packed = codec.pack(_steps(vectors, stop))
        found = calibrate(vectors, Scanner(codec, packed, count), _steps(vectors, stop))
        del vectors
        writer.add("keys", keys, _BLOCK)
        writer.add("codes", packed, _BLOCK)
        writer.add("rotation", codec.rotation, _BLOCK)
        writer.add("centroids", codec.centroids, _BLOCK)
        writer.finish(position, {"vectors": count, "parts": codec.parts, **found.facts()})


class Base:
    """A mapped file of `write_base`. Many threads may use it; `erase` one at a time.

    Keys and codes are checked here, vectors when they are first read, or by `scrub`. Every method that reads
    vectors raises SnapshotRejected where they are not what was written.

    Args:
        path: The file.
        position: Where the collection stands now.
        crew: Who scans; None is the calling thread.

    Raises:
        SnapshotRejected: The file is not to be used; rebuild.
    """

    def __init__(self, path: str | Path, position: GalleryPosition, crew: Crew | None = None) -> None:
        self._segment = segment = Segment(path, position)
        self.position = segment.position
        count, parts, dim = int(segment.facts["vectors"]), int(segment.facts["parts"]), position.dim
        self.count = count
        self._code_bytes = packed_bytes(ROWS, parts) // ROWS
        self.calibration = Calibration.of(segment.facts)
        for name in ("keys", "codes", "rotation", "centroids"):
            segment.verify(name)
        self.keys: Int64Array = segment.array("keys", np.int64, (count,))
        self._vectors: Float32Array = segment.array("vectors", np.float32, (count, dim))
        self.crew = crew = crew or Crew()
        self.codec = codec = Codec(
            segment.array("rotation", np.float32, (dim, dim)),
            segment.array("centroids", np.float32, (parts, CENTROIDS, dim // parts)),
        )
        codes: UInt8Array = segment.array("codes", np.uint8, (packed_bytes(count, parts),))
        self._scanner = Scanner(codec, codes, count, crew)
        self._checked = np.zeros(segment.blocks("vectors"), dtype=np.bool_)
        self._all_checked = False
        self._check_layout(codec)

    def nearest(
        self,
        point: Float32Array,
        k: int,
        depth: int,
        usable: Callable[[Int64Array], NDArray[np.bool_]] | None = None,
        scan: Scan | None = None,
    ) -> Ranked:
        """The best k for one probe [d] among the rows whose codes are best.

        Args:
            depth: So many rows, see `Scanner.scan`.
            usable: Which of some rows count; None is all.
            scan: What brings the rows; None is the scan of all codes.

        Returns:
            Keys and scores, exactly and in order, fewer than k where too few of the rows are usable; and what no
            usable row beyond them scores above, as far as `calibration` holds.
        """
        seen: list[Float32Array] = []

        def ranked(rough: Float32Array, rows: Int64Array, least: float) -> Ranked:
            if usable is not None:
                kept = usable(rows)
                rough, rows = rough[kept], rows[kept]
            return *self.best(point, k, self._promising(point, k, rough, rows, seen)), least

        found = (scan or self._scanner.scan)(point, depth, ranked)
        if len(found) == 1:
            keys, scores, least = found[0]
        else:
            keys, scores = (
                np.concatenate([part[0] for part in found]),
                np.concatenate([part[1] for part in found]),
            )
            order = np.lexsort((keys, -scores))[:k]
            keys, scores, least = keys[order], scores[order], max(part[2] for part in found)
        return keys, scores, self.calibration.most(least)

    def best(self, point: Float32Array, k: int, rows: Int64Array) -> tuple[Int64Array, Float32Array]:
        """Keys and scores [min(k, r)] of the best of `rows` [r] for one probe [d], exactly and in order."""
        self._check(rows)
        return best_rows(point, k, self._vectors, self.keys, rows)

    def _promising(
        self, point: Float32Array, k: int, rough: Float32Array, rows: Int64Array, seen: list[Float32Array]
    ) -> Int64Array:
        """Those of `rows` [r] that may be among the best k, by what their codes' products `rough` [r], in falling order,
        let expect. The first few, compared exactly, tell what the others must reach; `seen` has those of all shards that
        have come so far, and a shard that comes second has a third less to compare."""
        few = 4 * k
        if len(rows) > 4 * few:
            self._check(rows[:few])
            seen.append(row_products(point, self._vectors, rows[:few]))
            products = np.concatenate(seen)
            products.partition(len(products) - k)
            bar = float(products[len(products) - k]) - rounding(len(point))
            rows = rows[: max(few, np.count_nonzero(rough >= self.calibration.least(bar)))]
        # In the order in which they lie they are read twice as fast.
        return np.sort(rows)

    def vectors(self, rows: Int64Array) -> Float32Array:
        """A copy of these rows."""
        self._check(rows)
        return np.take(self._vectors, rows, axis=0)

    def blocks(self, rows: Int64Array | None, size: int) -> Iterator[tuple[Int64Array, Float32Array]]:
        """Places and vectors of `rows` (rising; None is all), `size` at a time."""
        total = self.count if rows is None else len(rows)
        for start in range(0, total, size):
            stop = min(start + size, total)
            if rows is None:
                self._check_range(start, stop)
                yield np.arange(start, stop), self._vectors[start:stop]
            else:
                part = rows[start:stop]
                yield part, self.vectors(part)

    def find(self, keys: Int64Array) -> Int64Array:
        """The rows of those of `keys` (rising) that are here, rising."""
        if len(keys) > self.count:
            at = np.minimum(np.searchsorted(keys, self.keys), len(keys) - 1)
            return np.flatnonzero(keys[at] == self.keys)
        at = np.minimum(np.searchsorted(self.keys, keys), self.count - 1)
        rows: Int64Array = at[self.keys[at] == keys]
        return rows

    def erase(self, rows: Int64Array) -> None:
        """Overwrites the vectors and codes of rows with zeros, in memory and, durably, in the file.

        Raises:
            OSError: The file cannot be written.
        """
        size = self._vectors.shape[1] * 4
        pieces: list[tuple[str, int, bytes]] = []
        codes: dict[int, bytes] = {}
        for row in rows.tolist():
            pieces.append(("vectors", row * size, bytes(size)))
            offset, data = self._scanner.erase(row)
            codes[offset] = data  # rows that share a block: the last has all of them
        pieces += [("codes", offset, data) for offset, data in codes.items()]
        if pieces:
            self._segment.overwrite(pieces)

    def scrub(self, stop: Callable[[], bool] = never) -> None:
        """Checks all vectors; afterwards no reader need."""
        for start in range(0, self.count, _STEP):
            if stop():
                return
            self._check_range(start, min(start + _STEP, self.count))
            time.sleep(_PAUSE)
        self._all_checked = True

    def is_current(self) -> bool:
        """Whether its path still leads to this file."""
        return self._segment.is_current()

    @property
    def scrubbed(self) -> bool:
        return self._all_checked

    @property
    def code_bytes(self) -> int:
        """Of one voiceprint: what a scan reads."""
        return self._code_bytes

    @property
    def nbytes(self) -> int:
        """Private memory; keys and vectors are the system's file cache."""
        return self._scanner.nbytes + self._checked.nbytes

    def _check(self, rows: Int64Array) -> None:
        if not self._all_checked:
            self._verify(np.unique(rows // ROWS))

    def _check_range(self, start: int, stop: int) -> None:
        if not self._all_checked:
            self._verify(np.arange(start // ROWS, -(-stop // ROWS)))

    def _verify(self, blocks: Int64Array) -> None:
        new = blocks[~self._checked[blocks]]
        if len(new):
            self._segment.verify("vectors", new.tolist())
            self._checked[new] = True

    def _check_layout(self, codec: Codec) -> None:
        # The layout of packed codes is FAISS' own and may change with a release: some rows are encoded anew.
        import faiss

        rows = np.unique(np.linspace(0, self.count - 1, 8).astype(np.int64))
        vectors = self.vectors(rows)
        rows, vectors = rows[vectors.any(axis=1)], vectors[vectors.any(axis=1)]
        if not len(rows):
            return
        fresh = codec.encode(vectors)
        kept = np.stack([self._scanner.code(row) for row in rows.tolist()])[:, : fresh.shape[1]]
        # Encoding may round otherwise on another processor.
        if np.mean(fresh == kept) < 0.98:
            raise SnapshotRejected(f"has codes in another layout than that of FAISS {faiss.__version__}")


def _write_vectors(writer: SegmentWriter, blocks: Blocks, dim: int, stop: Callable[[], bool]) -> Int64Array:
    section = writer.section("vectors", ROWS * dim * 4)
    parts = [np.empty(0, dtype=np.int64)]
    for keys, vectors in blocks:
        if stop():
            raise BuildStoppedError
        if keys.shape != (len(vectors),) or (np.diff(np.append(parts[-1][-1:], keys)) <= 0).any():
            raise RequestError("Voiceprints must come in rising order of their keys.")
        section.append(unit_rows(np.ascontiguousarray(vectors, dtype=np.float32), dim))
        time.sleep(_PAUSE)
        if len(keys):
            parts.append(keys.astype(np.int64))
    section.close()
    return np.concatenate(parts)


def _sample(vectors: Float32Array, size: int) -> Float32Array:
    if len(vectors) <= size:
        return np.array(vectors)
    rows = np.random.default_rng(len(vectors)).choice(len(vectors), size, replace=False)
    rows.sort()
    return np.take(vectors, rows, axis=0)


def _steps(vectors: Float32Array, stop: Callable[[], bool]) -> Iterator[Float32Array]:
    for start in range(0, len(vectors), _STEP):
        if stop():
            raise BuildStoppedError
        yield vectors[start : start + _STEP]
