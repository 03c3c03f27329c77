"""The index of a collection: level with the database before every answer, whatever becomes of its file."""

from __future__ import annotations

import hashlib
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from voicevault.errors import CollectionNotFoundError
from voicevault.gallery import Galleries
from voicevault.store import NewEnrollment, Store
from voicevault.types import Embedding, Float32Array, IndexStats, Quality

DIM = 8


def unit(seed: int) -> Float32Array:
    vector = np.random.default_rng(seed).standard_normal(DIM)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def enroll(store: Store, *seeds: int) -> None:
    """A speaker `s<seed>` for each, all in one write."""
    rows = []
    for seed in seeds:
        sha = hashlib.sha256(str(seed).encode()).hexdigest()
        embedding = Embedding(unit(seed), "m", Quality(3.0, 2.5, -20.0, 0.0, None), sha, sha)
        rows.append(NewEnrollment(f"s{seed}", embedding))
    store.add_enrollments("c", rows)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'voicevault.db'}"
    create: Callable[[], str] = request.getfixturevalue("new_postgres_database")
    return create()


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    with closing(Store(url, lock_timeout=5)) as made:
        made.upgrade()
        made.create_collection("c", "m", DIM)
        yield made


def check(galleries: Galleries, store: Store, *seeds: int) -> None:
    """The index finds exactly these speakers, each at a cosine of 1 with its own voice."""
    index, position = galleries.current("c")
    assert index.generation >= position.generation == store.position("c").generation
    assert index.stats().vectors == len(seeds)
    if not seeds:
        assert index.search(unit(0)[None], 1).ids.shape == (1, 0)
        return
    found = index.search(np.stack([unit(seed) for seed in seeds]), 1, at_least=position.generation)
    names = store.names_of("c", found.ids[:, 0].tolist())
    assert [names[key][0] for key in found.ids[:, 0].tolist()] == [f"s{seed}" for seed in seeds]
    np.testing.assert_allclose(found.scores[:, 0], 1.0, atol=1e-5)


def file_of(folder: Path, store: Store) -> Path:
    return folder / f"{store.position('c').uuid}.index"


