"""The flat index against a dictionary and counting, ties and duplicates included."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voicevault.errors import IndexUnavailableError, RequestError
from voicevault.index import FlatIndex
from voicevault.types import Change, Float32Array, GalleryPosition, Int64Array, Op

DIM = 12
HERE = GalleryPosition("c1", "m1", DIM, 9, "now")


def unit(rows: object) -> Float32Array:
    array = np.asarray(rows, dtype=np.float64)
    return (array / np.linalg.norm(array, axis=-1, keepdims=True)).astype(np.float32)


# Few distinct vectors: most searches meet duplicates, and ties at the border of k are the rule.
POOL = unit(np.random.default_rng(3).normal(size=(6, DIM)))


def upsert(generation: int, key: int, vector: Float32Array) -> Change:
    return Change(generation, f"t{generation}", key, Op.UPSERT, vector)


def remove(generation: int, key: int) -> Change:
    return Change(generation, f"t{generation}", key, Op.REMOVE, None)


def oracle(
    gallery: dict[int, Float32Array], probe: Float32Array, k: int, allow: Int64Array | None
) -> tuple[list[int], list[float]]:
    """Every product on its own, as a correctly rounded float32."""
    rows = [
        (float(np.clip(np.float32(np.sum(vector.astype(np.float64) * probe)), -1, 1)), key)
        for key, vector in gallery.items()
        if allow is None or key in set(allow.tolist())
    ]
    best = sorted(rows, key=lambda row: (-row[0], row[1]))[:k]
    return [key for _, key in best], [score for score, _ in best]


def agree(index: FlatIndex, gallery: dict[int, Float32Array], k: int, allow: Int64Array | None) -> None:
    found = index.search(POOL, k, allow)
    assert found.ids.dtype == np.int64
    assert found.scores.dtype == np.float32
    for row, probe in enumerate(POOL):
        ids, scores = oracle(gallery, probe, k, allow)
        assert found.ids[row].tolist() == ids
        assert found.scores[row].tolist() == scores


# A batch is one generation; None removes.
batches = st.lists(
    st.lists(st.tuples(st.integers(-5, 60), st.none() | st.integers(0, len(POOL) - 1)), max_size=30),
    max_size=6,
)
filters = st.none() | st.sets(st.integers(-8, 70)).map(lambda ids: np.array(sorted(ids), dtype=np.int64))


@settings(deadline=None)
@given(batches, st.integers(1, 80), filters)
def test_any_history_answers_like_a_dictionary(
    history: list[list[tuple[int, int | None]]], k: int, allow: Int64Array | None
) -> None:
    index, gallery, log = FlatIndex(HERE), dict[int, Float32Array](), list[Change]()
    for generation, batch in enumerate(history, start=1):
        for key, which in batch:
            if which is None:
                gallery.pop(key, None)
                log.append(remove(generation, key))
            else:
                gallery[key] = POOL[which]
                log.append(upsert(generation, key, POOL[which]))
        index.apply(log, generation, f"t{generation}")  # the whole log each time: seen rows are ignored
        assert index.generation == generation
        assert index.token == f"t{generation}"
        # Between the writes too: a search may leave something behind that the next write must undo.
        agree(index, gallery, k, allow)
    agree(index, gallery, k, allow)
    assert index.stats().vectors == len(gallery)

    at_once = FlatIndex(HERE)
    at_once.apply(log, len(history), "t")
    agree(at_once, gallery, k, allow)
    keys = np.array(list(gallery), dtype=np.int64)
    vectors = np.array(list(gallery.values()), dtype=np.float32).reshape(-1, DIM)
    agree(FlatIndex.rebuild(HERE, keys, vectors), gallery, k, allow)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 50))
def test_near_ties_in_a_large_gallery_are_ordered_exactly(seed: int, k: int) -> None:
    random = np.random.default_rng(seed)
    base = unit(random.normal(size=(1, 192)))
    vectors = unit(base + random.normal(0, 1e-5, size=(3000, 192)))
    vectors[random.integers(0, 3000, 200)] = vectors[0]
    keys = random.permutation(10_000)[:3000]
    index = FlatIndex.rebuild(GalleryPosition("c", "m", 192, 1, "t"), keys, vectors)
    allow = np.unique(random.choice(keys, 1000))
    for among in (None, allow):
        expected = oracle(dict(zip(keys.tolist(), vectors, strict=True)), base[0], k, among)
        for times in (1, 25):  # few and many probes take different ways through FAISS
            found = index.search(np.repeat(base, times, axis=0), k, among)
            assert (found.ids[-1].tolist(), found.scores[-1].tolist()) == expected


def test_an_answer_does_not_depend_on_batch_place_or_filter() -> None:
    random = np.random.default_rng(5)
    vectors, probes = unit(random.normal(size=(500, DIM))), unit(random.normal(size=(40, DIM)))
    keys = np.arange(500)
    index = FlatIndex.rebuild(HERE, keys, vectors)
    turned = FlatIndex.rebuild(HERE, keys[::-1], vectors[::-1])
    whole = index.search(probes, 7)
    for other in (turned.search(probes, 7), index.search(probes, 7, keys)):
        assert np.array_equal(other.ids, whole.ids)
        assert np.array_equal(other.scores, whole.scores)
    for row, probe in enumerate(probes):
        assert np.array_equal(index.search(probe[None], 7).scores[0], whole.scores[row])


def test_filtered_blocks_are_merged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("voicevault.index.flat.Nearest.block", lambda probes: 7)
    gallery = {key: POOL[key % 6] for key in range(100)}
    index = FlatIndex.rebuild(HERE, np.arange(100), np.array(list(gallery.values())))
    monkeypatch.setattr("voicevault.index.flat.PRODUCT_BATCH", 2)
    agree(index, gallery, 9, np.arange(3, 95, dtype=np.int64))
    agree(index, gallery, 9, None)


def test_an_empty_answer_has_its_shape() -> None:
    index = FlatIndex(HERE)
    assert index.search(POOL, 5).ids.shape == (6, 0)
    index.apply([upsert(1, 4, POOL[0])], 1, "a")
    assert index.search(POOL, 5, np.array([3, 5])).scores.shape == (6, 0)
    assert index.search(POOL[:0], 5).ids.shape == (0, 1)
    assert index.search(POOL, 5, np.empty(0, dtype=np.int64)).ids.shape == (6, 0)


def test_old_generations_change_nothing() -> None:
    index = FlatIndex(HERE)
    index.apply([upsert(3, 1, POOL[0])], 3, "three")
    index.apply([remove(2, 1)], 2, "two")
    index.apply([remove(3, 1)], 3, "other")
    index.apply([remove(3, 1), upsert(4, 2, POOL[1])], 4, "four")
    assert index.search(POOL[:1], 5).ids.tolist() == [[1, 2]]
    assert (index.generation, index.token, index.search(POOL, 1).generation) == (4, "four", 4)


def test_a_bad_batch_changes_nothing() -> None:
    index = FlatIndex(HERE)
    index.apply([upsert(1, 1, POOL[0])], 1, "one")
    good = upsert(2, 2, POOL[1])
    bad_vectors = [POOL[0] * 2, POOL[0] * np.nan, POOL[0][:-1], np.zeros(DIM, dtype=np.float32)]
    bad = [
        *([good, upsert(2, 3, vector)] for vector in bad_vectors),
        [good, Change(2, "t", 3, Op.UPSERT, None)],
        [good, upsert(3, 3, POOL[0])],
        [upsert(2, 2, POOL[1]), upsert(1, 3, POOL[0])],
    ]
    for changes in bad:
        with pytest.raises(RequestError):
            index.apply(changes, 2, "two")
        assert (index.generation, index.stats().vectors) == (1, 1)


def test_questions_that_make_no_sense_are_refused() -> None:
    index = FlatIndex.rebuild(HERE, np.arange(6), POOL)
    for probes in (POOL[0], POOL[:, :-1], POOL * 1.1, POOL * np.nan):
        with pytest.raises(RequestError):
            index.search(probes, 1)
    for allow in (np.array([2, 1]), np.array([1, 1]), np.array([[1]]), np.array([1.0])):
        with pytest.raises(RequestError):
            index.search(POOL, 1, allow)
    with pytest.raises(RequestError):
        index.search(POOL, 0)


def test_a_rebuild_refuses_what_is_no_gallery() -> None:
    for keys, vectors in ((np.zeros(6), POOL), (np.arange(5), POOL), (np.arange(6), POOL * 0)):
        with pytest.raises(RequestError):
            FlatIndex.rebuild(HERE, keys, vectors)


def test_a_rebuild_keeps_its_own_copy() -> None:
    vectors = POOL.copy()
    index = FlatIndex.rebuild(HERE, np.arange(6), vectors)
    vectors[:] = 0
    assert index.search(POOL[:1], 1).scores[0, 0] == pytest.approx(1)
    assert (index.generation, index.token) == (9, "now")


def test_an_index_that_lies_behind_or_is_closed_does_not_answer() -> None:
    index = FlatIndex.rebuild(HERE, np.arange(6), POOL)
    assert index.search(POOL, 1, at_least=9).generation == 9
    with pytest.raises(IndexUnavailableError):
        index.search(POOL, 1, at_least=10)
    index.close()
    index.close()
    with pytest.raises(IndexUnavailableError):
        index.search(POOL, 1)
    with pytest.raises(IndexUnavailableError):
        index.apply([], 10, "ten")


def test_between_two_slices_nothing_is_answered_or_saved(tmp_path: Path) -> None:
    """The first slice was read when key 1 had the voice that it got by the second one."""
    index = FlatIndex(HERE)
    index.apply([upsert(1, 1, POOL[0]), upsert(1, 2, POOL[0])], 1, "one")
    index.apply([upsert(2, 1, POOL[2])], 2, "two", read_at=4)
    index.apply([upsert(2, 1, POOL[1])], 2, "two", read_at=2)  # a thread that read earlier and comes later
    for ask in (
        lambda: index.search(POOL[:1], 1),
        lambda: index.search(POOL[:1], 1, at_least=1),
        lambda: index.save(tmp_path / "file"),
        index.captured,
    ):
        with pytest.raises(IndexUnavailableError, match="caught up") as caught:
            ask()
        assert caught.value.facts == {"generation": 2, "at_least": 4}
    index.apply([upsert(3, 2, POOL[3])], 3, "three", read_at=3)
    with pytest.raises(IndexUnavailableError):
        index.captured()
    index.apply([upsert(4, 1, POOL[2])], 4, "four", read_at=4)
    found = index.search(POOL[2:3], 2)
    assert (found.ids.tolist(), found.generation) == ([[1, 2]], 4)
    index.save(tmp_path / "file")
    assert index.captured()[0].generation == 4


def test_readers_only_ever_see_whole_generations() -> None:
    """Each generation moves every key to one vector of the pool: mixed answers would have unequal scores."""
    index, done = FlatIndex(HERE), Event()
    index.apply([upsert(1, key, POOL[1]) for key in range(50)], 1, "t1")

    def read() -> int:
        answers = 0
        while not done.is_set() or not answers:
            found = index.search(POOL, 50, np.arange(0, 50, 2) if answers % 2 else None)
            for row in found.scores:
                assert (row == row[0]).all()
            expected = POOL[found.generation % 6].astype(np.float64) @ POOL[0]
            assert found.scores[0, 0] == pytest.approx(expected, abs=1e-6)
            answers += 1
        return answers

    with ThreadPoolExecutor(4) as pool:
        readers = [pool.submit(read) for _ in range(4)]
        try:
            for generation in range(2, 150):
                keys = range(50)
                index.apply([upsert(generation, key, POOL[generation % 6]) for key in keys], generation, "t")
        finally:
            done.set()
        assert all(reader.result(timeout=60) for reader in readers)


def test_faiss_is_loaded_by_the_first_search_only() -> None:
    code = "import sys, voicevault.index; assert 'faiss' not in sys.modules and 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
