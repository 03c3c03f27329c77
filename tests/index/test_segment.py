"""Base files: what was written, or refused; erased in place, and whole again."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.index.galleries import DIM, gallery
from voicevault.index import Base, CompressedIndex, SnapshotRejected, claim, write_base
from voicevault.index.segment import MAGIC
from voicevault.index.snapshot import PREFIX
from voicevault.types import GalleryPosition

HERE = GalleryPosition("c1", "m1", DIM, 5, "five")
KEYS, VECTORS = gallery(1200)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("segment") / "built.base"
    write_base(path, HERE, [(KEYS, VECTORS)])
    return path


@pytest.fixture
def path(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(built, tmp_path / "gallery.base"))


def header_of(path: Path) -> dict:
    data = path.read_bytes()
    length = PREFIX.unpack_from(data)[2]
    return json.loads(data[PREFIX.size : PREFIX.size + length])


def read_all(path: Path) -> None:
    Base(path, HERE).scrub()


def test_what_was_written_is_read(path: Path) -> None:
    base = Base(path, replace(HERE, generation=8, token="eight"))
    assert base.position == HERE
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert np.array_equal(base.keys, KEYS)
    assert np.array_equal(base.vectors(np.arange(1200)), VECTORS)
    assert not base.scrubbed
    base.scrub()
    assert base.scrubbed


def test_a_flip_of_any_bit_is_noticed_before_it_is_used(path: Path) -> None:
    whole = path.read_bytes()
    header = header_of(path)
    used = [(0, PREFIX.size + len(json.dumps(header)) + 32)]
    used += [
        (section["offset"], section["offset"] + section["size"]) for section in header["sections"].values()
    ]
    random = np.random.default_rng(4)
    for start, end in used:
        for at in [start, end - 1, *random.integers(start, end, 40).tolist()]:
            damaged = bytearray(whole)
            damaged[at] ^= 1 << int(random.integers(8))
            path.write_bytes(damaged)
            with pytest.raises(SnapshotRejected):
                read_all(path)
    path.write_bytes(whole)
    read_all(path)


def test_a_damaged_vector_is_noticed_by_the_search_that_reads_it(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[header_of(path)["sections"]["vectors"]["offset"] + 720 * DIM * 4 + 2] ^= 1
    path.write_bytes(data)
    index = CompressedIndex(Base(path, HERE))
    # Another block is sound.
    assert index.search(VECTORS[3:4], 1, KEYS[:32]).scores.shape == (1, 1)
    for probes, allow in ((VECTORS[720:721], None), (VECTORS[:20], None), (VECTORS[:1], KEYS[719:722])):
        with pytest.raises(SnapshotRejected, match="damaged vectors"):
            index.search(probes, 3, allow)


def test_a_file_cut_anywhere_or_too_long_is_refused(path: Path) -> None:
    whole = path.read_bytes()
    sizes = [0, 1, 8, 100, 8191, 8192, 9000, len(whole) - 32, len(whole) - 1]
    for damaged in (*(whole[:size] for size in sizes), whole + b"\0", whole + whole):
        path.write_bytes(damaged)
        with pytest.raises(SnapshotRejected):
            read_all(path)


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (replace(HERE, uuid="c2"), "another collection"),
        (replace(HERE, model_id="m2"), "another model"),
        (replace(HERE, dim=DIM + 1), "another model"),
        (replace(HERE, generation=4), "ahead"),
        (replace(HERE, token="else"), "another history"),
    ],
)
def test_a_file_of_elsewhere_is_refused(path: Path, other: GalleryPosition, reason: str) -> None:
    with pytest.raises(SnapshotRejected, match=reason):
        Base(path, other)


def test_a_later_format_a_missing_file_and_a_folder_are_refused(path: Path, tmp_path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(MAGIC)] = 2
    path.write_bytes(data)
    with pytest.raises(SnapshotRejected, match="format version 2"):
        Base(path, HERE)
    for place in (tmp_path / "none", tmp_path):
        with pytest.raises(SnapshotRejected):
            Base(place, HERE)


def test_codes_of_another_layout_are_refused(path: Path) -> None:
    """As a release of FAISS with another order of nibbles would leave them: sealed, but not what it packs."""
    base = Base(path, HERE)
    section = header_of(path)["sections"]["codes"]
    codes = path.read_bytes()[section["offset"] : section["offset"] + section["size"]]
    swapped = np.frombuffer(codes, dtype=np.uint8)
    base._segment.overwrite([("codes", 0, ((swapped >> 4) | (swapped << 4)).astype(np.uint8).tobytes())])
    with pytest.raises(SnapshotRejected, match="layout"):
        Base(path, HERE)


def test_two_processes_erase_in_one_file(path: Path) -> None:
    """Each maps the file and knows the digests of before; the seals of both must hold."""
    mine, other = Base(path, HERE), Base(path, HERE)
    mine.erase(np.array([3, 900]))
    other.erase(np.array([4, 1199]))
    mine.erase(np.array([5]))
    base = Base(path, HERE)
    base.scrub()
    rows = np.array([3, 4, 5, 900, 1199])
    assert not base.vectors(rows).any()
    assert np.array_equal(base.vectors(np.setdiff1d(np.arange(1200), rows)), np.delete(VECTORS, rows, axis=0))
    other.scrub()


def killed_while_erasing(base: Base, writes: int) -> bool:
    """Whether a child process that dies (by SIGKILL) before its write number `writes` came to that."""
    child = os.fork()
    if child == 0:
        write, left = os.pwrite, writes

        def counted(*args: Any) -> int:
            nonlocal left
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1
            return write(*args)

        os.pwrite = counted
        try:
            base.erase(np.array([3, 900]))
            os._exit(0)
        finally:
            os._exit(1)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def test_an_erasure_that_is_killed_leaves_a_file_that_is_refused_or_whole(path: Path, built: Path) -> None:
    outcomes, writes = [], 0
    while True:
        shutil.copy(built, path)
        killed = killed_while_erasing(Base(path, HERE), writes)
        try:
            read_all(path)
            outcomes.append("untouched" if path.read_bytes() == built.read_bytes() else "erased")
        except SnapshotRejected:
            outcomes.append("refused")
        if not killed:
            break
        writes += 1
    assert writes > 4
    assert outcomes == ["untouched", *["refused"] * (writes - 1), "erased"]


def test_a_write_that_fails_leaves_the_old_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = hashlib.sha256(path.read_bytes()).digest()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("voicevault.index.segment.os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_base(path, HERE, [(KEYS, VECTORS)])
    assert hashlib.sha256(path.read_bytes()).digest() == before
    assert os.listdir(path.parent) == [path.name]


def test_a_reader_keeps_its_file_when_a_new_one_takes_the_path(path: Path) -> None:
    base = Base(path, HERE)
    assert base.is_current()
    write_base(path, replace(HERE, generation=6, token="six"), [(KEYS[:1100], VECTORS[:1100])])
    assert not base.is_current()
    base.scrub()
    assert np.array_equal(base.vectors(np.arange(1200)), VECTORS)
    assert Base(path, replace(HERE, generation=6, token="six")).count == 1100
    path.unlink()
    assert not base.is_current()


def test_a_lock_file_has_one_holder(tmp_path: Path) -> None:
    """And is its owner's alone, as all files are."""
    with claim(tmp_path / "lock") as first, claim(tmp_path / "lock") as second:
        assert (first, second) == (True, False)
        assert stat.S_IMODE((tmp_path / "lock").stat().st_mode) == 0o600
    with claim(tmp_path / "lock", wait=True) as third:
        assert third
