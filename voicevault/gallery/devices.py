"""The device, where there is one, that large indexes are copied to."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock

from voicevault.index import CompressedIndex, Device


class Devices:
    """Finds the device when the first large index is there. Thread-safe.

    Args:
        find: Finds it, or nothing.
    """

    def __init__(self, find: Callable[[], Device | None] | None) -> None:
        self._find = find
        self._found: Device | None = None
        self._lock = Lock()

    def accelerate(self, index: CompressedIndex) -> None:
        """Copies the base of an index to the device, where it is not there yet.

        Raises:
            SnapshotRejected: The index' file is damaged.
        """
        with self._lock:
            if self._find is not None:
                find, self._find = self._find, None
                self._found = find()
            if self._found is not None and not index.accelerated:
                index.accelerate(self._found)

    def close(self) -> None:
        """Ends the device's thread; nothing may run any more."""
        with self._lock:
            self._find = None
            if self._found is not None:
                self._found.close()
                self._found = None
