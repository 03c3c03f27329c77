"""The file of an immutable base: sections of bytes with a digest per block, so that a start need not read it all.

FAISS' own files carry no checksum and answer silently wrong after a bit flip, so the layout is ours (little-endian)::

    prefix     magic 8 bytes, version uint32, length uint32 of the header
    header     JSON: uuid, model_id, dim, generation, token, facts, sections {name: offset, size, block}, and the
               SHA-256 of the section `digests`
    digest     32 bytes, SHA-256 of all of the above
    sections   each at a multiple of 4096; `digests` is the SHA-256 of every block of the others, in order

The file is written aside and renamed. Afterwards only `overwrite` changes it: it erases rows in place and seals their
blocks again, under an exclusive lock on the file; a crash in the middle leaves a block that does not fit its digest.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO
from uuid import uuid4

import numpy as np
from numpy.typing import DTypeLike, NDArray

from voicevault.index.snapshot import PREFIX, SnapshotRejected, check_origin, private, sync_folder
from voicevault.types import GalleryPosition

try:
    import fcntl
except ImportError:  # Windows has no advisory locks of this kind; there one process holds the folder
    fcntl = None  # type: ignore[assignment]

MAGIC = b"VVBASE\r\n"
VERSION = 1
DIGEST = 32
_HEADER_BYTES = 1 << 13
"""Room at the start of the file for prefix, header and digest."""
_ALIGN = 4096
_DIGESTS = "digests"


class SegmentWriter:
    """Writes one file, section by section; it appears under `path` with `finish`, whole or not at all.

    Use it as a context manager: without `finish`, what was written is deleted.
    """

    def __init__(self, path: str | Path) -> None:
        self._target = Path(path)
        self.aside = self._target.with_name(f"{self._target.name}.{uuid4().hex}.tmp")
        self._file: BinaryIO = open(self.aside, "xb", buffering=0, opener=private)  # noqa: SIM115
        self._end = _HEADER_BYTES
        self._sections: dict[str, dict[str, int]] = {}
        self._digests: list[bytes] = []
        self._finished = False

    def __enter__(self) -> SegmentWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        if not self._finished:
            self.aside.unlink(missing_ok=True)

    def add(self, name: str, data: NDArray[Any], block: int) -> None:
        """One section at once, with a digest per `block` bytes."""
        section = self.section(name, block)
        section.append(data)
        section.close()

    def section(self, name: str, block: int) -> SectionWriter:
        """A section that grows; close it before the next one is begun."""
        self._end = -(-self._end // _ALIGN) * _ALIGN
        self._file.seek(self._end)
        self._sections[name] = {"offset": self._end, "size": 0, "block": block}
        return SectionWriter(self, name, block)

    def mapped(self, name: str, dtype: DTypeLike) -> NDArray[Any]:
        """A closed section, read back from the file that is being written."""
        section = self._sections[name]
        count = section["size"] // np.dtype(dtype).itemsize
        with self.aside.open("rb") as file:
            view = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return np.frombuffer(view, dtype=dtype, count=count, offset=section["offset"])

    def _write(self, name: str, data: memoryview, digests: list[bytes]) -> None:
        written = 0
        while written < len(data):
            written += self._file.write(data[written:]) or 0
        self._sections[name]["size"] += len(data)
        self._end += len(data)
        self._digests += digests

    def finish(self, position: GalleryPosition, facts: Mapping[str, object]) -> None:
        """Seals the file and puts it in its place.

        Raises:
            OSError: The disk is full or the folder cannot be written; `path` is then as it was.
        """
        table = b"".join(self._digests)
        self.add(_DIGESTS, np.frombuffer(table, dtype=np.uint8), 1 << 30)
        header = {
            "uuid": position.uuid,
            "model_id": position.model_id,
            "dim": position.dim,
            "generation": position.generation,
            "token": position.token,
            "facts": dict(facts),
            "sections": self._sections,
            _DIGESTS: hashlib.sha256(table).hexdigest(),
        }
        self._file.seek(0)
        self._file.write(_sealed_header(header))
        self._file.truncate(self._end)
        os.fsync(self._file.fileno())
        os.replace(self.aside, self._target)
        self._finished = True
        sync_folder(self._target.parent)


class SectionWriter:
    """Takes the bytes of one section in pieces of any size."""

    def __init__(self, writer: SegmentWriter, name: str, block: int) -> None:
        self._writer, self._name, self._block = writer, name, block
        self._rest = b""

    def append(self, data: NDArray[Any]) -> None:
        whole = np.ascontiguousarray(data).reshape(-1).view(np.uint8).data
        if self._rest:
            whole = memoryview(self._rest + whole.tobytes())
        used = len(whole) // self._block * self._block
        self._seal(whole[:used])
        self._rest = whole[used:].tobytes()

    def close(self) -> None:
        self._seal(memoryview(self._rest))
        self._rest = b""

    def _seal(self, data: memoryview) -> None:
        digests = [_sha(data[at : at + self._block]) for at in range(0, len(data), self._block)]
        self._writer._write(self._name, data, digests)


class Segment:
    """A mapped file of `SegmentWriter`. Header and digests are checked here; a section when `verify` is asked to.

    Args:
        path: The file.
        position: Where the collection stands now; the file may lie behind.

    Raises:
        SnapshotRejected: Missing, torn, damaged, of another version, collection, model or history.
    """

    def __init__(self, path: str | Path, position: GalleryPosition) -> None:
        self.path = Path(path)
        try:
            try:
                self._file: BinaryIO = self.path.open("r+b", buffering=0)
            except OSError:  # somebody else's, or on a disk that is read-only
                self._file = self.path.open("rb", buffering=0)
            with file_lock(self._file, exclusive=False):
                self._header = _read_header(self._file)
                self.position = check_origin(self._header, position)
                self._view = self._mapped()
        except OSError as error:
            raise SnapshotRejected(f"cannot be read: {error.strerror}") from error
        self._first: dict[str, int] = {}
        count = 0
        for name, section in self._header["sections"].items():
            self._first[name] = count
            count += -(-section["size"] // section["block"])
        self._writing = Lock()

    @property
    def facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = self._header["facts"]
        return facts

    def array(self, name: str, dtype: DTypeLike, shape: tuple[int, ...]) -> NDArray[Any]:
        """A section as a read-only array over the mapped file."""
        section = self._header["sections"].get(name)
        count = int(np.prod(shape))
        if section is None or section["size"] != count * np.dtype(dtype).itemsize:
            raise SnapshotRejected(f"has no section {name!r} of the right size")
        return np.frombuffer(self._view, dtype=dtype, count=count, offset=section["offset"]).reshape(shape)

    def blocks(self, name: str) -> int:
        section = self._header["sections"][name]
        return int(-(-section["size"] // section["block"]))

    def verify(self, name: str, blocks: Sequence[int] | range | None = None) -> None:
        """Raises SnapshotRejected where a block of the section (by default all) is not what was sealed."""
        section = self._header["sections"][name]
        for block in range(self.blocks(name)) if blocks is None else blocks:
            if not self._intact(name, section, block):
                # It may just be being sealed anew, here or by another process.
                with self._writing, file_lock(self._file, exclusive=False):
                    if not self._intact(name, section, block):
                        raise SnapshotRejected(f"has damaged {name}")

    def overwrite(self, pieces: Sequence[tuple[str, int, bytes]]) -> None:
        """Puts bytes at offsets of sections, durably, and seals the blocks that they touch.

        A crash before the end leaves a file that is refused.

        Raises:
            OSError: The file cannot be written.
        """
        sections = self._header["sections"]
        table = sections[_DIGESTS]
        with self._writing, file_lock(self._file, exclusive=True):
            touched: set[tuple[str, int]] = set()
            for name, offset, data in pieces:
                section = sections[name]
                os.pwrite(self._file.fileno(), data, section["offset"] + offset)
                last = (offset + len(data) - 1) // section["block"]
                touched.update((name, block) for block in range(offset // section["block"], last + 1))
            for name, block in touched:
                digest = _sha(_block(self._view, sections[name], block))
                at = table["offset"] + (self._first[name] + block) * DIGEST
                os.pwrite(self._file.fileno(), digest, at)
            # Another process may have sealed other blocks meanwhile: the table is hashed as it stands.
            self._header = {**self._header, _DIGESTS: _sha(_block(self._view, table, 0)).hex()}
            os.pwrite(self._file.fileno(), _sealed_header(self._header), 0)
            os.fsync(self._file.fileno())

    def is_current(self) -> bool:
        """Whether the path still leads to this file."""
        try:
            return os.path.samestat(os.stat(self.path), os.fstat(self._file.fileno()))
        except OSError:
            return False

    def _mapped(self) -> memoryview:
        sections = self._header["sections"]
        end = max(section["offset"] + section["size"] for section in sections.values())
        if os.fstat(self._file.fileno()).st_size != end:
            raise SnapshotRejected("has the wrong size")
        view = memoryview(mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ))
        if _sha(_block(view, sections[_DIGESTS], 0)).hex() != self._header[_DIGESTS]:
            raise SnapshotRejected("has damaged digests")
        return view

    def _intact(self, name: str, section: dict[str, int], block: int) -> bool:
        at = self._header["sections"][_DIGESTS]["offset"] + (self._first[name] + block) * DIGEST
        return _sha(_block(self._view, section, block)) == self._view[at : at + DIGEST]


@contextmanager
def file_lock(file: BinaryIO, exclusive: bool) -> Iterator[None]:
    """Waits for the advisory lock of an open file, and holds it."""
    if fcntl is None:
        yield
        return
    fcntl.flock(file.fileno(), fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH)
    try:
        yield
    finally:
        fcntl.flock(file.fileno(), fcntl.LOCK_UN)


@contextmanager
def claim(path: Path, wait: bool = False) -> Iterator[bool]:
    """Whether this caller is the only one, here and in other processes, that holds the lock file at `path`; with
    `wait` it waits until it is."""
    with open(path, "ab", opener=private) as file:
        if fcntl is not None:
            try:
                fcntl.flock(file.fileno(), fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except OSError:
                yield False
                return
        yield True  # closing the file lets go


def _sha(data: memoryview) -> bytes:
    return hashlib.sha256(data).digest()


def _block(whole: memoryview, section: dict[str, int], block: int) -> memoryview:
    start = section["offset"] + block * section["block"]
    return whole[start : min(start + section["block"], section["offset"] + section["size"])]


def _sealed_header(header: dict[str, Any]) -> bytes:
    text = json.dumps(header).encode()
    sealed = PREFIX.pack(MAGIC, VERSION, len(text)) + text
    sealed += hashlib.sha256(sealed).digest()
    if len(sealed) > _HEADER_BYTES:
        raise OSError("the header of the index file is too long")
    return sealed.ljust(_HEADER_BYTES, b"\0")


def _read_header(file: BinaryIO) -> dict[str, Any]:
    data = os.pread(file.fileno(), _HEADER_BYTES, 0)
    if len(data) < _HEADER_BYTES:
        raise SnapshotRejected("is truncated")
    magic, version, length = PREFIX.unpack_from(data)
    if magic != MAGIC:
        raise SnapshotRejected("is not an index file")
    if version != VERSION:
        raise SnapshotRejected(f"has format version {version}, not {VERSION}")
    end = PREFIX.size + length
    if end + DIGEST > _HEADER_BYTES or data[end + DIGEST :].strip(b"\0"):
        raise SnapshotRejected("has a damaged header")
    if hashlib.sha256(data[:end]).digest() != data[end : end + DIGEST]:
        raise SnapshotRejected("has a damaged header")
    header: dict[str, Any] = json.loads(data[PREFIX.size : end])
    return header
