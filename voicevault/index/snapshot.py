"""Saved voiceprints, in a file that is either what was written or refused.

FAISS' own files carry no checksum and answer silently wrong after a bit flip, so the layout is ours
(little-endian)::

    magic      8 bytes
    version    uint32
    length     uint32, of the header
    header     JSON: uuid, model_id, dim, generation, token, vectors, sha256 of the payload
    digest     32 bytes, SHA-256 of all of the above
    payload    int64 [n] keys, then float32 [n, d] vectors
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Mapping
from io import BufferedReader
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np

from voicevault.types import Float32Array, GalleryPosition, Int64Array

MAGIC = b"VVFLAT\r\n"
VERSION = 1
PREFIX = struct.Struct("<8sII")
_DIGEST_BYTES = 32
_HEADER_LIMIT = 1 << 16


class SnapshotRejected(Exception):
    """The file cannot be trusted or is not of this collection. The message says why; the answer is a
    rebuild."""


def write_snapshot(
    path: str | Path, position: GalleryPosition, keys: Int64Array, vectors: Float32Array
) -> None:
    """Write keys int64 [n] and vectors float32 [n, d] to `path`, whole or not at all.

    Raises:
        OSError: The folder cannot be written or the disk is full; `path` is then as it was.
    """
    target = Path(path)
    key_bytes = np.ascontiguousarray(keys, dtype="<i8").reshape(-1).view(np.uint8).data
    vector_bytes = np.ascontiguousarray(vectors, dtype="<f4").reshape(-1).view(np.uint8).data
    digest = hashlib.sha256(key_bytes)
    digest.update(vector_bytes)
    header = json.dumps(
        {
            "uuid": position.uuid,
            "model_id": position.model_id,
            "dim": position.dim,
            "generation": position.generation,
            "token": position.token,
            "vectors": len(keys),
            "sha256": digest.hexdigest(),
        }
    ).encode()
    head = PREFIX.pack(MAGIC, VERSION, len(header)) + header
    aside = target.with_name(f"{target.name}.{uuid4().hex}.tmp")
    try:
        with open(aside, "xb", opener=private) as file:
            file.write(head)
            file.write(hashlib.sha256(head).digest())
            file.write(key_bytes)
            file.write(vector_bytes)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, target)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    sync_folder(target.parent)


def private(path: str, flags: int) -> int:
    """For `open`: a file that is made is its owner's alone, whatever the folder lets others do."""
    return os.open(path, flags, 0o600)


def sync_folder(folder: Path) -> None:
    # The rename itself must reach the disk; only POSIX lets a folder be opened for that.
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_snapshot(
    path: str | Path, position: GalleryPosition
) -> tuple[GalleryPosition, Int64Array, Float32Array]:
    """Where the saved index stood, its keys int64 [n] and vectors float32 [n, d].

    Args:
        path: A file of `write_snapshot`.
        position: Where the collection stands now. The saved one may lie behind, and is then to be caught up.

    Raises:
        SnapshotRejected: Missing, torn, damaged, of another format version, collection or model, ahead of
            the collection, or at its generation with another token (a database that was restored went
            another way from there).
    """
    try:
        with Path(path).open("rb") as file:
            return _read(file, position)
    except OSError as error:
        raise SnapshotRejected(f"cannot be read: {error.strerror}") from error


def _read(
    file: BufferedReader, position: GalleryPosition
) -> tuple[GalleryPosition, Int64Array, Float32Array]:
    prefix = file.read(PREFIX.size)
    if len(prefix) < PREFIX.size:
        raise SnapshotRejected("is truncated")
    magic, version, length = PREFIX.unpack(prefix)
    if magic != MAGIC:
        raise SnapshotRejected("is not an index file")
    if version != VERSION:
        raise SnapshotRejected(f"has format version {version}, not {VERSION}")
    if length > _HEADER_LIMIT:
        raise SnapshotRejected("has a damaged header")
    header = file.read(length)
    if hashlib.sha256(prefix + header).digest() != file.read(_DIGEST_BYTES):
        raise SnapshotRejected("has a damaged header")
    facts = json.loads(header)  # what was hashed was written here, so the keys are there
    saved = check_origin(facts, position)

    count = facts["vectors"]
    payload = count * (8 + 4 * saved.dim)
    # Before any allocation: a torn file is told by its size.
    if os.fstat(file.fileno()).st_size != PREFIX.size + length + _DIGEST_BYTES + payload:
        raise SnapshotRejected("has the wrong size")
    key_bytes = np.empty(count * 8, dtype=np.uint8)
    vector_bytes = np.empty(count * 4 * saved.dim, dtype=np.uint8)
    digest = hashlib.sha256()
    for part in (key_bytes, vector_bytes):
        if file.readinto(part.data) != len(part):
            raise SnapshotRejected("is truncated")
        digest.update(part.data)
    if digest.hexdigest() != facts["sha256"]:
        raise SnapshotRejected("has damaged voiceprints")
    keys = key_bytes.view("<i8").astype(np.int64, copy=False)
    vectors = vector_bytes.view("<f4").astype(np.float32, copy=False).reshape(count, saved.dim)
    return saved, keys, vectors


def check_origin(facts: Mapping[str, Any], position: GalleryPosition) -> GalleryPosition:
    """Where a saved index stood, by the facts of its header.

    Raises:
        SnapshotRejected: It is not of the collection that stands at `position`, or not of its past.
    """
    saved = GalleryPosition(
        facts["uuid"], facts["model_id"], facts["dim"], facts["generation"], facts["token"]
    )
    if saved.uuid != position.uuid:
        raise SnapshotRejected("belongs to another collection")
    if (saved.model_id, saved.dim) != (position.model_id, position.dim):
        raise SnapshotRejected("belongs to another model")
    if saved.generation > position.generation:
        raise SnapshotRejected("is ahead of the collection")
    if saved.generation == position.generation and saved.token != position.token:
        raise SnapshotRejected("has another history than the collection")
    return saved
