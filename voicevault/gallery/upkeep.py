"""What happens to held indexes beside the answers: compaction, change of tier, erasure, checks, copies on a device,
inverted lists."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from threading import Lock

from voicevault.errors import CollectionNotFoundError, IndexUnavailableError
from voicevault.gallery.background import Background
from voicevault.gallery.devices import Devices
from voicevault.gallery.files import Index, IndexFiles, Limits
from voicevault.index import BuildStoppedError, CompressedIndex, SnapshotRejected
from voicevault.store import Store

log = logging.getLogger(__name__)

_PAUSE = 1.0
"""Seconds between two tries, while another process does the work."""


@dataclass
class Held:
    """The index of one collection, and how many changes the file of an exact one lacks."""

    uuid: str
    collection: str
    index: Index
    unsaved: int
    file: Lock = field(default_factory=Lock)
    upkeep: Lock = field(default_factory=Lock)
    upkeep_after: float = 0.0
    upkeep_put_off: bool = False
    """It may have become due while it was done, or before `upkeep_after`: whoever asks next has it looked at again."""


class Upkeep:
    """Looks after the indexes that a process holds.

    Args:
        replace: Puts a new index in the place of an old one, where that is still held.
        reject: Lets go of an index whose file turns out to be damaged; takes the collection's UUID, the index, and why.
    """

    def __init__(
        self,
        store: Store,
        files: IndexFiles,
        limits: Limits,
        background: Background,
        devices: Devices,
        replace: Callable[[Held, Index, Index], None],
        reject: Callable[[str, Index, str], None],
    ) -> None:
        self._store, self._files, self._limits = store, files, limits
        self._background, self._devices = background, devices
        self._replace, self._reject = replace, reject

    def look_after(self, held: Held) -> None:
        """Has the index compacted, or moved to another tier, in the background, where that is due."""
        held.upkeep_put_off = held.upkeep.locked() or time.monotonic() < held.upkeep_after
        if not held.upkeep_put_off and self._limits.upkeep_due(held.index):
            held.upkeep_after = time.monotonic() + _PAUSE
            self._background.later("upkeep", lambda: self._renew_if_due(held))

    def renew_now(self, held: Held) -> None:
        """Compacts the index, or moves it to the tier of its size.

        Raises:
            BuildStoppedError: It was told to stop.
            CollectionNotFoundError: There is no such collection any more.
            OSError: The file cannot be written.
            IndexUnavailableError: See `FlatIndex.save`.
        """
        with held.upkeep:
            self._renew(held)

    def _renew(self, held: Held) -> None:
        old = held.index
        try:
            new = self._files.compact(held.collection, held.uuid, old)
            if isinstance(new, CompressedIndex):
                # Before anybody asks it: a search that has to check what it reads takes ten times as long.
                new.base.scrub(self._background.stop.is_set)
                self._devices.accelerate(new)
        except SnapshotRejected as rejected:
            self._reject(held.uuid, old, str(rejected))
            return
        if new is None:
            return
        self._catch_up(held.collection, held.uuid, new)
        self._replace(held, old, new)
        if isinstance(new, CompressedIndex):
            self.erase(held)
            self._approximate(held, new)

    def erase(self, held: Held) -> None:
        """Takes what was replaced or removed out of memory and the file, see `CompressedIndex.erase`."""
        index = held.index
        if not isinstance(index, CompressedIndex):
            return
        try:
            index.erase()
        except OSError as error:
            log.warning("index file of collection %s cannot be erased in place: %s", held.uuid, error)
            self._files.discard(held.uuid)
        if not index.accelerated:
            self._background.later("upkeep", lambda: self._accelerate(held, index))

    def scrub(self, held: Held) -> None:
        """Checks all vectors of the index' file, copies them to the device, where there is one, and makes inverted lists, where
        they are asked for."""
        index = held.index
        if not isinstance(index, CompressedIndex) or index.base.scrubbed:
            return
        try:
            index.base.scrub(self._background.stop.is_set)
        except SnapshotRejected as rejected:
            self._reject(held.uuid, index, str(rejected))
            return
        self._accelerate(held, index)
        self._approximate(held, index)

    def _renew_if_due(self, held: Held) -> None:
        if self._limits.upkeep_due(held.index) and held.upkeep.acquire(blocking=False):
            try:
                # The service ends, or the collection is gone: there is nothing left to look after. Or very many changes are
                # just being caught up with: it is still due then.
                with suppress(BuildStoppedError, CollectionNotFoundError, IndexUnavailableError):
                    self._renew(held)
                # What changed meanwhile, or what another process was just at.
                held.upkeep_put_off = True
            except OSError as error:
                log.warning("index file of collection %s cannot be written: %s", held.uuid, error)
                held.upkeep_put_off = False  # not again and again on a full disk: the next change will try
            finally:
                held.upkeep_after = time.monotonic() + _PAUSE
                held.upkeep.release()

    def _catch_up(self, collection: str, uuid: str, index: Index) -> None:
        # Most of what came meanwhile, so that the first question after the change has little left to do.
        for seen, changes, read_at in self._store.changes_in_slices(collection, index.generation):
            if seen.uuid != uuid:
                return
            index.apply(changes, seen.generation, seen.token, read_at)

    def _accelerate(self, held: Held, index: CompressedIndex) -> None:
        if held.index is not index:
            return  # another one has taken its place
        try:
            self._devices.accelerate(index)
        except SnapshotRejected as rejected:
            self._reject(held.uuid, index, str(rejected))

    def _approximate(self, held: Held, index: CompressedIndex) -> None:
        """Has inverted lists made, on a thread of their own because that takes long, where they are asked for; a device is
        as fast, and exact."""
        recall, limits = self._limits.approximate_recall, self._limits
        if recall is None or index.base.count < limits.approximate_from or index.accelerated:
            return

        def stop() -> bool:
            return self._background.stop.is_set() or held.index is not index

        def make() -> None:
            started = time.monotonic()
            try:
                with suppress(BuildStoppedError):
                    index.approximate(recall, limits.approximate_cost, stop)
                    log.info("inverted lists in %.1f s: %s", time.monotonic() - started, index.approximation)
            except SnapshotRejected as rejected:
                self._reject(held.uuid, index, str(rejected))

        self._background.later("lists", make)
