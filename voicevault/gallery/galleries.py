"""The indexes that a process holds, each caught up with the database before every answer."""

from __future__ import annotations

import logging
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Lock

from voicevault.cores import available_cores
from voicevault.errors import CollectionNotFoundError, IndexUnavailableError, StoreError
from voicevault.gallery.background import Background
from voicevault.gallery.devices import Devices
from voicevault.gallery.files import Index, IndexFiles, Limits
from voicevault.gallery.upkeep import Held, Upkeep
from voicevault.index import CompressedIndex, Crew, Device, FlatIndex, SnapshotRejected
from voicevault.store import Store
from voicevault.types import (
    Approximation,
    Change,
    Float32Array,
    GalleryPosition,
    Int64Array,
    Op,
    SearchResult,
)

log = logging.getLogger(__name__)

SAVE_AFTER = 1000
"""Changes after which the file of an exact index is written anew; what is missing in it is read from the log."""
WORTH_SAVING = 1000
"""Voiceprints from which an exact index that is let go of is saved first: fewer are read from the database as fast."""


class Galleries:
    """One index per collection, found by the collection's UUID, opened when it is first asked for. Thread-safe.

    The files under `folder` are a cache: a missing, damaged or foreign one costs a rebuild, and one that
    cannot be written costs the next start a rebuild. In the background one thread compacts and checks, and another
    erases, so that no erasure waits for a compaction.

    Args:
        limits: Tiers, and what is held at a time.
        find_device: Finds the device that large indexes are copied to; asked once, when the first one is there.
    """

    def __init__(
        self,
        store: Store,
        folder: Path,
        limits: Limits | None = None,
        find_device: Callable[[], Device | None] | None = None,
    ) -> None:
        self._store = store
        self._limits = limits or Limits()
        self._background = Background()
        self._crew = Crew(available_cores())
        self._files = IndexFiles(store, folder, self._limits, self._background.stop, self._crew)
        self._devices = Devices(find_device)
        self._held: OrderedDict[str, Held] = OrderedDict()
        self._lock = Lock()
        self._upkeep = Upkeep(
            store, self._files, self._limits, self._background, self._devices, self._replace, self._reject
        )
        self._building: dict[str, Lock] = {}
        self._rebuilding: set[str] = set()
        self.rebuilds = 0
        """Indexes that were read from the database because their file was missing or could not be used."""

    def current(self, collection: str) -> tuple[Index, GalleryPosition]:
        """The index at the collection's present generation or later, and the position it was measured by.

        Raises:
            CollectionNotFoundError: There is no such collection.
            IndexUnavailableError: The collection was made anew again and again meanwhile.
        """
        for _ in range(5):
            position = self._store.position(collection)
            with self._lock:
                held = self._held.get(position.uuid)
                if held is not None:
                    self._held.move_to_end(position.uuid)
                    held.collection = collection  # it may have been renamed
            if held is not None:
                index = held.index
                if self._caught_up(collection, held, index, position):
                    self._save_if_due(held)
                    return index, position
            with self._lock:
                building = self._building.setdefault(position.uuid, Lock())
            with building:
                try:
                    if self._held.get(position.uuid) is held:
                        self._build(collection, position, discard=held is not None)
                finally:
                    self._building.pop(position.uuid, None)
        raise IndexUnavailableError("The collection is changing too fast to be searched; try again.")

    def search(
        self,
        collection: str,
        probes: Float32Array,
        k: int,
        allow: Int64Array | None = None,
        check: Callable[[GalleryPosition], None] = lambda _: None,
    ) -> tuple[SearchResult, int]:
        """See `VoiceIndex.search`; at the collection's present generation or later.

        Args:
            check: Called with the collection's position before the search; it raises where the question must not be
                put to it.

        Returns:
            The answer, and the number of voiceprints in the collection.

        Raises:
            CollectionNotFoundError: There is no such collection.
            RequestError: The question makes no sense.
            IndexUnavailableError: The index cannot answer.
        """
        failure: IndexUnavailableError
        for _ in range(3):
            index, position = self.current(collection)
            check(position)
            try:
                found = index.search(probes, k, allow, at_least=position.generation)
                return found, index.stats().vectors
            except SnapshotRejected as rejected:
                self._reject(position.uuid, index, str(rejected))
                failure = IndexUnavailableError("The index file is damaged again and again; check the disk.")
            except IndexUnavailableError as error:
                # Another thread is between two slices of changes that came since: this one reads them too.
                failure = error
                if self._background.stop.is_set():
                    break
        raise failure

    def approximation(self, uuid: str) -> Approximation | None:
        """How searches of a collection fall short of exact ones; None where they do not, or its index is not held."""
        held = self._held.get(uuid)
        return held.index.approximation if held and isinstance(held.index, CompressedIndex) else None

    @property
    def rebuilding(self) -> bool:
        """Whether a large index is just being read from the database; questions to its collection wait for it. A small
        one is there in a moment."""
        return bool(self._rebuilding)

    # --- catching up -------------------------------------------------------------------------------------

    def _caught_up(self, collection: str, held: Held, index: Index, position: GalleryPosition) -> bool:
        """Whether the index is level now; False where its history is not the collection's."""
        generation, token = index.generation, index.token
        if generation == position.generation:
            if held.upkeep_put_off:
                self._upkeep.look_after(held)
            # Two reads of a moving index: equal to the collection's newest, they belong together.
            return token == position.token or index.generation != generation
        if self._store.token_at(collection, generation) != token:
            return index.generation != generation and index.generation >= position.generation
        removed = False
        for seen, changes, read_at in self._store.changes_in_slices(collection, generation):
            if seen.uuid != held.uuid:
                return False
            index.apply(changes, seen.generation, seen.token, read_at)
            held.unsaved += len(changes)
            removed = removed or _removes(changes)
        if removed:
            if isinstance(index, FlatIndex):
                self._delete_file(held)
            else:
                self._background.later("erase", lambda: self._upkeep.erase(held))
        self._upkeep.look_after(held)
        return True

    def _build(self, collection: str, position: GalleryPosition, discard: bool) -> None:
        index = None if discard else self._files.open(collection, position)
        if index is not None:
            self._hold(Held(position.uuid, collection, index, 0))
            return
        now, size = self._store.size(collection)
        large = self._limits.wants_base(size, now.dim)
        if large:
            self._rebuilding.add(now.uuid)
        try:
            started = time.monotonic()
            seen, index = self._files.build(collection, now.uuid, large)
            self.rebuilds += 1
            count = index.stats().vectors
            log.info("index of %s: %d voiceprints in %.1f s", collection, count, time.monotonic() - started)
        finally:
            self._rebuilding.discard(now.uuid)
        # Under a new UUID the caller comes round again and finds it there.
        self._hold(Held(seen.uuid, collection, index, count))
        if discard and seen.uuid != position.uuid:
            self._let_go(position.uuid)

    def _hold(self, held: Held) -> None:
        with self._lock:
            self._held[held.uuid] = held
            self._held.move_to_end(held.uuid)
            leave, total = [], 0
            for rank, (uuid, other) in enumerate(reversed(self._held.items())):
                total += other.index.stats().bytes
                if rank and (rank >= self._limits.open_most or total > self._limits.bytes_most):
                    leave.append(uuid)
            gone = [self._held.pop(uuid) for uuid in leave]
        for other in gone:
            # Not closed: somebody may be searching it. It goes when the last one lets go of it.
            if other.index.stats().vectors >= WORTH_SAVING:
                self._save(other)
        if isinstance(held.index, CompressedIndex):
            self._background.later("upkeep", lambda: self._upkeep.scrub(held))
        self._upkeep.look_after(held)

    # --- files -------------------------------------------------------------------------------------------

    def forget(self, collection: str) -> None:
        """Takes what was removed or replaced out of the files, before it returns.

        Raises:
            CollectionNotFoundError: There is no such collection.
        """
        uuid = self._store.position(collection).uuid
        held = self._held.get(uuid)
        if held is None and not os.path.exists(self._files.base(uuid)):
            self._files.discard(uuid)
            return
        self.current(collection)
        held = self._held.get(uuid)
        if held is not None and isinstance(held.index, CompressedIndex):
            self._upkeep.erase(held)
        elif held is not None:
            self._delete_file(held)

    def compact(self, collection: str) -> None:
        """Compacts the index now, whether that is due or not; an exact one is moved to the tier of its size. The thread of
        all compactions does it, at its priority.

        Raises:
            CollectionNotFoundError: There is no such collection.
            OSError: The file cannot be written.
            IndexUnavailableError: Another thread is just catching up with very many changes; try again.
            CancelledError: Closed meanwhile.
        """
        _, position = self.current(collection)
        held = self._held.get(position.uuid)
        if held is not None:
            self._background.now("upkeep", lambda: self._upkeep.renew_now(held))

    def discard(self, uuid: str) -> None:
        """Deletes the index files of a collection."""
        held = self._held.get(uuid)
        if held is not None:
            self._delete_file(held)
        else:
            self._files.discard(uuid)

    def drop(self, uuid: str) -> None:
        """Lets go of a deleted collection, in memory and on disk."""
        self._let_go(uuid)
        self._files.drop(uuid)

    def close(self) -> None:
        """Ends what runs in the background, and saves what changed."""
        self._background.close()
        for held in list(self._held.values()):
            self._save(held)
            held.index.close()
        self._held.clear()
        self._crew.close()
        self._devices.close()

    def _let_go(self, uuid: str) -> None:
        with self._lock:  # another thread may just be going through them
            self._held.pop(uuid, None)

    def _delete_file(self, held: Held) -> None:
        with held.file:  # a save that runs may still hold what was removed
            self._files.discard(held.uuid)
            held.unsaved = max(held.unsaved, 1)

    def _save_if_due(self, held: Held) -> None:
        if held.unsaved >= SAVE_AFTER and not held.file.locked():
            self._save(held)

    def _save(self, held: Held) -> None:
        if not held.unsaved or not isinstance(held.index, FlatIndex):
            return
        with held.file:
            try:
                self._files.make_folder()
                held.unsaved = 0
                held.index.save(self._files.flat(held.uuid))
            except OSError as error:
                log.warning("index file of collection %s cannot be written: %s", held.uuid, error)
            except IndexUnavailableError:  # between two slices of changes: the next time
                held.unsaved = SAVE_AFTER
                return
            if self._forgotten_since(held):
                self._files.discard(held.uuid)
                held.unsaved = 1

    def _forgotten_since(self, held: Held) -> bool:
        """Whether somebody was removed whom the index still holds: by another process, or its collection is gone."""
        try:
            slices = self._store.changes_in_slices(held.collection, held.index.generation)
            return any(seen.uuid != held.uuid or _removes(changes) for seen, changes, _ in slices)
        except CollectionNotFoundError:
            return True
        except StoreError as error:
            log.warning("index file of collection %s is not kept: %s", held.uuid, error)
            return True

    def _replace(self, held: Held, old: Index, new: Index) -> None:
        with self._lock:
            if held.index is old:
                held.index, held.unsaved = new, 0

    def _reject(self, uuid: str, index: Index, reason: str) -> None:
        log.warning("index file of collection %s %s; rebuilding from the database", uuid, reason)
        with self._lock:
            held = self._held.get(uuid)
            if held is None or held.index is not index:
                return
            self._held.pop(uuid)
        self._files.discard(uuid)


def _removes(changes: Sequence[Change]) -> bool:
    return any(change.op is Op.REMOVE for change in changes)
