"""What happens to indexes in the background, between processes, and when one is killed at the worst moment."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.gallery.oracle import PROBES, TIERS, Oracle, start, url_of
from voicevault.errors import CollectionNotFoundError
from voicevault.gallery import Galleries, Limits, files
from voicevault.index import CompressedIndex, Crew, FlatIndex, claim
from voicevault.store import Store

COMPRESSED = TIERS["compressed"]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Oracle]:
    folder = tmp_path_factory.mktemp("upkeep")
    return folder, start(folder)


@pytest.fixture
def place(template: tuple[Path, Oracle], tmp_path: Path) -> Path:
    shutil.copytree(template[0], tmp_path, dirs_exist_ok=True)
    return tmp_path


@pytest.fixture
def oracle(template: tuple[Path, Oracle]) -> Oracle:
    return template[1].copy()


@pytest.fixture
def store(place: Path) -> Iterator[Store]:
    with closing(Store(url_of(place))) as opened:
        yield opened


def eventually(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end, "it does not come about"
        time.sleep(0.02)


def base_of(galleries: Galleries) -> int:
    """The generation of the base that answers."""
    index = galleries.current("c")[0]
    assert isinstance(index, CompressedIndex)
    return index.base.position.generation


def test_the_tier_follows_the_size(place: Path, store: Store, oracle: Oracle) -> None:
    limits = Limits(compress_from=5190, compact_after=10)
    folder = place / "exact"
    with closing(Galleries(store, folder, limits)) as galleries:
        # Found exact in its file, and large: compressed in the background, while it answers.
        eventually(lambda: isinstance(galleries.current("c")[0], CompressedIndex))
        assert {file.suffix for file in folder.iterdir()} == {".base", ".lock"}
        oracle.check(galleries, PROBES, 5)
        for name in [f"s{number}" for number in range(20)]:
            oracle.forget(store, name)
        oracle.check(galleries, PROBES, 5)
        assert isinstance(
            galleries.current("c")[0], CompressedIndex
        )  # not at the first speaker below the border
    with closing(Galleries(store, folder, Limits(compress_from=20_000))) as galleries:
        eventually(lambda: isinstance(galleries.current("c")[0], FlatIndex))
        assert {file.suffix for file in folder.iterdir()} == {".index", ".lock"}
        oracle.check(galleries, PROBES, 5)


def test_it_compacts_by_itself_and_the_other_process_takes_that_over(
    place: Path, store: Store, oracle: Oracle
) -> None:
    limits = Limits(compress_from=4000, compact_after=100, compact_share=0)
    folder = place / "compressed"
    with closing(Galleries(store, folder, limits)) as one, closing(Galleries(store, folder, limits)) as other:
        first = base_of(one)
        assert base_of(other) == first
        oracle.enroll(store, {f"n{number}": number for number in range(150)})
        oracle.check(one, PROBES[:2], 5)
        eventually(lambda: base_of(one) > first)
        written = next(folder.glob("*.base")).stat()
        oracle.check(other, PROBES[:2], 5)
        eventually(lambda: base_of(other) == base_of(one))
        assert os.path.samestat(next(folder.glob("*.base")).stat(), written)  # read, not written again
        oracle.check(one, PROBES, 5)
        oracle.check(other, PROBES, 5)


def test_what_became_due_within_the_pause_is_done_without_another_change(
    place: Path, store: Store, oracle: Oracle
) -> None:
    limits = Limits(compress_from=4000, compact_after=100, compact_share=0)
    with closing(Galleries(store, place / "compressed", limits)) as galleries:
        first = base_of(galleries)
        (held,) = galleries._held.values()
        held.upkeep_after = time.monotonic() + 0.5  # as after a try
        oracle.enroll(store, {f"n{number}": number for number in range(150)})
        oracle.check(galleries, PROBES[:2], 5)
        assert base_of(galleries) == first
        eventually(lambda: base_of(galleries) > first)
        eventually(lambda: base_of(galleries) > first and not held.upkeep_put_off)


def test_answers_are_right_while_it_compacts_and_writes_go_on(
    place: Path, store: Store, oracle: Oracle
) -> None:
    limits = Limits(compress_from=4000, compact_after=150, compact_share=0)
    with closing(Galleries(store, place / "compressed", limits)) as galleries:
        bases = {base_of(galleries)}
        for turn in range(12):
            oracle.enroll(store, {f"n{turn * 50 + number}": turn * 50 + number for number in range(50)})
            oracle.forget(store, f"s{turn}")
            oracle.check(galleries, PROBES[turn : turn + 3], 5)
            bases.add(base_of(galleries))
        eventually(lambda: base_of(galleries) not in bases or len(bases) > 1)
        oracle.check(galleries, PROBES, 5)


def test_what_is_forgotten_leaves_the_file_before_the_call_returns(
    place: Path, store: Store, oracle: Oracle
) -> None:
    # Voices of which the gallery has one copy only.
    folder = place / "compressed"
    data = next(folder.glob("*.base")).read_bytes()
    voices = {name: oracle.vectors[key].tobytes() for name, key in oracle.names.items()}
    single = [name for name in list(voices)[:200] if data.count(voices[name]) == 1][:2]
    for name in single:
        with closing(Galleries(store, folder, COMPRESSED)) as galleries:  # as a command of its own
            oracle.forget(store, name)
            galleries.forget("c")
            assert voices[name] not in next(folder.glob("*.base")).read_bytes()
            assert galleries.rebuilds == 0
    with closing(Galleries(store, folder, COMPRESSED)) as galleries:
        oracle.check(galleries, PROBES, 5)
        assert galleries.rebuilds == 0


def test_an_erasure_waits_for_no_compaction(place: Path, store: Store, oracle: Oracle) -> None:
    """Of a process that learns of the removal from the database, while its other thread is busy."""
    folder, release = place / "compressed", threading.Event()
    path = next(folder.glob("*.base"))
    data, name = path.read_bytes(), "s3"
    voice = oracle.vectors[oracle.names[name]].tobytes()
    copies = data.count(voice)
    with closing(Galleries(store, folder, COMPRESSED)) as galleries:
        galleries.current("c")
        galleries._background.later("upkeep", lambda: release.wait(60) and None)
        try:
            oracle.forget(store, name)
            oracle.check(galleries, PROBES[:1], 5)
            eventually(lambda: path.read_bytes().count(voice) == copies - 1)
        finally:
            release.set()


def test_damage_found_by_a_search_or_in_the_background_costs_a_rebuild(
    place: Path, store: Store, oracle: Oracle, caplog: pytest.LogCaptureFixture
) -> None:
    path = next((place / "compressed").glob("*.base"))
    data = bytearray(path.read_bytes())
    data[8192 + 300_000] ^= 1
    path.write_bytes(data)
    with (
        closing(Galleries(store, place / "compressed", COMPRESSED)) as galleries,
        caplog.at_level(logging.WARNING),
    ):
        oracle.check(galleries, PROBES, 5)
        eventually(lambda: galleries.rebuilds == 1 and not galleries.rebuilding)
        oracle.check(galleries, PROBES, 5)
    assert "damaged vectors; rebuilding" in caplog.text
    with closing(Galleries(store, place / "compressed", COMPRESSED)) as galleries:
        oracle.check(galleries, PROBES[:3], 5)
        assert galleries.rebuilds == 0


@pytest.mark.parametrize(
    ("tier", "read_by", "shows"), [("compressed", "stream", True), ("exact", "snapshot", False)]
)
def test_a_rebuild_of_a_large_gallery_shows_while_it_runs(
    tier: str, read_by: str, shows: bool, place: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A small one must not make a service that answers everything else look unready."""
    seen, read = [], getattr(store, read_by)

    def watched(collection: str) -> object:
        seen.append(galleries.rebuilding)
        return read(collection)

    monkeypatch.setattr(store, read_by, watched)
    with closing(Galleries(store, place / "new", TIERS[tier])) as galleries:
        assert galleries.current("c")[0].stats().vectors > 5000
        assert seen == [shows]
        assert not galleries.rebuilding


