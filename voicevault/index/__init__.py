"""Searchable voiceprints: caches of the database that any process may drop and rebuild."""

from voicevault.index.flat import FlatIndex
from voicevault.index.snapshot import SnapshotRejected

__all__ = ["FlatIndex", "SnapshotRejected"]
