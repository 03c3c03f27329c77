"""Saved files: what was written, or refused."""

from __future__ import annotations

import os
import stat
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from voicevault.index import FlatIndex, SnapshotRejected
from voicevault.index.snapshot import MAGIC, write_snapshot
from voicevault.types import Change, GalleryPosition, Op

HERE = GalleryPosition("c1", "m1", 8, 5, "five")


@pytest.fixture
def index() -> FlatIndex:
    rows = np.random.default_rng(2).normal(size=(7, 8))
    vectors = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return FlatIndex.rebuild(HERE, np.arange(10, 17), vectors)


@pytest.fixture
def path(index: FlatIndex, tmp_path: Path) -> Path:
    index.save(tmp_path / "gallery.index")
    return tmp_path / "gallery.index"


def probes() -> np.ndarray:
    return np.eye(8, dtype=np.float32)


def test_a_loaded_index_answers_alike_and_goes_on(index: FlatIndex, path: Path) -> None:
    loaded = FlatIndex.load(path, replace(HERE, generation=6, token="six"))
    assert (loaded.generation, loaded.token) == (5, "five")
    before, after = index.search(probes(), 7), loaded.search(probes(), 7)
    assert np.array_equal(before.ids, after.ids)
    assert np.array_equal(before.scores, after.scores)
    changes = [Change(6, "six", 10, Op.REMOVE, None), Change(6, "six", 99, Op.UPSERT, probes()[0])]
    loaded.apply(changes, 6, "six")
    assert loaded.search(probes()[:1], 1).ids.tolist() == [[99]]
    assert os.listdir(path.parent) == [path.name]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_room_to_grow_is_not_saved(tmp_path: Path) -> None:
    index = FlatIndex(HERE)
    index.apply([Change(5, "five", 1, Op.UPSERT, probes()[0])], 5, "five")
    index.save(tmp_path / "one")
    assert FlatIndex.load(tmp_path / "one", HERE).search(probes(), 5).ids.shape == (8, 1)


def test_an_empty_index_is_saved_too(tmp_path: Path) -> None:
    position = replace(HERE, generation=0, token="")
    FlatIndex(position).save(tmp_path / "empty")
    assert FlatIndex.load(tmp_path / "empty", position).stats().vectors == 0


def test_a_flip_of_any_bit_is_refused(path: Path) -> None:
    whole = path.read_bytes()
    for at in range(len(whole)):
        damaged = bytearray(whole)
        damaged[at] ^= 1 << at % 8
        path.write_bytes(damaged)
        with pytest.raises(SnapshotRejected):
            FlatIndex.load(path, HERE)


def test_a_file_cut_anywhere_or_too_long_is_refused(path: Path) -> None:
    whole = path.read_bytes()
    for damaged in (*(whole[:size] for size in range(len(whole))), whole + b"\0", whole + whole):
        path.write_bytes(damaged)
        with pytest.raises(SnapshotRejected):
            FlatIndex.load(path, HERE)


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (replace(HERE, uuid="c2"), "another collection"),
        (replace(HERE, model_id="m2"), "another model"),
        (replace(HERE, dim=9), "another model"),
        (replace(HERE, generation=4), "ahead"),
        (replace(HERE, token="else"), "another history"),
    ],
)
def test_a_file_of_elsewhere_is_refused(path: Path, other: GalleryPosition, reason: str) -> None:
    with pytest.raises(SnapshotRejected, match=reason):
        FlatIndex.load(path, other)


def test_a_later_format_is_refused(path: Path) -> None:
    whole = bytearray(path.read_bytes())
    whole[len(MAGIC)] = 2
    path.write_bytes(whole)
    with pytest.raises(SnapshotRejected, match="format version 2"):
        FlatIndex.load(path, HERE)


def test_what_was_written_whole_but_is_no_gallery_is_refused(path: Path) -> None:
    write_snapshot(path, HERE, np.array([1, 1]), np.eye(8, dtype=np.float32)[:2])
    with pytest.raises(SnapshotRejected, match="no gallery"):
        FlatIndex.load(path, HERE)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for place in (tmp_path / "none", tmp_path):
        with pytest.raises(SnapshotRejected):
            FlatIndex.load(place, HERE)


def test_a_save_that_fails_leaves_the_old_file(
    index: FlatIndex, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("voicevault.index.snapshot.os.fsync", full)
    index.apply([], 6, "six")
    with pytest.raises(OSError, match="No space"):
        index.save(path)
    assert FlatIndex.load(path, HERE).generation == 5
    assert os.listdir(path.parent) == [path.name]