def test_whoever_waits_to_build_has_no_transaction_open(
    place: Path, store: Store, oracle: Oracle, monkeypatch: pytest.MonkeyPatch
) -> None:
    streams, stream = [], store.stream
    monkeypatch.setattr(store, "stream", lambda name: (streams.append(name), stream(name))[1])
    folder, uuid = place / "new", store.position("c").uuid
    folder.mkdir()
    with closing(Galleries(store, folder, COMPRESSED)) as galleries:
        asking = threading.Thread(target=galleries.current, args=("c",))
        with claim(folder / f"{uuid}.lock") as mine:
            assert mine
            asking.start()
            eventually(lambda: galleries.rebuilding)
            time.sleep(0.05)
            assert not streams
            # As if the gallery had shrunk meanwhile.
            monkeypatch.setattr("voicevault.gallery.files.can_compress", lambda *_: False)
        asking.join()
        assert streams == ["c"]
        assert isinstance(galleries.current("c")[0], FlatIndex)
        oracle.check(galleries, PROBES[:5], 5)


def test_a_folder_that_is_somebody_elses_is_read_and_no_more(
    place: Path,
    store: Store,
    oracle: Oracle,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder = place / "compressed"
    lock = folder / f"{store.position('c').uuid}.lock"
    lock.unlink(missing_ok=True)
    lock.mkdir()  # which not even root can open for writing
    opened = Path.open

    def read_only(path: Path, mode: str = "r", *more: Any, **options: Any) -> Any:
        if path.parent == folder and mode != "rb":
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return opened(path, mode, *more, **options)

    monkeypatch.setattr(Path, "open", read_only)
    limits = Limits(compress_from=4000, compact_after=10, compact_share=0)
    with closing(Galleries(store, folder, limits)) as galleries, caplog.at_level(logging.WARNING):
        oracle.check(galleries, PROBES, 5)
        assert galleries.rebuilds == 0
        oracle.enroll(store, {f"n{number}": number for number in range(20)})
        oracle.check(galleries, PROBES, 5)
        eventually(lambda: "cannot be written" in caplog.text)  # by the compaction that is due now
        oracle.check(galleries, PROBES, 5)
    assert "the upkeep of an index failed" not in caplog.text


@pytest.mark.parametrize("work", ["build", "compaction", "change of tier"])
def test_a_collection_that_is_deleted_while_its_file_is_written_leaves_none(
    place: Path, store: Store, monkeypatch: pytest.MonkeyPatch, work: str
) -> None:
    """By another process, which deletes the files before there is one."""
    folder, uuid = place / ("new" if work == "build" else "compressed"), store.position("c").uuid
    write = "save_flat" if work == "change of tier" else "write_base"
    written = {"write_base": files.write_base, "save_flat": FlatIndex.save}[write]

    def late(*arguments: Any) -> None:
        with closing(Store(url_of(place))) as other:
            other.delete_collection("c")
        files.IndexFiles(store, folder, COMPRESSED, threading.Event(), Crew(1)).drop(uuid)
        written(*arguments)

    if write == "write_base":
        monkeypatch.setattr(files, write, late)
    else:
        monkeypatch.setattr(FlatIndex, "save", late)
    limits = Limits() if work == "change of tier" else COMPRESSED
    with closing(Galleries(store, folder, limits)) as galleries:
        with pytest.raises(CollectionNotFoundError):
            (galleries.current if work == "build" else galleries.compact)("c")
        assert not [file for file in folder.iterdir() if file.suffix != ".lock"]


def test_many_collections_are_opened_lazily_and_let_go_of(tmp_path: Path, oracle: Oracle) -> None:
    limits = Limits(open_most=8)
    with (
        closing(Store(url_of(tmp_path))) as store,
        closing(Galleries(store, tmp_path / "i", limits)) as galleries,
    ):
        store.upgrade()
        for number in range(60):
            store.create_collection(f"c{number}", "m", PROBES.shape[1])
        threads, files = threading.active_count(), len(os.listdir("/proc/self/fd"))
        for number in [*range(60), *range(20)]:
            galleries.current(f"c{number}")
            assert len(galleries._held) <= 8
        assert threading.active_count() <= threads + 2
        assert len(os.listdir("/proc/self/fd")) <= files + 4
        recent = [galleries._store.position(f"c{number}").uuid for number in range(12, 20)]
        assert list(galleries._held) == recent


def test_memory_is_bounded_too(place: Path, store: Store) -> None:
    store.create_collection("other", "m", PROBES.shape[1])
    with closing(Galleries(store, place / "exact", Limits(bytes_most=500_000))) as galleries:
        galleries.current("c")
        galleries.current("other")
        assert list(galleries._held) == [store.position("other").uuid]


KILLED = """
import os, signal, sys
from pathlib import Path
from tests.gallery.oracle import TIERS
from voicevault.gallery import Galleries
from voicevault.store import Store

url, folder, name, count = sys.argv[1:]
left = int(count)
real = getattr(os, name)
def counted(*args, **more):
    global left
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    left -= 1
    return real(*args, **more)
galleries = Galleries(Store(url), Path(folder), TIERS["compressed"])
galleries.current("c")
setattr(os, name, counted)
galleries.compact("c")
"""


@pytest.mark.parametrize(("call", "count"), [("fsync", 0), ("replace", 0), ("fsync", 1)])
def test_a_compaction_that_is_killed_costs_nothing(
    place: Path, store: Store, oracle: Oracle, call: str, count: int
) -> None:
    """Before the file is whole; before it has its name; before the folder is on the disk."""
    folder = place / "compressed"
    oracle.enroll(store, {f"n{number}": number for number in range(150)})
    oracle.forget(store, "s7")
    run = subprocess.run(
        [sys.executable, "-c", KILLED, url_of(place), str(folder), call, str(count)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert run.returncode == -signal.SIGKILL, run.stderr
    with closing(Galleries(store, folder, COMPRESSED)) as galleries:
        oracle.check(galleries, PROBES, 5)
        assert galleries.rebuilds == 0
        assert not list(folder.glob("*.tmp"))
        galleries.compact("c")
        assert base_of(galleries) == store.position("c").generation
        oracle.check(galleries, PROBES, 5)
    assert not list(folder.glob("*.tmp"))


WORKER = """
import sys
import time
from pathlib import Path
from tests.gallery.oracle import PROBES, Oracle
from voicevault.gallery import Galleries, Limits
from voicevault.store import Store

url, folder, number = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
store = Store(url, lock_timeout=60)
galleries = Galleries(store, folder, Limits(compress_from=4000, compact_after=60, compact_share=0))
oracle = Oracle()
for turn in range(10):
    mine = {f"w{number}-{turn}-{row}": (number * 500 + turn * 20 + row) for row in range(20)}
    oracle.enroll(store, mine)
    oracle.forget(store, f"w{number}-{turn}-0")
    galleries.forget("c")
    index, position = galleries.current("c")
    # What this process wrote it finds at once.
    for name in list(mine)[1:6]:
        key = oracle.names[name]
        found = index.search(oracle.vectors[key][None], 3000)
        assert key in found.ids[0].tolist(), (turn, name)
        assert found.scores[0, found.ids[0].tolist().index(key)] > 0.999
# A second passes between two tries to compact, and all turns may be over before the second try; a change occasions one.
end = time.monotonic() + 120
while galleries.current("c")[0].base.position.generation == 4:
    assert time.monotonic() < end, "nobody compacts"
    oracle.enroll(store, {f"again{number}": number})
    oracle.forget(store, f"again{number}")
    time.sleep(0.2)
galleries.close()
store.close()
"""


def test_several_processes_write_search_and_compact_one_gallery(
    place: Path, store: Store, oracle: Oracle
) -> None:
    folder = place / "compressed"
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, url_of(place), str(folder), str(number)],
            cwd=Path(__file__).parents[2],
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(3)
    ]
    for worker in workers:
        _, errors = worker.communicate(timeout=200)
        assert worker.returncode == 0, errors
        assert "Traceback" not in errors, errors
    _, keys, vectors = store.snapshot("c")
    assert len(keys) == 5200 + 3 * 10 * 19
    oracle.vectors = dict(zip(keys.tolist(), vectors, strict=True))
    with closing(Galleries(store, folder, COMPRESSED)) as galleries:
        oracle.check(galleries, PROBES, 5)
        assert galleries.rebuilds == 0
        assert base_of(galleries) > 4


def test_the_new_index_is_not_behind_its_own_writes(place: Path, store: Store, oracle: Oracle) -> None:
    """A write that commits while the new base is being written is in the first answer from it."""
    with closing(Galleries(store, place / "compressed", COMPRESSED)) as galleries:
        galleries.current("c")
        writer = threading.Thread(
            target=lambda: [oracle.enroll(store, {f"n{turn}": turn}) for turn in range(12)]
        )
        writer.start()
        galleries.compact("c")
        writer.join()
        oracle.check(galleries, np.concatenate([PROBES[:3], *[oracle.vectors[oracle.names["n3"]][None]]]), 5)


def test_approximate_search_is_opt_in_and_for_large_galleries_that_it_is_faster_for(
    place: Path, store: Store, oracle: Oracle
) -> None:
    uuid, folder = store.collection("c").uuid, place / "compressed"
    wanted = replace(COMPRESSED, approximate_recall=0.8, approximate_from=4000, approximate_cost=np.inf)
    # Not asked for; too small; no faster, as lists of so few are.
    for limits in (
        replace(wanted, approximate_recall=None),
        replace(wanted, approximate_from=1_000_000),
        replace(wanted, approximate_cost=Limits().approximate_cost),
    ):
        with closing(Galleries(store, folder, limits)) as galleries:
            galleries.current("c")
            for thread in ("upkeep", "lists"):
                galleries._background._threads.setdefault(thread, ThreadPoolExecutor(1)).submit(int).result()
            oracle.check(galleries, PROBES, 5)
            found, _ = galleries.search("c", PROBES[:1], 5)
            assert found.approximate is None and galleries.approximation(uuid) is None
    with closing(Galleries(store, folder, wanted)) as galleries:
        galleries.current("c")
        eventually(lambda: galleries.approximation(uuid) is not None)
        stated = galleries.approximation(uuid)
        assert stated is not None and stated.recall_at_1 >= 0.8
        found, _ = galleries.search("c", PROBES[:1], 5)
        assert found.approximate == stated
        key = found.ids[0, 0]
        name = next(name for name, other in oracle.names.items() if other == key)
        oracle.forget(store, name)
        assert key not in galleries.search("c", PROBES[:1], 5)[0].ids
        galleries.compact("c")  # its successor is exact until it has lists of its own
        eventually(lambda: galleries.search("c", PROBES[:1], 5)[0].approximate is not None)
        assert key not in galleries.search("c", PROBES[:1], 5)[0].ids
        oracle.check(galleries, PROBES[:3], 5, oracle.filters(list(oracle.names)[:300]))
