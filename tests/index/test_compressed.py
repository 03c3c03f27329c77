"""The compressed index answers as the exact one: filters, ties, writes, erasures and compactions included."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from tests.index.galleries import DIM, gallery, half_precision, probes_of, remove, unit, upsert
from voicevault.errors import IndexUnavailableError, RequestError
from voicevault.index import (
    Base,
    BuildStoppedError,
    CompressedIndex,
    Crew,
    Device,
    FlatIndex,
    can_compress,
    write_base,
)
from voicevault.index.codec import parts_of
from voicevault.types import Float32Array, GalleryPosition, Int64Array, VoiceIndex

HERE = GalleryPosition("c1", "m1", DIM, 9, "nine")
KEYS, VECTORS = gallery(6000)
PROBES = probes_of(VECTORS, 24)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("index") / "built.base"
    write_base(path, HERE, ((KEYS[at : at + 999], VECTORS[at : at + 999]) for at in range(0, 6000, 999)))
    return path


@pytest.fixture
def path(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(built, tmp_path / "gallery.base"))


@pytest.fixture(params=["one shard", "three shards", "device", "shy device"])
def index(
    path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[CompressedIndex]:
    """On one core, on three, and with a device that brings many rows or so few that the codes must often help."""
    monkeypatch.setattr("voicevault.index.codec._SHARD_BYTES", 1 << 10)
    cores = 3 if request.param == "three shards" else 1
    with (
        closing(Crew(cores)) as crew,
        closing(Device(half_precision, 100 if request.param == "shy device" else 2048)) as device,
    ):
        index = CompressedIndex(Base(path, HERE, crew))
        assert len(index.base._scanner._shards) == cores
        if request.param.endswith("device"):
            index.accelerate(device)
            assert index.stats().tier == "gpu"
        yield index


@pytest.fixture
def flat() -> FlatIndex:
    return FlatIndex.rebuild(HERE, KEYS, VECTORS)


def agree(
    index: VoiceIndex,
    flat: VoiceIndex,
    k: int,
    allow: Int64Array | None = None,
    probes: Float32Array = PROBES,
) -> None:
    expected = flat.search(probes, k, allow)
    together = index.search(probes, k, allow)
    assert np.array_equal(together.ids, expected.ids)
    assert np.array_equal(together.scores, expected.scores)
    for row, probe in enumerate(probes):
        one = index.search(probe[None], k, allow)
        assert np.array_equal(one.ids[0], expected.ids[row])
        assert np.array_equal(one.scores[0], expected.scores[row])


@pytest.mark.parametrize("k", [1, 10, 100, 6000, 7000])
def test_it_answers_as_the_exact_index(index: CompressedIndex, flat: FlatIndex, k: int) -> None:
    agree(index, flat, k)


def test_single_probes_are_answered_by_the_scan(
    index: CompressedIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the other tests would try nothing but the comparison row by row."""
    monkeypatch.setattr(CompressedIndex, "_compared", None)
    for probe in PROBES:
        assert index.search(probe[None], 10).ids.shape == (1, 10)


@pytest.mark.parametrize("allowed", [0, 1, 2, 50, 1000, 3000, 5999, 6000])
def test_a_filter_comes_before_the_best_k(index: CompressedIndex, flat: FlatIndex, allowed: int) -> None:
    random = np.random.default_rng(allowed)
    among = np.sort(random.choice(KEYS, allowed, replace=False))
    strange = np.array([-5, KEYS[-1] + 7])
    agree(index, flat, 10, among)
    agree(index, flat, 10, np.unique(np.concatenate([among, strange])))


def test_the_only_one_allowed_is_found_from_far(index: CompressedIndex, flat: FlatIndex) -> None:
    farthest = flat.search(PROBES[:1], 6000).ids[0, -1:]
    agree(index, flat, 5, farthest)
    agree(index, flat, 5, np.setdiff1d(KEYS, flat.search(PROBES[:1], 1).ids[0]))


@pytest.mark.parametrize("gone", [1, 700, 5000, 5995, 6000])
def test_the_nearest_are_removed(index: CompressedIndex, flat: FlatIndex, gone: int) -> None:
    nearest = flat.search(PROBES[:1], gone).ids[0].tolist()
    changes = [remove(10, key) for key in nearest]
    for each in (index, flat):
        each.apply(changes, 10, "ten")
    assert index.stats().vectors == 6000 - gone
    agree(index, flat, 10, probes=PROBES[:9])
    agree(index, flat, 10, KEYS[::2], probes=PROBES[:3])


def test_writes_take_effect_at_once(index: CompressedIndex, flat: FlatIndex) -> None:
    random = np.random.default_rng(3)
    for generation in range(10, 22):
        keys = random.choice(KEYS, 60, replace=False).tolist() + random.integers(20_000, 20_050, 20).tolist()
        changes = [
            remove(generation, key)
            if random.random() < 0.3
            else upsert(generation, key, VECTORS[random.integers(6000)])
            for key in dict.fromkeys(keys)
        ]
        for each in (index, flat):
            each.apply(changes, generation, f"t{generation}")
        assert (index.generation, index.token) == (generation, f"t{generation}")
        assert index.stats().vectors == flat.stats().vectors
        agree(index, flat, 10, probes=PROBES[:6])
    agree(index, flat, 10)
    index.apply([remove(12, int(KEYS[0]))], 12, "again")  # seen already
    agree(index, flat, 10, KEYS[:3000])


