"""The exact index: every voiceprint compared, in one array. The oracle for faster tiers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from voicevault.errors import IndexUnavailableError, RequestError
from voicevault.index.locks import ReadWriteLock
from voicevault.index.products import Nearest, best_rows, ranked, unit_rows
from voicevault.index.snapshot import SnapshotRejected, read_snapshot, write_snapshot
from voicevault.types import (
    Change,
    Float32Array,
    GalleryPosition,
    IndexCapabilities,
    IndexStats,
    Int64Array,
    Op,
    SearchResult,
)

PRODUCT_BATCH = 16
"""Probes from which one matrix product over all rows beats comparing one probe after the other."""


class FlatIndex:
    """One collection's voiceprints in memory; implements `types.VoiceIndex`. Many threads may search while
    one applies.

    Shapes: ``n`` voiceprints, ``d`` dimensions, ``m`` probes. Rows are in no order: a removed row's place is
    taken by the last one. Scores do not depend on that place, on the filter or on the size of a batch: float32
    products find the candidates, whose products are then summed in float64 and rounded once.

    Args:
        position: The collection; the index is empty, at generation 0 and without a token, until changes are
            applied.
    """

    def __init__(self, position: GalleryPosition) -> None:
        self._position = replace(position, generation=0, token="")
        self._keys: Int64Array = np.empty(0, dtype=np.int64)
        self._vectors: Float32Array = np.empty((0, position.dim), dtype=np.float32)
        self._slots: dict[int, int] = {}
        self._sorted: tuple[Int64Array, Int64Array] | None = None
        self._read_at = 0
        self._closed = False
        self._lock = ReadWriteLock()

    @classmethod
    def rebuild(cls, position: GalleryPosition, keys: Int64Array, vectors: Float32Array) -> FlatIndex:
        """An index at `position` with exactly these voiceprints: unique keys [n], unit vectors [n, d].

        Raises:
            RequestError: Shapes do not fit, a key is double, or a vector is not of unit length.
        """
        index = cls(position)
        index._keys = np.array(keys, dtype=np.int64)
        index._vectors = unit_rows(np.array(vectors, dtype=np.float32, order="C"), position.dim)
        if index._keys.shape != (len(index._vectors),):
            raise RequestError("There must be one key per vector.", vectors=len(index._vectors))
        index._slots = {key: slot for slot, key in enumerate(index._keys.tolist())}
        if len(index._slots) != len(index._keys):
            raise RequestError("A key stands for two voiceprints.")
        index._position = position
        return index

    @classmethod
    def load(cls, path: str | Path, position: GalleryPosition) -> FlatIndex:
        """The index that was saved at `path`, at the generation and with the token that it was saved with.

        A file of an earlier generation is accepted: whoever knows the change log compares `token` with that
        generation's before catching up.

        Raises:
            SnapshotRejected: The file is missing, damaged or of another collection, model, version or
                history: rebuild.
        """
        saved, keys, vectors = read_snapshot(path, position)
        try:
            return cls.rebuild(saved, keys, vectors)
        except RequestError as error:
            raise SnapshotRejected(f"holds what is no gallery: {error}") from error

    def save(self, path: str | Path) -> None:
        """Write the index to `path`, whole or not at all. Searches go on meanwhile, changes wait.

        Raises:
            OSError: The file cannot be written; what was there before is untouched.
            IndexUnavailableError: The index is closed, or between two slices of changes (see `apply`).
        """
        with self._lock.read():
            self._check_open()
            self.check_level()
            count = len(self._slots)
            write_snapshot(path, self._position, self._keys[:count], self._vectors[:count])

    def apply(
        self, changes: Sequence[Change], generation: int, token: str, read_at: int | None = None
    ) -> None:
        """Bring the index to `generation`. Changes it has seen already are ignored; all of the rest take
        effect at once.

        Args:
            changes: In order, up to `generation`.
            generation, token: The end of the last write that they are of.
            read_at: The generation, no earlier, whose voiceprints were read; None is `generation` itself. What is between
                the two comes in later slices, and until it has come the index holds some of it but not all: nothing is
                answered and nothing saved.

        Raises:
            RequestError: Changes out of order or beyond `generation`, or a vector that is no unit vector [d].
            IndexUnavailableError: The index is closed.
        """
        with self._lock.write():
            self._check_open()
            if generation <= self._position.generation:
                return
            final: dict[int, Float32Array | None] = {}
            last = 0
            for change in changes:
                if not last <= change.generation <= generation:
                    raise RequestError(
                        "Changes must come in order of generation.", generation=change.generation
                    )
                last = change.generation
                if change.generation > self._position.generation:
                    final[change.key] = change.vector if change.op is Op.UPSERT else None
                    if change.op is Op.UPSERT and change.vector is None:
                        raise RequestError("An upsert has no vector.", key=change.key)
            upserts = {key: vector for key, vector in final.items() if vector is not None}
            rows = np.empty((0, self._position.dim), dtype=np.float32)
            if upserts:
                if any(np.shape(vector) != (self._position.dim,) for vector in upserts.values()):
                    raise RequestError("A vector has the wrong number of dimensions.", dim=self._position.dim)
                rows = unit_rows(np.array(list(upserts.values()), dtype=np.float32), self._position.dim)
            # Everything is checked: from here on nothing raises but a lack of memory, and that first.
            self._reserve(len(self._slots) + sum(key not in self._slots for key in upserts))
            self._sorted = None
            for key, row in zip(upserts, rows, strict=True):
                slot = self._slots.setdefault(key, len(self._slots))
                self._keys[slot] = key
                self._vectors[slot] = row
            for key, vector in final.items():
                if vector is None:
                    self._remove(key)
            self._read_at = max(self._read_at, read_at or 0)
            self._position = replace(self._position, generation=generation, token=token)

    def search(
        self, probes: Float32Array, k: int, allow: Int64Array | None = None, at_least: int = 0
    ) -> SearchResult:
        """The k best voiceprints of each probe, exactly: by score descending, then id ascending, ties at the
        border too.

        Args:
            probes: float32 [m, d], unit rows.
            k: At least 1.
            allow: int64 [a], sorted and unique: only these ids are compared. Ids that are not in the index
            are ignored.
            at_least: The generation that the answer must not lie behind.

        Returns:
            ids and scores [m, min(k, voiceprints compared)], scores in [-1, 1].

        Raises:
            RequestError: Probes, k or allow are not as above.
            IndexUnavailableError: The index has not reached `at_least`, or is closed.
        """
        points = check_question(probes, self._position.dim, k, allow)
        with self._lock.read():
            self._check_open()
            self.check_level(at_least)
            ids, scores = self.best(points, k, allow)
            return SearchResult(ids, scores, self._position.generation)

    def best(self, points: Float32Array, k: int, allow: Int64Array | None) -> tuple[Int64Array, Float32Array]:
        """`search` without its checks, for a caller who keeps changes away."""
        slots = None if allow is None else self._slots_of(allow)
        wanted = min(k, len(self._slots) if slots is None else len(slots))
        if not wanted or not len(points):
            shape = (len(points), wanted)
            return np.empty(shape, dtype=np.int64), np.empty(shape, dtype=np.float32)
        if len(points) >= PRODUCT_BATCH:
            return self._products(points, wanted, slots)
        rows = np.arange(len(self._slots)) if slots is None else slots
        found = [best_rows(point, wanted, self._vectors, self._keys, rows) for point in points]
        return np.stack([one[0] for one in found]), np.stack([one[1] for one in found])

    @property
    def generation(self) -> int:
        return self._position.generation

    @property
    def token(self) -> str:
        return self._position.token

    def check_level(self, at_least: int = 0) -> None:
        """Raises IndexUnavailableError where the index has not reached that generation, or is between two slices of
        changes (see `apply`)."""
        wanted, generation = max(at_least, self._read_at), self._position.generation
        if generation < wanted:
            raise IndexUnavailableError(
                "The index has not caught up with the collection.", generation=generation, at_least=wanted
            )

    def captured(self) -> tuple[GalleryPosition, Int64Array, Float32Array]:
        """A copy of the position, the keys int64 [n] in rising order and their vectors float32 [n, d].

        Raises:
            IndexUnavailableError: See `save`.
        """
        with self._lock.read():
            self._check_open()
            self.check_level()
            order = np.argsort(self._keys[: len(self._slots)])
            return self._position, self._keys[order], self._vectors[order]

    def stats(self) -> IndexStats:
        with self._lock.read():
            size = self._keys.nbytes + self._vectors.nbytes
            return IndexStats("flat", len(self._slots), self._position.dim, self._position.generation, size)

    def capabilities(self) -> IndexCapabilities:
        return IndexCapabilities(exact=True, filtered=True, persistent=True)

    def close(self) -> None:
        """Let go of the memory. Searches that run are waited for; later calls raise IndexUnavailableError."""
        with self._lock.write():
            self._closed = True
            self._slots, self._sorted = {}, None
            self._keys, self._vectors = self._keys[:0].copy(), self._vectors[:0].copy()

    def _check_open(self) -> None:
        if self._closed:
            raise IndexUnavailableError("The index is closed.")

    def _reserve(self, count: int) -> None:
        if count <= len(self._keys):
            return
        room = max(count, len(self._keys) * 3 // 2, 64)
        keys = np.empty(room, dtype=np.int64)
        vectors = np.empty((room, self._position.dim), dtype=np.float32)
        used = len(self._slots)
        keys[:used], vectors[:used] = self._keys[:used], self._vectors[:used]
        self._keys, self._vectors = keys, vectors

    def _remove(self, key: int) -> None:
        slot = self._slots.pop(key, None)
        last = len(self._slots)
        if slot is None or slot == last:
            return
        self._keys[slot], self._vectors[slot] = self._keys[last], self._vectors[last]
        self._slots[int(self._keys[slot])] = slot

    def _slots_of(self, allow: Int64Array) -> Int64Array:
        ordered = self._sorted
        if ordered is None:
            keys = self._keys[: len(self._slots)]
            order = np.argsort(keys)
            # Two readers may both do this; either result is right, and no writer is inside.
            self._sorted = ordered = (keys[order], order)
        known, order = ordered
        if not len(known) or not len(allow):
            return np.empty(0, dtype=np.int64)
        # The shorter list is looked up in the longer one.
        if len(allow) > len(known):
            at = np.minimum(np.searchsorted(allow, known), len(allow) - 1)
            slots: Int64Array = order[allow[at] == known]
        else:
            at = np.minimum(np.searchsorted(known, allow), len(known) - 1)
            slots = order[at[known[at] == allow]]
        return slots

    def _products(
        self, points: Float32Array, k: int, slots: Int64Array | None
    ) -> tuple[Int64Array, Float32Array]:
        nearest, size = Nearest(points, k), Nearest.block(len(points))
        total = len(self._slots) if slots is None else len(slots)
        for start in range(0, total, size):
            stop = min(start + size, total)
            if slots is None:
                nearest.add(np.arange(start, stop), self._vectors[start:stop])
            else:
                nearest.add(slots[start:stop], self._vectors[slots[start:stop]])
        probes, places = nearest.candidates()
        step = Nearest.block(1)
        rows = (self._vectors[places[start : start + step]] for start in range(0, len(places), step))
        return ranked(points, k, probes, self._keys[places], rows)


def check_question(probes: Float32Array, dim: int, k: int, allow: Int64Array | None) -> Float32Array:
    """The probes as a contiguous float32 array.

    Raises:
        RequestError: They are not unit vectors [m, dim], k is below 1, or `allow` is not sorted and unique.
    """
    points = unit_rows(np.ascontiguousarray(probes, dtype=np.float32), dim)
    if k < 1:
        raise RequestError("k must be 1 or more.", k=k)
    if allow is not None and (allow.ndim != 1 or allow.dtype != np.int64 or (allow[1:] <= allow[:-1]).any()):
        raise RequestError("The filter must be a sorted list of unique int64 ids.")
    return points
