"""Searchable voiceprints: caches of the database that any process may drop and rebuild."""

from voicevault.index.base import Base, BuildStoppedError, can_compress, write_base
from voicevault.index.compressed import CompressedIndex
from voicevault.index.crew import Crew
from voicevault.index.flat import FlatIndex
from voicevault.index.half import Device, find_gpu
from voicevault.index.pairs import similar_pairs
from voicevault.index.segment import claim
from voicevault.index.snapshot import SnapshotRejected

__all__ = [
    "Base",
    "BuildStoppedError",
    "CompressedIndex",
    "Crew",
    "Device",
    "FlatIndex",
    "SnapshotRejected",
    "can_compress",
    "claim",
    "find_gpu",
    "similar_pairs",
    "write_base",
]