def test_between_two_slices_nothing_is_answered_or_compacted(index: CompressedIndex, flat: FlatIndex) -> None:
    voice, key = PROBES[0], int(KEYS[0])
    index.apply([upsert(10, key, voice)], 10, "t10", read_at=11)
    for ask in (lambda: index.search(PROBES, 1), index.captured):
        with pytest.raises(IndexUnavailableError, match="caught up"):
            ask()
    for each in (index, flat):
        each.apply([upsert(11, key, voice)], 11, "t11", read_at=11)
    agree(index, flat, 5)
    assert index.captured()[0].generation == 11


def test_a_bad_batch_changes_nothing(index: CompressedIndex, flat: FlatIndex) -> None:
    key = int(flat.search(PROBES[:1], 1).ids[0, 0])
    for bad in (upsert(10, 7, PROBES[0] * 2), upsert(11, 7, PROBES[0])):
        with pytest.raises(RequestError):
            index.apply([remove(10, key), bad], 10, "ten")
    assert (index.generation, index.changed) == (9, 0)
    agree(index, flat, 3, probes=PROBES[:3])


def test_thousands_of_equal_voices_come_in_order_of_their_ids(tmp_path: Path) -> None:
    vectors = VECTORS.copy()
    vectors[np.random.default_rng(5).permutation(6000)[:3000]] = VECTORS[0]
    write_base(tmp_path / "equal.base", HERE, [(KEYS, vectors)])
    index = CompressedIndex(Base(tmp_path / "equal.base", HERE))
    agree(index, FlatIndex.rebuild(HERE, KEYS, vectors), 10, probes=np.stack([VECTORS[0], *PROBES[:4]]))


def test_an_erasure_reaches_memory_and_file_and_leaves_the_rest(
    index: CompressedIndex, flat: FlatIndex, path: Path
) -> None:
    gone = KEYS[[5, 6, 4000, 5999]].tolist()
    replaced = int(KEYS[77])
    voices = [VECTORS[row].tobytes() for row in (5, 6, 4000, 5999, 77)]
    codes = [index.base._scanner.code(row) for row in (5, 77)]
    assert all(voice in path.read_bytes() for voice in voices)
    assert all(code.any() for code in codes)
    changes = [*(remove(10, key) for key in gone), upsert(10, replaced, PROBES[0])]
    for each in (index, flat):
        each.apply(changes, 10, "ten")
    index.erase()
    kept = path.read_bytes()
    for voice, others in zip(voices, [VECTORS[8], VECTORS[4001], VECTORS[78]], strict=False):
        # Copies of the voice belong to others and stay.
        copies = sum(row.tobytes() == voice for row in VECTORS) - 1
        assert kept.count(voice) == copies
        assert others.tobytes() in kept
    assert not any(index.base._scanner.code(row).any() for row in (5, 6, 77, 4000, 5999))
    agree(index, flat, 10)

    again = CompressedIndex(Base(path, HERE))
    again.base.scrub()
    # Opened, and not caught up yet: a compaction that starts now leaves the erased out, and the changes bring the rest.
    position, blocks = again.captured()
    write_base(path.with_name("early.base"), position, blocks)
    early = CompressedIndex(Base(path.with_name("early.base"), HERE))
    assert early.stats().vectors == len(KEYS) - 5
    early.apply(changes, 10, "ten")
    agree(early, flat, 10)
    again.apply(changes, 10, "ten")
    agree(again, flat, 10)


def test_a_compaction_is_the_index_anew(index: CompressedIndex, flat: FlatIndex, tmp_path: Path) -> None:
    changes = [
        *(remove(10, int(key)) for key in KEYS[:1500:3]),
        *(upsert(10, int(key), PROBES[0]) for key in KEYS[1:200:5]),
        *(upsert(10, key, vector) for key, vector in zip(range(-3, 9), PROBES, strict=False)),
        *(upsert(10, 99_000 + row, vector) for row, vector in enumerate(PROBES)),
    ]
    for each in (index, flat):
        each.apply(changes, 10, "ten")
    position, blocks = index.captured()
    # What comes meanwhile is not in it, but what is erased meanwhile is left out.
    meanwhile = [remove(11, int(KEYS[4])), upsert(11, int(KEYS[7]), PROBES[1])]
    index.apply(meanwhile, 11, "eleven")
    index.erase()
    write_base(tmp_path / "new.base", position, blocks)
    new = CompressedIndex(Base(tmp_path / "new.base", GalleryPosition("c1", "m1", DIM, 11, "eleven")))
    assert (new.generation, new.token, new.changed) == (10, "ten", 0)
    new.apply(meanwhile, 11, "eleven")
    flat.apply(meanwhile, 11, "eleven")
    agree(new, flat, 10)


