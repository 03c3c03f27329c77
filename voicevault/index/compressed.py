"""The index of a large gallery: all codes scanned, the candidates re-ranked on exact vectors.

An immutable base (see `voicevault.index.base`), a small exact index of what was written since, and a mark on each
row of the base that was replaced or removed since. Adds, replacements and removals take effect at once. A scan cannot
filter: marked and not allowed rows are dropped from what it brings, and it goes deeper until enough others are
certain, or the rows in question are compared one by one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from voicevault.errors import IndexUnavailableError
from voicevault.index.base import Base, never
from voicevault.index.calibration import K
from voicevault.index.flat import PRODUCT_BATCH, FlatIndex, check_question
from voicevault.index.half import Device, HalfCopy, Usable
from voicevault.index.lists import Lists, make_lists
from voicevault.index.locks import ReadWriteLock
from voicevault.index.merge import merged
from voicevault.index.products import Nearest, ranked, within
from voicevault.types import (
    Approximation,
    Change,
    Float32Array,
    GalleryPosition,
    IndexCapabilities,
    IndexStats,
    Int64Array,
    SearchResult,
)

log = logging.getLogger(__name__)

# Nanoseconds, of one core: what a search costs, to choose between its ways. Only speed depends on them.
_SCAN_ROW = 4.0
_SCAN_CANDIDATE = 70.0
_COMPARE_ROW = 100.0
_UPLOAD = 1 << 14
"""Rows copied to a device at a time."""
_LOOKED_UP = 64
"""Rows that a device looks up for a probe at first; where voices are no copies of each other, k and a few suffice."""

Rows = tuple[Int64Array, Float32Array]


class CompressedIndex:
    """Implements `types.VoiceIndex` over a base. Many threads may search while one applies.

    Scores are those of `FlatIndex`; a voiceprint that belongs among the best k is missed where the error of its code
    exceeds the margin that was measured on the gallery (`Calibration`): 3 in 100,000, none in the probes tried.

    A search raises SnapshotRejected where the base's file turns out to be damaged: rebuild.
    """

    def __init__(self, base: Base) -> None:
        self._base = base
        empty = np.empty((0, base.position.dim), dtype=np.float32)
        self._delta = FlatIndex.rebuild(base.position, np.empty(0, dtype=np.int64), empty)
        self._gone = np.zeros(base.count, dtype=np.bool_)
        self._gone_count = 0
        self._unerased: list[Int64Array] = []
        self._copy: HalfCopy | None = None
        self._lists: Lists | None = None
        self._erasures = 0
        self._closed = False
        self._lock = ReadWriteLock()
        self._erasing = Lock()

    def apply(
        self, changes: Sequence[Change], generation: int, token: str, read_at: int | None = None
    ) -> None:
        """See `FlatIndex.apply`."""
        with self._lock.write():
            self._check_open()
            seen = self._delta.generation
            self._delta.apply(
                changes, generation, token, read_at
            )  # refuses what is wrong before it changes anything
            if generation > seen:
                keys = np.unique(
                    np.array([change.key for change in changes if change.generation > seen], dtype=np.int64)
                )
                rows = self._base.find(keys)
                rows = rows[~self._gone[rows]]
                self._gone[rows] = True
                self._gone_count += len(rows)
                if len(rows):
                    self._unerased.append(rows)

    def erase(self) -> None:
        """Overwrites what was replaced or removed, in memory and in the file, so that it waits for no compaction.
        Searches and changes go on.

        Raises:
            OSError: The file cannot be written.
        """
        with self._erasing:
            with self._lock.read():
                self._check_open()
                taken = list(self._unerased)
            if taken:
                # No search looks at these rows any more: they are marked.
                self._base.erase(np.concatenate(taken))
                if self._lists is not None:
                    self._lists.erase(np.concatenate(taken))
                with self._lock.write():
                    del self._unerased[: len(taken)]
                    self._erasures += 1
                    self._copy = None  # it cannot be overwritten, only made anew

    def search(
        self, probes: Float32Array, k: int, allow: Int64Array | None = None, at_least: int = 0
    ) -> SearchResult:
        """See `FlatIndex.search`; where `approximate` in the result is not None, some may be missed."""
        points = check_question(probes, self._base.position.dim, k, allow)
        with self._lock.read():
            self._check_open()
            generation = self._delta.generation
            self._delta.check_level(at_least)
            copy, lists = self._copy, self._lists
            if copy is not None or allow is not None or k > K or not 0 < len(points) < PRODUCT_BATCH:
                lists = None
            if copy is None:
                ids, scores = self._scanned(points, k, allow, lists)
            else:
                ids, scores = self._looked_up(copy, points, k, allow)
            new_ids, new_scores = self._delta.best(points, k, allow)
        if new_ids.shape[1]:
            ids, scores = np.hstack([ids, new_ids]), np.hstack([scores, new_scores])
            order = np.lexsort((ids, -scores), axis=1)[:, :k]
            ids, scores = np.take_along_axis(ids, order, 1), np.take_along_axis(scores, order, 1)
        return SearchResult(ids, scores, generation, lists.approximation if lists else None)

    @property
    def generation(self) -> int:
        return self._delta.generation

    @property
    def token(self) -> str:
        return self._delta.token

    @property
    def base(self) -> Base:
        return self._base

    @property
    def accelerated(self) -> bool:
        """Whether a device answers."""
        return self._copy is not None

    @property
    def changed(self) -> int:
        """Voiceprints that a compaction would move or drop."""
        return self._delta.stats().vectors + self._gone_count

    def captured(self) -> tuple[GalleryPosition, Iterator[Rows]]:
        """The position, and all voiceprints in rising order of their keys, read while the iterator is run.

        Those that are removed or replaced before they are read are left out: the change log tells of them to whoever
        starts from this position.

        Raises:
            IndexUnavailableError: See `FlatIndex.save`.
        """
        with self._lock.read():
            self._check_open()
            position, keys, vectors = self._delta.captured()
            live = ~self._gone
        return position, merged(self._base, live, self._gone, keys, vectors)

    def stats(self) -> IndexStats:
        with self._lock.read():
            delta = self._delta.stats()
            count = self._base.count - self._gone_count + delta.vectors
            size = self._base.nbytes + self._gone.nbytes + delta.bytes
            tier = "gpu" if self.accelerated else "approximate" if self._lists else "compressed"
            size += self._lists.nbytes if self._lists else 0
            return replace(delta, tier=tier, vectors=count, bytes=size)

    def capabilities(self) -> IndexCapabilities:
        return IndexCapabilities(exact=False, filtered=True, persistent=True)

    def close(self) -> None:
        """Searches that run are waited for; later calls raise IndexUnavailableError."""
        with self._lock.write():
            self._closed = True
            self._copy = self._lists = None
            self._delta.close()

    def _check_open(self) -> None:
        if self._closed:
            raise IndexUnavailableError("The index is closed.")

    # --- the base, on a device -------------------------------------------------------------------------------

    def accelerate(self, device: Device) -> None:
        """Copies the base to a device, which answers from then on, until the next erasure. A device that fails is let go
        of, with a log line.

        Raises:
            SnapshotRejected: The base's file is damaged.
        """
        erasures = self._erasures
        try:
            copy = device.copy(
                (rows for _, rows in self._base.blocks(None, _UPLOAD)), self._base.position.dim
            )
        except RuntimeError as error:
            log.warning("no copy of the index on the device: %s", error)
            return
        with self._lock.write():
            if erasures == self._erasures and not self._closed:  # else it may hold what was erased meanwhile
                self._copy = copy

    def _looked_up(self, copy: HalfCopy, points: Float32Array, k: int, allow: Int64Array | None) -> Rows:
        """`_scanned`, by candidates from the device as far as those suffice."""
        among = self._among(allow)
        depth = max(4 * k, _LOOKED_UP) * self._base.count // max(1, among)
        if not len(points) or k > among or depth > copy.most or self._better_compared(depth, among, allow):
            return self._scanned(points, k, allow)
        ids, scores = np.empty((len(points), k), dtype=np.int64), np.empty((len(points), k), dtype=np.float32)
        left = np.arange(len(points))
        while len(left) and depth <= copy.most:
            try:
                certain, probes, rows = copy.candidates(points[left], k, depth, self._filter(allow))
            except RuntimeError as error:
                log.warning("the device fails, the processor answers: %s", error)
                self._copy = None
                break
            # Candidates name their probe by its place in `left`; those that are certain are counted anew.
            probes = (np.cumsum(certain) - 1)[probes]
            done = left[certain]
            if len(done):
                ids[done], scores[done] = self._ranked(points[done], k, probes, rows)
            left, depth = left[~certain], depth * 4
        if len(left):
            ids[left], scores[left] = self._scanned(points[left], k, allow)
        return ids, scores

    # --- the base, in inverted lists -------------------------------------------------------------------------

    def approximate(self, recall: float, worth: float, stop: Callable[[], bool] = never) -> None:
        """Makes inverted lists of the base, where they are worth it (see `make_lists`). They answer from then on what
        has no allow-list, up to K speakers and fewer than PRODUCT_BATCH probes: they may miss what is among the best.

        Raises:
            BuildStoppedError: `stop` answered True.
            SnapshotRejected: The base's file is damaged.
        """
        lists = make_lists(self._base, ~self._gone, recall, worth, stop)
        if lists is not None:
            with self._erasing:
                lists.erase(np.flatnonzero(self._gone))  # those that went meanwhile
                with self._lock.write():
                    if not self._closed:
                        self._lists = lists

    @property
    def approximation(self) -> Approximation | None:
        """How answers may fall short of exact ones; None while they do not."""
        lists = self._lists
        return lists.approximation if lists and not self.accelerated else None

    # --- the base, one probe ---------------------------------------------------------------------------------

    def _scanned(
        self, points: Float32Array, k: int, allow: Int64Array | None, lists: Lists | None = None
    ) -> Rows:
        """Ids and scores [m, min(k, allowed)] of the best of the base, in order."""
        if not 0 < len(points) < PRODUCT_BATCH:
            return self._compared(points, k, self._rows(allow))
        parts = [self._one(point, k, allow, lists) for point in points]
        if len(parts) == 1:
            return parts[0][0][None], parts[0][1][None]
        # The same rows were allowed for all, so all have found as many.
        return np.stack([part[0] for part in parts]), np.stack([part[1] for part in parts])

    def _one(self, point: Float32Array, k: int, allow: Int64Array | None, lists: Lists | None = None) -> Rows:
        """Ids and scores of the best k of the base, in order; fewer only where no more are allowed."""
        if lists is not None and (found := lists.nearest(point, k, self._filter(None))) is not None:
            return found
        base, count = self._base, self._base.count
        among = self._among(allow)
        if not among:
            return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32)
        depth = base.calibration.depth * max(1, k // 10) * count // among
        usable = self._filter(allow)
        while k <= among and depth < count // 4 and not self._better_compared(depth, among, allow):
            ids, scores, beyond = base.nearest(point, k, depth, usable)
            if len(ids) < k:
                depth *= 4
                continue
            if scores[-1] > beyond:
                return ids, scores
            depth *= 2
        rows = self._rows(allow)
        return base.best(point, k, np.arange(count) if rows is None else rows)

    def _among(self, allow: Int64Array | None) -> int:
        """The most rows of the base that can be allowed."""
        live = self._base.count - self._gone_count
        return live if allow is None else min(live, len(allow))

    def _filter(self, allow: Int64Array | None) -> Usable | None:
        return None if allow is None and not self._gone_count else partial(self._usable, allow)

    def _usable(self, allow: Int64Array | None, rows: Int64Array) -> NDArray[np.bool_]:
        usable: NDArray[np.bool_] = ~self._gone[rows]
        if allow is not None:
            usable &= within(self._base.keys[rows], allow)
        return usable

    def _better_compared(self, depth: int, among: int, allow: Int64Array | None) -> bool:
        scan = self._base.count * _SCAN_ROW + depth * _SCAN_CANDIDATE
        return allow is not None and among * _COMPARE_ROW < scan

    # --- the base, row by row --------------------------------------------------------------------------------

    def _rows(self, allow: Int64Array | None) -> Int64Array | None:
        """The rows to compare, rising; None is all."""
        if allow is None:
            return np.flatnonzero(~self._gone) if self._gone_count else None
        rows = self._base.find(allow)
        return rows[~self._gone[rows]]

    def _compared(self, points: Float32Array, k: int, rows: Int64Array | None) -> Rows:
        """Ids and scores [m, min(k, rows)] of the best of these rows, each compared with each probe."""
        base = self._base
        k = min(k, base.count if rows is None else len(rows))
        if not k or not len(points):
            return np.empty((len(points), k), dtype=np.int64), np.empty((len(points), k), dtype=np.float32)
        nearest = Nearest(points, k)
        for places, vectors in base.blocks(rows, Nearest.block(len(points))):
            nearest.add(places, vectors)
        return self._ranked(points, k, *nearest.candidates())

    def _ranked(self, points: Float32Array, k: int, probes: Int64Array, rows: Int64Array) -> Rows:
        """Ids and scores [m, k] of the best candidates of each probe, which come by probe."""
        base, step = self._base, Nearest.block(1)
        pieces = (base.vectors(rows[start : start + step]) for start in range(0, len(rows), step))
        return ranked(points, k, probes, base.keys[rows], pieces)
