"""Index files: opened, built from the database, compacted, deleted. All are caches of the database.

Beside each other in one folder, by the collection's UUID: ``.index`` is a saved exact index, ``.base`` the base of a
compressed one, and ``.lock`` is held by the process that builds or compacts.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event

import numpy as np

from voicevault.errors import CollectionNotFoundError, IndexUnavailableError, StoreError
from voicevault.index import (
    Base,
    BuildStoppedError,
    CompressedIndex,
    Crew,
    FlatIndex,
    SnapshotRejected,
    can_compress,
    claim,
    write_base,
)
from voicevault.store import Store
from voicevault.types import Float32Array, GalleryPosition, Int64Array

log = logging.getLogger(__name__)

Index = FlatIndex | CompressedIndex
Blocks = Iterator[tuple[Int64Array, Float32Array]]
_STEP = 1 << 12


@dataclass(frozen=True, slots=True)
class Limits:
    """Where one tier ends and the next begins, and what may be held.

    Attributes:
        compress_from: Voiceprints from which a gallery is compressed; below half of it, it is exact again.
        compact_after: Changes since the base that call for a compaction, at the least.
        compact_share: And as a share of the base: the exact scan of the changes must stay small beside that of the
            codes.
        approximate_recall: Share of probes whose best an approximate search is to find; None is never to search so.
        approximate_from: Voiceprints of a base from which it does.
        approximate_cost: Most that such a search may cost, as a share of an exact one; where it costs more, it is
            not made, and all searches are exact.
        open_most: Indexes held at a time; the one that was asked longest ago goes first.
        bytes_most: Private memory of all of them.
    """

    compress_from: int = 20_000
    compact_after: int = 4096
    compact_share: float = 1 / 64
    approximate_recall: float | None = None
    approximate_from: int = 1_000_000
    approximate_cost: float = 0.85
    open_most: int = 256
    bytes_most: int = 1 << 30

    def wants_base(self, count: int, dim: int, compressed: bool = False) -> bool:
        least = self.compress_from // 2 if compressed else self.compress_from
        return count >= least and can_compress(count, dim)

    def upkeep_due(self, index: Index) -> bool:
        """Whether the index should be compacted, or move to another tier."""
        found = index.stats()
        if isinstance(index, FlatIndex):
            return self.wants_base(found.vectors, found.dim)
        if not self.wants_base(found.vectors, found.dim, compressed=True):
            return True
        return index.changed >= max(self.compact_after, int(index.base.count * self.compact_share))


class IndexFiles:
    """The files of all collections under one folder. `stop` ends builds early; `crew` scans."""

    def __init__(self, store: Store, folder: Path, limits: Limits, stop: Event, crew: Crew) -> None:
        self._store, self._folder, self._limits, self._stop, self._crew = store, folder, limits, stop, crew

    def flat(self, uuid: str) -> Path:
        return self._folder / f"{uuid}.index"

    def base(self, uuid: str) -> Path:
        return self._folder / f"{uuid}.base"

    def make_folder(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def open(self, collection: str, position: GalleryPosition) -> Index | None:
        """The index from its file; None where there is none that can be used, which is logged."""
        found = None
        # `Path.exists` fails in a folder that may not be entered.
        if os.path.exists(self.base(position.uuid)):
            # A folder that is read-only or somebody else's is theirs to clean.
            with suppress(OSError), claim(self._lock(position.uuid)) as mine:
                if mine:
                    self._clean(position.uuid)  # what was forgotten since must not stay in leftovers
            found = self._opened(collection, position, self.base(position.uuid))
        return found or self._opened(collection, position, self.flat(position.uuid))

    def build(self, collection: str, uuid: str, compressed: bool) -> tuple[GalleryPosition, Index]:
        """The index from the database: `compressed`, where the collection is still that of `uuid` and the file can be
        written, or exact.

        Raises:
            CollectionNotFoundError: There is no such collection.
            IndexUnavailableError: It was told to stop.
        """
        if compressed:
            try:
                self.make_folder()
                # Whoever waits for the lock has no transaction open.
                with claim(self._lock(uuid), wait=True):
                    self._clean(uuid)
                    position, count, blocks = self._store.stream(collection)
                    if position.uuid == uuid and can_compress(count, position.dim):
                        return position, self._written(collection, position, blocks)
                    return position, FlatIndex.rebuild(position, *_joined(blocks, position.dim))
            except BuildStoppedError as error:
                raise IndexUnavailableError("The index is being closed.") from error
            except (OSError, SnapshotRejected) as error:  # the latter where it is deleted at once
                log.warning("index file %s cannot be written: %s", self.base(uuid), error)
        position, keys, vectors = self._store.snapshot(collection)
        return position, FlatIndex.rebuild(position, keys, vectors)

    def compact(self, collection: str, uuid: str, index: Index) -> Index | None:
        """A new index without the leftovers of `index`, written to its file; where another process has written one
        meanwhile, that. It stands at the generation of its file. None where another process is at it.

        Raises:
            BuildStoppedError: It was told to stop.
            SnapshotRejected: `index` reads from a damaged file.
            OSError: The file cannot be written.
        """
        position = self._store.position(collection)
        if position.uuid != uuid:
            return None
        self.make_folder()
        with claim(self._lock(uuid)) as mine:
            if not mine:
                return None
            self._clean(uuid)
            path = self.base(uuid)
            current = isinstance(index, CompressedIndex) and index.base.is_current()
            if path.exists() and not current:
                found = self._opened(collection, position, path)
                if found is not None:
                    return found
            stats = index.stats()
            compressed = isinstance(index, CompressedIndex)
            if self._limits.wants_base(stats.vectors, stats.dim, compressed):
                position, blocks = _captured(index)
                return self._written(collection, position, blocks)
            position, blocks = _captured(index)
            exact = FlatIndex.rebuild(position, *_joined(blocks, position.dim))
            exact.save(self.flat(uuid))
            path.unlink(missing_ok=True)
            self._discard_if_gone(collection, uuid)
            return exact

    def discard(self, uuid: str) -> None:
        """Deletes the files of a collection, and what a killed process has left of a saved one."""
        for path in (self.flat(uuid), self.base(uuid), *self._folder.glob(f"{uuid}.index.*.tmp")):
            self._delete(path)

    def drop(self, uuid: str) -> None:
        """Deletes all that is there of a collection that is gone."""
        for path in self._folder.glob(f"{uuid}.*"):
            self._delete(path)

    def _delete(self, path: Path) -> None:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            log.warning("index file %s cannot be deleted: %s", path, error)

    def _written(self, collection: str, position: GalleryPosition, blocks: Blocks) -> CompressedIndex:
        path = self.base(position.uuid)
        write_base(path, position, blocks, self._stop.is_set)
        self.flat(position.uuid).unlink(missing_ok=True)
        index = CompressedIndex(Base(path, position, self._crew))
        self._discard_if_gone(collection, position.uuid)
        return index

    def _discard_if_gone(self, collection: str, uuid: str) -> None:
        """Deletes what was just written where the collection was deleted meanwhile: whoever did that found no file yet."""
        try:
            gone = self._store.position(collection).uuid != uuid
        except CollectionNotFoundError:
            gone = True
        except StoreError as error:
            log.warning("index file of collection %s is not kept: %s", uuid, error)
            gone = True
        if gone:
            self.discard(uuid)

    def _opened(self, collection: str, position: GalleryPosition, path: Path) -> Index | None:
        reason = "has another history than the collection"
        for _ in range(2):
            try:
                index: Index
                if path.suffix == ".base":
                    index = CompressedIndex(Base(path, position, self._crew))
                else:
                    index = FlatIndex.load(path, position)
                if self._store.token_at(collection, index.generation) == index.token:
                    return index
                break
            except SnapshotRejected as rejected:
                reason = str(rejected)
            # It may be newer than the position that was read before it.
            seen, position = position, self._store.position(collection)
            if (seen.uuid, seen.generation) == (position.uuid, position.generation):
                break
        if os.path.exists(path):
            log.warning("index file %s %s; rebuilding from the database", path, reason)
        return None

    def _lock(self, uuid: str) -> Path:
        return self._folder / f"{uuid}.lock"

    def _clean(self, uuid: str) -> None:
        """Deletes what killed processes have left half written. Only the holder of the lock may."""
        for leftover in self._folder.glob(f"{uuid}.base.*.tmp"):
            leftover.unlink(missing_ok=True)


def _captured(index: Index) -> tuple[GalleryPosition, Blocks]:
    if isinstance(index, CompressedIndex):
        return index.captured()
    position, keys, vectors = index.captured()
    steps = range(0, len(keys), _STEP)
    return position, ((keys[at : at + _STEP], vectors[at : at + _STEP]) for at in steps)


def _joined(blocks: Blocks, dim: int) -> tuple[Int64Array, Float32Array]:
    keys, vectors = [np.empty(0, dtype=np.int64)], [np.empty((0, dim), dtype=np.float32)]
    for some_keys, some_vectors in blocks:
        keys.append(some_keys)
        vectors.append(some_vectors)
    return np.concatenate(keys), np.concatenate(vectors)