@pytest.mark.parametrize("count", [1500, 1535, 1536, 1537, 2017])
def test_shards_hold_every_row_once(count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last block may be anybody's, and half empty."""
    monkeypatch.setattr("voicevault.index.codec._SHARD_BYTES", 1)
    write_base(tmp_path / "g.base", HERE, [(KEYS[:count], VECTORS[:count])])
    for cores in (1, 2, 5, 8):
        with closing(Crew(cores)) as crew:
            base = Base(tmp_path / "g.base", HERE, crew)
            shards = base._scanner.scan(PROBES[1], count, lambda scores, rows, least: (scores, rows, least))
            assert len(shards) == cores
            assert np.array_equal(np.sort(np.concatenate([rows for _, rows, _ in shards])), np.arange(count))
            assert all(least == -np.inf for _, _, least in shards)
            if cores == 1:
                whole = dict(zip(shards[0][1].tolist(), shards[0][0].tolist(), strict=True))
            for scores, rows, _ in shards:
                assert [whole[row] for row in rows.tolist()] == scores.tolist()
            # Of fewer, each shard brings its own best, and says what its others are not above.
            few = base._scanner.scan(PROBES[1], 300, lambda scores, rows, least: (scores, rows, least))
            for (scores, rows, least), (_, every, _) in zip(few, shards, strict=True):
                assert 300 // cores <= len(rows) < len(every)
                assert scores.min() == least
                assert all(whole[row] <= least for row in np.setdiff1d(every, rows).tolist())


def test_reads_see_whole_generations_while_rows_are_erased(index: CompressedIndex) -> None:
    """Each generation moves a hundred speakers to one new vector."""
    moved, places = KEYS[:3000:30].tolist(), unit(np.eye(DIM)[:7])
    index.apply([upsert(10, key, places[3]) for key in moved], 10, "t")
    done = threading.Event()
    failures: list[BaseException] = []

    def write() -> None:
        try:
            for generation in range(11, 60):
                index.apply(
                    [upsert(generation, key, places[generation % 7]) for key in moved], generation, "t"
                )
                index.erase()
        except BaseException as error:
            failures.append(error)
        finally:
            done.set()

    writer = threading.Thread(target=write)
    writer.start()
    allow, answers = np.array(moved), 0
    while not done.is_set() or not answers:
        found = index.search(places[:1], 100, allow)
        assert found.ids[0].tolist() == moved
        assert (found.scores == (1.0 if found.generation % 7 == 0 else 0.0)).all()
        answers += 1
    writer.join()
    assert not failures


def test_questions_that_make_no_sense_are_refused(index: CompressedIndex) -> None:
    for probes, k, allow in (
        (PROBES * 2, 1, None),
        (PROBES[:, 1:], 1, None),
        (PROBES, 0, None),
        (PROBES, 1, np.array([2, 1])),
    ):
        with pytest.raises(RequestError):
            index.search(probes, k, allow)
    with pytest.raises(IndexUnavailableError):
        index.search(PROBES, 1, at_least=10)
    assert index.search(PROBES[:0], 3).ids.shape == (0, 3)
    index.close()
    with pytest.raises(IndexUnavailableError):
        index.search(PROBES, 1)


def test_a_build_refuses_what_is_no_gallery_and_leaves_nothing(tmp_path: Path) -> None:
    for keys, vectors in ((KEYS[::-1], VECTORS), (KEYS, VECTORS * 2), (KEYS[:500], VECTORS[:500])):
        with pytest.raises(RequestError):
            write_base(tmp_path / "no.base", HERE, [(keys, vectors)])
    with pytest.raises(RequestError):
        write_base(tmp_path / "no.base", HERE, [(KEYS, VECTORS), (KEYS, VECTORS)])

    def counted() -> Iterator[bool]:
        yield from [False] * 2
        yield True

    asked = counted()
    with pytest.raises(BuildStoppedError):
        write_base(tmp_path / "no.base", HERE, [(KEYS, VECTORS)], lambda: next(asked))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("dim", "parts"), [(2, 1), (192, 96), (256, 128), (512, 256), (768, 256), (9, 3)])
def test_vectors_are_cut_evenly(dim: int, parts: int) -> None:
    assert parts_of(dim) == parts
    assert can_compress(1000, dim)
    assert not can_compress(999, dim)


def test_a_dimension_that_cannot_be_cut_stays_exact() -> None:
    assert parts_of(191) is None
    assert not can_compress(10**6, 191)


@pytest.mark.parametrize("dim", [9, 48, 256])
def test_other_dimensions(dim: int, tmp_path: Path) -> None:
    keys, vectors = gallery(2000, dim=dim)
    here = GalleryPosition("c", "m", dim, 1, "t")
    write_base(tmp_path / "g.base", here, [(keys, vectors)])
    agree(
        CompressedIndex(Base(tmp_path / "g.base", here)),
        FlatIndex.rebuild(here, keys, vectors),
        10,
        probes=probes_of(vectors, 9),
    )
