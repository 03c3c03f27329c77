"""Approximate search: its recall is what it says, and all else is as in the exact way."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from math import inf
from pathlib import Path

import numpy as np
import pytest

from tests.index.galleries import DIM, gallery, probes_of, remove, unit, upsert
from voicevault.index import Base, BuildStoppedError, CompressedIndex, Crew, FlatIndex, write_base
from voicevault.index.calibration import K
from voicevault.index.flat import PRODUCT_BATCH
from voicevault.index.lists import promising_rank
from voicevault.types import Float32Array, GalleryPosition

HERE = GalleryPosition("c1", "m1", DIM, 9, "nine")
KEYS = gallery(6000)[0]
VECTORS = unit(np.random.default_rng(3).normal(size=(6000, DIM)) * np.linspace(1.5, 0.5, DIM))
"""Without copies: whoever has one in the gallery is no stranger."""
PROBES = probes_of(VECTORS, 15)
RECALL = 0.8


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lists") / "gallery.base"
    write_base(path, HERE, [(KEYS, VECTORS)])
    return path


@pytest.fixture(params=[1, 2], ids=["one core", "two cores"])
def index(request: pytest.FixtureRequest, path: Path, tmp_path: Path) -> Iterator[CompressedIndex]:
    own = tmp_path / "own.base"  # an erasure writes to it
    own.write_bytes(path.read_bytes())
    with closing(Crew(request.param)) as crew:
        made = CompressedIndex(Base(own, HERE, crew))
        made.approximate(RECALL, inf)
        yield made


def weak_probes(count: int, seed: int) -> Float32Array:
    random = np.random.default_rng(seed)
    own = VECTORS[random.integers(0, len(VECTORS), count)].astype(np.float64)
    aside = random.normal(size=own.shape) * np.linspace(1.5, 0.5, DIM)
    aside -= (aside * own).sum(axis=1, keepdims=True) * own
    cosine = random.uniform(0.35, 0.55, (count, 1))
    return unit(cosine * own + np.sqrt(1 - cosine**2) * unit(aside))


def test_the_recall_it_states_is_that_of_other_probes_of_the_kind(index: CompressedIndex) -> None:
    stated = index.approximation
    assert stated is not None
    assert RECALL <= stated.recall_at_1 < 1
    assert 1 <= stated.nprobe < stated.nlist // 2
    strangers = unit(np.random.default_rng(5).normal(size=(800, DIM)) * np.linspace(1.5, 0.5, DIM))
    probes = np.concatenate([strangers, weak_probes(800, 6)])
    exact = VECTORS.astype(np.float64) @ probes.astype(np.float64).T
    first, ten = [], []
    for number, probe in enumerate(probes):
        found = index.search(probe[None], 10)
        assert found.approximate == stated
        best = np.sort(exact[:, number])[::-1][:10]
        first.append(found.scores[0, 0] >= best[0] - 1e-6)
        ten.append(np.mean(found.scores[0] >= best[9] - 1e-6))
    # Four standard deviations of the difference of two such shares; of the kind that finds less.
    at_1, at_10 = (np.mean(np.reshape(found, (2, -1)), axis=1).min() for found in (first, ten))
    assert at_1 == pytest.approx(stated.recall_at_1, abs=0.085)
    assert at_10 == pytest.approx(stated.recall_at_10, abs=0.085)
    assert at_1 >= RECALL - 0.02  # it was promised with 95 % confidence


def test_scores_and_order_are_those_of_the_exact_index(index: CompressedIndex) -> None:
    flat = FlatIndex.rebuild(HERE, KEYS, VECTORS)
    found = index.search(PROBES, 10)
    assert found.approximate is not None
    every = flat.search(PROBES, len(KEYS))
    for row in range(len(PROBES)):
        places = [np.flatnonzero(every.ids[row] == key)[0] for key in found.ids[row]]
        assert places == sorted(places)
        assert np.array_equal(every.scores[row, places], found.scores[row])


def test_a_higher_recall_reads_more_lists(index: CompressedIndex) -> None:
    before = index.approximation
    index.approximate(0.97, inf)
    after = index.approximation
    assert before is not None and after is not None
    assert after.nprobe > before.nprobe and after.recall_at_1 >= 0.97


def test_without_it_all_is_exact(path: Path) -> None:
    index = CompressedIndex(Base(path, HERE))
    found = index.search(PROBES[:3], 10)
    assert found.approximate is None and index.approximation is None
    assert np.array_equal(found.ids, FlatIndex.rebuild(HERE, KEYS, VECTORS).search(PROBES[:3], 10).ids)


def test_allow_lists_batches_and_deep_searches_are_exact(index: CompressedIndex) -> None:
    flat = FlatIndex.rebuild(HERE, KEYS, VECTORS)
    many = np.concatenate([PROBES, PROBES])
    assert len(many) >= PRODUCT_BATCH
    for probes, k, allow in (
        (PROBES, 10, KEYS[::2]),
        (PROBES, 3, KEYS[7:12]),
        (PROBES, 2, KEYS[:0]),
        (many, 10, None),
        (PROBES[:2], K + 1, None),
        (PROBES[:2], len(KEYS), None),
    ):
        found, expected = index.search(probes, k, allow), flat.search(probes, k, allow)
        assert found.approximate is None
        assert np.array_equal(found.ids, expected.ids)
        assert np.array_equal(found.scores, expected.scores)


def test_who_was_removed_or_replaced_does_not_appear(index: CompressedIndex) -> None:
    probe = PROBES[:1]
    gone = FlatIndex.rebuild(HERE, KEYS, VECTORS).search(probe, 2000).ids[0]  # most of what its lists hold
    elsewhere = unit(-probe[0])
    removed, replaced = gone[:-5], gone[-5:]
    changes = [remove(10 + at, int(key)) for at, key in enumerate(removed)]
    changes += [upsert(3000 + at, int(key), elsewhere) for at, key in enumerate(replaced)]
    index.apply(changes, 3004, "t3004")
    left = ~np.isin(KEYS, gone)
    expected = FlatIndex.rebuild(HERE, KEYS[left], VECTORS[left]).search(probe, len(KEYS))
    scores = dict(zip(expected.ids[0].tolist(), expected.scores[0].tolist(), strict=True))
    for erased in (False, True):
        if erased:
            index.erase()
        found = index.search(probe, 10)
        assert found.approximate is not None
        assert [scores[key] for key in found.ids[0].tolist()] == found.scores[0].tolist()
        newest = index.search(elsewhere[None], 5)  # what was added is found, exactly
        assert set(newest.ids[0]) == set(replaced.tolist())


def test_an_erasure_reaches_the_codes(index: CompressedIndex) -> None:
    lists = index._lists
    assert lists is not None
    row = 1234
    number = int(lists._numbers[row])

    def code() -> bytes:
        place, block = lists._block(number, row)
        return bytes(lists._packer.unpack_1(block, place))

    assert any(code())
    index.apply([remove(10, int(KEYS[row]))], 10, "t10")
    index.erase()
    assert not any(code())
    assert index.approximation is not None  # the others are still there


def test_who_goes_while_lists_are_made_is_not_in_them(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "own.base"
    own.write_bytes(path.read_bytes())
    index = CompressedIndex(Base(own, HERE))
    best = int(index.search(PROBES[:1], 1).ids[0, 0])
    done: list[bool] = []

    def during() -> bool:
        if not done:
            done.append(True)
            index.apply([remove(10, best)], 10, "t10")
            index.erase()
        return False

    index.approximate(RECALL, inf, during)
    found = index.search(PROBES[:1], 5)
    assert found.approximate is not None and best not in found.ids


def test_a_build_can_be_stopped(path: Path) -> None:
    index = CompressedIndex(Base(path, HERE))
    with pytest.raises(BuildStoppedError):
        index.approximate(RECALL, inf, lambda: True)
    assert index.approximation is None


def test_where_it_gains_nothing_or_cannot_be_promised_all_stays_exact(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    index = CompressedIndex(Base(path, HERE))
    for recall, worth, reason in (
        (RECALL, 0.85, "times as long as an exact search"),
        (0.999, inf, "cannot be promised"),
    ):
        caplog.clear()
        index.approximate(recall, worth)
        assert reason in caplog.text and "answers stay exact" in caplog.text
        assert index.approximation is None and index.search(PROBES[:1], 5).approximate is None


def test_a_recall_that_codes_spoil_is_not_claimed(
    path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = Base(path, HERE)
    # Candidates too few by far: what the lists hold is not what a search finds.
    base.calibration = replace(base.calibration, margin=-1.0, depth=11)
    index = CompressedIndex(base)
    index.approximate(0.97, inf)
    assert "answers stay exact" in caplog.text and index.approximation is None


@pytest.mark.parametrize("recall", [0.5, 0.8, 0.9, 0.95, 0.98, 0.99])
def test_what_is_promised_holds_with_95_percent_confidence(recall: float) -> None:
    rank = promising_rank(512, recall)
    assert rank is not None
    # The chance that so many of 512 are found although no more than `recall` of all are.
    found = np.random.default_rng(1).binomial(512, recall, 100_000)
    assert 0.02 < np.mean(found >= rank) < 0.06
    assert promising_rank(512, 0.999) is None