def holds(file: Path, seed: int) -> bool:
    """Whether the file has this voice in it, however it may be rounded."""
    data = file.read_bytes()
    for shift in range(4):
        numbers = np.frombuffer(data[shift : shift + (len(data) - shift) // 4 * 4], dtype="<f4")
        windows = np.lib.stride_tricks.sliding_window_view(numbers, DIM)
        if np.isclose(windows, unit(seed), rtol=0, atol=1e-5).all(axis=1).any():
            return True
    return False


def forbid_snapshots(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(collection: str) -> None:
        raise AssertionError("the index is read from the database anew")

    monkeypatch.setattr(store, "snapshot", refuse)


def test_two_processes_see_each_other(url: str, store: Store, tmp_path: Path) -> None:
    with closing(Store(url)) as other_store:
        mine, other = Galleries(store, tmp_path / "a"), Galleries(other_store, tmp_path / "b")
        check(mine, store)
        check(other, other_store)
        enroll(store, 1, 2)
        check(other, other_store, 1, 2)
        enroll(other_store, 3)
        check(mine, store, 1, 2, 3)
        other_store.forget_speaker("c", "s1")
        check(mine, store, 2, 3)
        enroll(store, 1)
        store.forget_speaker("c", "s2")
        check(other, other_store, 1, 3)
        check(mine, store, 1, 3)


def test_catching_up_reads_the_changes_alone(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(Galleries(store, tmp_path / "index")) as galleries:
        enroll(store, 1, 2, 3)
        check(galleries, store, 1, 2, 3)
        forbid_snapshots(store, monkeypatch)
        enroll(store, 4)
        store.forget_speaker("c", "s2")
        check(galleries, store, 1, 3, 4)


def test_a_saved_index_is_used_and_caught_up(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(Galleries(store, tmp_path / "index")) as galleries:
        enroll(store, 1, 2, 3)
        check(galleries, store, 1, 2, 3)
    assert file_of(tmp_path / "index", store).is_file()
    enroll(store, 4)
    store.forget_speaker("c", "s1")
    forbid_snapshots(store, monkeypatch)
    with closing(Galleries(store, tmp_path / "index")) as galleries:
        check(galleries, store, 2, 3, 4)


def test_a_damaged_or_deleted_file_costs_a_rebuild_and_no_answer(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "index"
    with closing(Galleries(store, folder)) as galleries:
        enroll(store, *range(20))
        check(galleries, store, *range(20))
    file = file_of(folder, store)
    whole = file.read_bytes()
    rng = np.random.default_rng(5)
    damaged = [whole[: len(whole) // 2], b"", b"not an index", whole + b"\0"]
    for place in [0, 8, 12, 40, *rng.integers(0, len(whole), 12).tolist(), len(whole) - 1]:
        flipped = bytearray(whole)
        flipped[place] ^= 1 << int(rng.integers(8))
        damaged.append(bytes(flipped))
    for data in damaged:
        file.write_bytes(data)
        caplog.clear()
        check(Galleries(store, folder), store, *range(20))
        assert "rebuilding" in caplog.text
    file.unlink()
    with closing(Galleries(store, folder)) as galleries:
        check(galleries, store, *range(20))
        assert not file.exists()
        enroll(store, 99)
        check(galleries, store, *range(20), 99)
    assert file.read_bytes() != whole


def test_a_folder_that_cannot_be_written(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    with closing(Galleries(store, tmp_path / "file" / "index")) as galleries:
        enroll(store, 1)
        check(galleries, store, 1)
    assert "cannot be written" in caplog.text


def test_what_was_forgotten_leaves_the_disk(store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "index"
    with closing(Galleries(store, folder)) as galleries:
        enroll(store, 1, 2)
        check(galleries, store, 1, 2)
    assert holds(file_of(folder, store), 1)
    with closing(Galleries(store, folder)) as galleries:
        store.forget_speaker("c", "s1")
        check(galleries, store, 2)
        assert not file_of(folder, store).exists()
    assert not holds(file_of(folder, store), 1)
    assert holds(file_of(folder, store), 2)


def test_what_another_process_forgot_is_not_saved_again(url: str, store: Store, tmp_path: Path) -> None:
    """A server that nobody asked since, and that ends now."""
    folder = tmp_path / "index"
    enroll(store, 1, 2)
    with closing(Store(url)) as other:
        server, command = Galleries(other, folder), Galleries(store, folder)
        check(server, other, 1, 2)
        store.forget_speaker("c", "s1")
        command.forget("c")
        command.close()
        server.close()
        assert not any(holds(file, 1) for file in folder.glob("*"))
        server = Galleries(other, folder)
        check(server, other, 2)
        uuid = store.position("c").uuid
        store.delete_collection("c")
        command.drop(uuid)
        server.close()
    assert not any(holds(file, 2) for file in folder.glob("*"))


def test_leftovers_of_a_killed_process_are_deleted(store: Store, tmp_path: Path) -> None:
    enroll(store, 1)
    file = file_of(tmp_path, store)
    uuid = store.position("c").uuid
    with closing(Galleries(store, tmp_path)) as galleries:
        torn = file.with_name(f"{file.name}.0123.tmp")
        torn.write_bytes(unit(1).tobytes())
        store.forget_speaker("c", "s1")
        galleries.forget("c")
        assert not torn.exists()
        others = [
            file.with_name(f"{uuid}{suffix}") for suffix in (".index", ".base", ".base.0123.tmp", ".lock")
        ]
        for other in others:
            other.write_bytes(b"")
        galleries.drop(uuid)
        assert not any(other.exists() for other in others)


def disconnect(store: Store) -> None:
    """As when a database is stopped: the next transaction connects anew."""
    store._engine.dispose()


def test_a_restored_backup(tmp_path: Path) -> None:
    """The database goes back to an earlier moment and on from there; no index may follow its old future."""
    folder, path, backup = tmp_path / "index", tmp_path / "v.db", tmp_path / "backup.db"
    url = f"sqlite:///{path}"
    with closing(Store(url)) as store:
        store.upgrade()
        store.create_collection("c", "m", DIM)
        enroll(store, 1, 2)
    shutil.copy(path, backup)
    held_store = Store(url)
    held = Galleries(held_store, tmp_path / "held")
    with closing(Store(url)) as store, closing(Galleries(store, folder)) as galleries:
        enroll(store, 3)
        enroll(store, 4)
        check(galleries, store, 1, 2, 3, 4)
        check(held, held_store, 1, 2, 3, 4)
    ahead = (folder / f"{held_store.position('c').uuid}.index").read_bytes()
    disconnect(held_store)

    def restore() -> None:
        for suffix in ("-wal", "-shm"):
            Path(f"{path}{suffix}").unlink(missing_ok=True)
        shutil.copy(backup, path)

    restore()  # the index is ahead of the database
    check(held, held_store, 1, 2)
    with closing(Store(url)) as store:
        check(Galleries(store, folder), store, 1, 2)
        enroll(store, 5)
        enroll(store, 6)  # as many writes as the other future had, but others
        check(held, held_store, 1, 2, 5, 6)
        enroll(store, 7)
    file = folder / f"{held_store.position('c').uuid}.index"
    file.write_bytes(ahead)  # generation and UUID would fit; its token is of the other future
    with closing(Store(url)) as store:
        check(Galleries(store, folder), store, 1, 2, 5, 6, 7)
    held_store.close()


def test_a_held_index_whose_future_was_taken_back(tmp_path: Path) -> None:
    """Same generation, other token, and the index has asked nothing in between."""
    path, backup = tmp_path / "v.db", tmp_path / "backup.db"
    store = Store(f"sqlite:///{path}")
    store.upgrade()
    store.create_collection("c", "m", DIM)
    enroll(store, 1)
    disconnect(store)
    shutil.copy(path, backup)
    galleries = Galleries(store, tmp_path / "index")
    enroll(store, 2)
    check(galleries, store, 1, 2)
    disconnect(store)
    for suffix in ("-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)
    shutil.copy(backup, path)
    enroll(store, 3)
    check(galleries, store, 1, 3)
    store.close()


def test_a_collection_made_anew_under_its_old_name(url: str, store: Store, tmp_path: Path) -> None:
    mine = Galleries(store, tmp_path / "a")
    enroll(store, 1, 2)
    check(mine, store, 1, 2)
    with closing(Store(url)) as other:
        other.delete_collection("c")
        with pytest.raises(CollectionNotFoundError):
            mine.current("c")
        other.create_collection("c", "m", DIM)
        check(mine, store)
        enroll(other, 3)
    check(mine, store, 3)


def test_a_collection_is_dropped_while_another_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        closing(Store(f"sqlite:///{tmp_path / 'voicevault.db'}")) as store,
        closing(Galleries(store, tmp_path / "index")) as galleries,
    ):
        store.upgrade()
        for name in ("dropped", "held", "opened"):
            store.create_collection(name, "m", DIM)
        galleries.current("dropped")
        index, _ = galleries.current("held")
        uuid, stats = store.delete_collection("dropped"), index.stats
        dropping = threading.Thread(target=galleries.drop, args=(uuid,))

        def slow() -> IndexStats:
            if dropping.ident is None:
                dropping.start()
                dropping.join(0.5)  # it waits for whoever goes through what is held
            return stats()

        monkeypatch.setattr(index, "stats", slow)
        galleries.current("opened")
        dropping.join()
        assert list(galleries._held) == [store.position(name).uuid for name in ("held", "opened")]


def test_many_readers_while_somebody_writes(url: str, store: Store, tmp_path: Path) -> None:
    """Each answer is at or behind what was committed before it was asked for, never before."""
    galleries = Galleries(store, tmp_path / "index")
    committed: list[int] = []
    failures: list[BaseException] = []
    done = threading.Event()
    answers = [0]

    def read() -> None:
        try:
            while not done.is_set():
                wanted = list(committed)
                index, position = galleries.current("c")
                if not wanted:
                    continue
                seed = wanted[-1]
                found = index.search(unit(seed)[None], 1, at_least=position.generation)
                assert store.names_of("c", found.ids[0].tolist())[found.ids[0, 0]][0] == f"s{seed}"
                answers[0] += 1
        except BaseException as error:
            failures.append(error)

    readers = [threading.Thread(target=read) for _ in range(4)]
    for reader in readers:
        reader.start()
    with closing(Store(url, lock_timeout=5)) as writer:
        for seed in range(30):
            enroll(writer, seed)
            committed.append(seed)
    done.set()
    for reader in readers:
        reader.join()
    assert failures == []
    assert answers[0] > 0
    check(galleries, store, *range(30))
