"""The index of each collection, kept level with the database: caught up before every answer."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

from voicevault.errors import IndexUnavailableError
from voicevault.index import FlatIndex, SnapshotRejected
from voicevault.store import Store
from voicevault.types import GalleryPosition, Op

log = logging.getLogger(__name__)

SAVE_AFTER = 1000
"""Changes after which the file of an index is written anew; what is missing in it is read from the log."""


@dataclass
class _Held:
    """The index of one collection, and how many changes its file lacks."""

    uuid: str
    index: FlatIndex
    unsaved: int
    saving: Lock = field(default_factory=Lock)


class Galleries:
    """One index per collection, found by the collection's UUID. Thread-safe.

    The files under `folder` are a cache: a missing, damaged or foreign one costs a rebuild, and one that
    cannot be written costs the next start a rebuild.
    """

    def __init__(self, store: Store, folder: Path) -> None:
        self._store, self._folder = store, folder
        self._held: dict[str, _Held] = {}
        self._lock = Lock()
        self._building: dict[str, Lock] = {}

    def current(self, collection: str) -> tuple[FlatIndex, GalleryPosition]:
        """The index at the collection's present generation or later, and the position it was measured by.

        Raises:
            CollectionNotFoundError: There is no such collection.
            IndexUnavailableError: The collection was made anew again and again meanwhile.
        """
        for _ in range(5):
            position = self._store.position(collection)
            held = self._held.get(position.uuid)
            if held is not None and self._caught_up(collection, held, position):
                self._save_if_due(held)
                return held.index, position
            with self._lock:
                building = self._building.setdefault(position.uuid, Lock())
            with building:
                if self._held.get(position.uuid) is held:
                    self._build(collection, position, discard=held is not None)
        raise IndexUnavailableError("The collection is changing too fast to be searched; try again.")

    def _caught_up(self, collection: str, held: _Held, position: GalleryPosition) -> bool:
        """Whether the index is level now; False where its history is not the collection's."""
        index = held.index
        generation, token = index.generation, index.token
        if generation == position.generation:
            # Two reads of a moving index: equal to the collection's newest, they belong together.
            return token == position.token or index.generation != generation
        if self._store.token_at(collection, generation) != token:
            return index.generation != generation and index.generation >= position.generation
        seen, changes = self._store.changes(collection, generation)
        if seen.uuid != held.uuid:
            return False
        index.apply(changes, seen.generation, seen.token)
        held.unsaved += len(changes)
        if any(change.op is Op.REMOVE for change in changes):
            self.discard(held.uuid)
        return True

    def _build(self, collection: str, position: GalleryPosition, discard: bool) -> None:
        path = self._path(position.uuid)
        if not discard:
            try:
                index = FlatIndex.load(path, position)
                if self._store.token_at(collection, index.generation) == index.token:
                    self._held[position.uuid] = _Held(position.uuid, index, 0)
                    return
                reason = "has another history than the collection"
            except SnapshotRejected as rejected:
                reason = str(rejected)
            if path.exists():
                log.warning("index file %s %s; rebuilding from the database", path, reason)
        seen, keys, vectors = self._store.snapshot(collection)
        # Under a new UUID the caller comes round again and finds it there.
        self._held[seen.uuid] = _Held(seen.uuid, FlatIndex.rebuild(seen, keys, vectors), len(keys))
        if discard and seen.uuid != position.uuid:
            self._held.pop(position.uuid, None)

    def discard(self, uuid: str) -> None:
        """Deletes the index file: what was forgotten must not stay in it."""
        try:
            self._path(uuid).unlink(missing_ok=True)
        except OSError as error:
            log.warning("index file of collection %s cannot be deleted: %s", uuid, error)
        held = self._held.get(uuid)
        if held is not None:
            held.unsaved = max(held.unsaved, 1)

    def drop(self, uuid: str) -> None:
        """Lets go of a deleted collection, in memory and on disk."""
        self._held.pop(uuid, None)
        self.discard(uuid)

    def close(self) -> None:
        """Saves what changed."""
        for held in list(self._held.values()):
            if held.unsaved:
                self._save(held)
            held.index.close()
        self._held.clear()

    def _path(self, uuid: str) -> Path:
        return self._folder / f"{uuid}.index"

    def _save_if_due(self, held: _Held) -> None:
        if held.unsaved >= SAVE_AFTER and held.saving.acquire(blocking=False):
            try:
                self._save(held)
            finally:
                held.saving.release()

    def _save(self, held: _Held) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            held.unsaved = 0
            held.index.save(self._path(held.uuid))
        except OSError as error:
            log.warning("index file of collection %s cannot be written: %s", held.uuid, error)
