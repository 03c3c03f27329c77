"""Half-precision copies: exact by their margin, on one thread, let go of where they fail or hold what is erased.

The copy is a CPU index of the same precision; `find_gpu` alone is not tried where there is no GPU.
"""

from __future__ import annotations

import gc
import logging
import threading
import weakref
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.index.galleries import DIM, gallery, half_precision, probes_of, remove, unit, upsert
from voicevault.index import Base, CompressedIndex, Device, FlatIndex, find_gpu, write_base
from voicevault.types import GalleryPosition

HERE = GalleryPosition("c1", "m1", DIM, 9, "nine")
KEYS, VECTORS = gallery(3000)
PROBES = probes_of(VECTORS, 24)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("half") / "gallery.base"
    write_base(path, HERE, [(KEYS, VECTORS)])
    return path


@pytest.fixture
def index(path: Path) -> CompressedIndex:
    return CompressedIndex(Base(path, HERE))


@pytest.fixture
def device() -> Iterator[Device]:
    with closing(Device(half_precision)) as made:
        yield made


def agree(index: CompressedIndex, flat: FlatIndex) -> None:
    for probes in (PROBES, PROBES[:1]):
        found, expected = index.search(probes, 10), flat.search(probes, 10)
        assert np.array_equal(found.ids, expected.ids)
        assert np.array_equal(found.scores, expected.scores)


@pytest.mark.parametrize("dim", [2, 32, 192, 768])
def test_products_are_within_the_margin(device: Device, dim: int) -> None:
    """Also where every component is rounded by as much as can be, in one direction."""
    random = np.random.default_rng(dim)
    worst = np.full((4, dim), (1 + 2.0**-11) * 2.0 ** np.floor(-0.5 * np.log2(dim)))
    vectors = np.concatenate([unit(random.normal(size=(500, dim))), worst.astype(np.float32)])
    copy = device.copy([vectors[:100], vectors[100:]], dim)
    rough, rows = copy._index.search(vectors, len(vectors))
    exact = np.take_along_axis(vectors.astype(np.float64) @ vectors.astype(np.float64).T, rows, axis=1)
    assert np.abs(rough - exact).max() <= copy._margin
    assert np.abs(rough - exact).max() > 1e-6  # it is no copy in full


def test_candidates_suffice_or_say_that_they_do_not(device: Device) -> None:
    copy = device.copy([VECTORS], DIM)
    exact = VECTORS.astype(np.float64) @ PROBES.astype(np.float64).T
    for depth in (10, 17, 3000):
        certain, probes, rows = copy.candidates(PROBES, 10, depth, lambda rows: rows % 3 > 0)
        assert certain.all() == (depth == 3000)
        assert certain.any() == (depth > 10)
        assert (np.diff(probes) >= 0).all()
        assert set(probes.tolist()) == set(np.flatnonzero(certain).tolist())
        for probe in np.flatnonzero(certain):
            mine = rows[probes == probe]
            assert (mine % 3 > 0).all()
            least = np.sort(exact[np.arange(3000) % 3 > 0, probe])[-10]
            assert set(np.flatnonzero((exact[:, probe] >= least) & (np.arange(3000) % 3 > 0))) <= set(
                mine.tolist()
            )


def test_the_device_answers(index: CompressedIndex, device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    index.accelerate(device)
    monkeypatch.setattr(CompressedIndex, "_scanned", None)
    agree(index, FlatIndex.rebuild(HERE, KEYS, VECTORS))
    assert index.search(PROBES, 3, KEYS[::2]).ids.shape == (len(PROBES), 3)


def test_one_thread_does_all_the_work_of_the_device(index: CompressedIndex) -> None:
    """The last reference included, which may be let go of anywhere."""
    seen: set[int] = set()

    class Watched:
        def __init__(self, dim: int) -> None:
            self.d, self._index = dim, half_precision(dim)
            seen.add(threading.get_ident())
            weakref.finalize(self, lambda: seen.add(threading.get_ident()))

        @property
        def ntotal(self) -> int:
            return int(self._index.ntotal)

        def add(self, rows: Any) -> None:
            seen.add(threading.get_ident())
            self._index.add(rows)

        def search(self, points: Any, depth: int) -> Any:
            seen.add(threading.get_ident())
            return self._index.search(points, depth)

    ends: list[bool] = []
    with closing(Device(Watched)) as device:
        index.accelerate(device)
        weakref.finalize(index._copy._index, lambda: ends.append(True))  # type: ignore[union-attr]
        searches = [threading.Thread(target=index.search, args=(PROBES, 3)) for _ in range(4)]
        for search in searches:
            search.start()
        for search in searches:
            search.join()
        index.close()
        gc.collect()
        device.run(lambda: None)
        assert ends
        assert len(seen) == 1
        assert threading.get_ident() not in seen


@pytest.mark.parametrize("when", ["copying", "searching"])
def test_a_device_that_fails_is_let_go_of(
    index: CompressedIndex, when: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Failing:
        def __init__(self, dim: int) -> None:
            self.d, self.ntotal = dim, 3000

        def add(self, rows: Any) -> None:
            if when == "copying":
                raise RuntimeError("out of memory")

        def search(self, points: Any, depth: int) -> Any:
            raise RuntimeError("fell off the bus")

    with closing(Device(Failing)) as device, caplog.at_level(logging.WARNING):
        index.accelerate(device)
        assert index.accelerated == (when == "searching")
        agree(index, FlatIndex.rebuild(HERE, KEYS, VECTORS))
        assert not index.accelerated
    assert ("out of memory" if when == "copying" else "fell off the bus") in caplog.text


def test_a_copy_does_not_outlive_an_erasure(tmp_path: Path, device: Device) -> None:
    write_base(tmp_path / "g.base", HERE, [(KEYS, VECTORS)])
    index, flat = CompressedIndex(Base(tmp_path / "g.base", HERE)), FlatIndex.rebuild(HERE, KEYS, VECTORS)
    index.accelerate(device)
    changes = [remove(10, int(KEYS[7])), upsert(10, int(KEYS[9]), PROBES[1])]
    for each in (index, flat):
        each.apply(changes, 10, "ten")
    assert index.accelerated
    agree(index, flat)
    index.erase()
    assert not index.accelerated
    agree(index, flat)
    index.accelerate(device)
    assert index.accelerated
    agree(index, flat)

    class Slow(Device):
        """Somebody is erased while the copy is made."""

        def copy(self, *args: Any) -> Any:
            made = super().copy(*args)
            index.apply([remove(11, int(KEYS[30]))], 11, "eleven")
            index.erase()
            return made

    with closing(Slow(half_precision)) as slow:
        index.accelerate(slow)
        assert not index.accelerated
        index.accelerate(device)
        assert index.accelerated
    flat.apply([remove(11, int(KEYS[30]))], 11, "eleven")
    agree(index, flat)


def test_a_gpu_is_found_where_faiss_sees_one() -> None:
    import faiss

    device = find_gpu()
    assert (device is not None) == (faiss.get_num_gpus() > 0)
    if device is not None:
        copy = device.copy([VECTORS], DIM)
        assert copy.candidates(PROBES, 10, 64, None)[0].any()
