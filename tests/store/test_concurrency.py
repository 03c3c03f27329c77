"""Writers in several processes, one reader that follows the change log: the row lock lets it miss nothing."""

from __future__ import annotations

import multiprocessing
import random
import time
from collections.abc import Callable
from contextlib import closing
from multiprocessing.synchronize import Event
from typing import Any

import numpy as np
import pytest
from sqlalchemy.orm import Session

from tests.store.conftest import make_embedding
from voicevault.errors import DatabaseBusyError
from voicevault.store import NewEnrollment, Store
from voicevault.store.database import Write
from voicevault.types import Op

WRITERS, WRITES = 4, 20
Spans = list[tuple[float, float]]


class SlowStore(Store):
    """Holds each write open for a moment, as a loaded machine does."""

    def _take_generation(self, session: Session, collection: str) -> Write:
        write = super()._take_generation(session, collection)
        time.sleep(random.random() * 0.004)
        return write


class UnlockedStore(SlowStore):
    """The mutant: the same generation, taken in a transaction of its own: no lock lasts until the commit."""

    def _take_generation(self, session: Session, collection: str) -> Write:
        with self._unordered() as other:
            write = Store._take_generation(self, other, collection)
        write.session = session
        time.sleep(random.random() * 0.02)
        return write


def write_many(kind: type[Store], url: str, number: int, go: Event, spans: Any) -> None:
    with closing(kind(url, lock_timeout=30)) as store:
        store.collections()
        go.wait()
        mine: Spans = []
        for n in range(WRITES):
            begun = time.monotonic()
            if n % 5 == 4:
                store.forget_speaker("c", f"w{number}-{n - 1}")
            else:
                seed = number * 1000 + n
                store.add_enrollments("c", [NewEnrollment(f"w{number}-{n}", make_embedding(seed))])
            mine.append((begun, time.monotonic()))
        spans.put(mine)


def overlap(spans: Spans) -> int:
    """How many writes were under way at once, at most."""
    edges = sorted([(begin, 1) for begin, _ in spans] + [(end, -1) for _, end in spans])
    depth = most = 0
    for _, step in edges:
        depth += step
        most = max(most, depth)
    return most


def follow_writers(kind: type[Store], url: str) -> tuple[set[int], int]:
    """Runs the writers and a reader; -> generations of which the reader saw a change, and overlap."""
    with closing(Store(url, lock_timeout=30)) as store:
        store.upgrade()
        store.create_collection("c", "m", 8)
        context = multiprocessing.get_context("spawn")
        go, spans = context.Event(), context.Queue()
        writers = [
            context.Process(target=write_many, args=(kind, url, n, go, spans), daemon=True)
            for n in range(WRITERS)
        ]
        for writer in writers:
            writer.start()
        time.sleep(1.5)  # most writers are up by now; the others join in
        go.set()
        seen: list[int] = []
        gallery: dict[int, Any] = {}
        at = reads = 0
        deadline = time.monotonic() + 60
        finished = False
        while not finished:
            assert time.monotonic() < deadline, "the writers do not end"
            finished = not any(writer.is_alive() for writer in writers)  # before the last read, not after it
            position, changes = store.changes("c", at)
            at, reads = changes[-1].generation if changes else at, reads + 1
            # Without the lock a generation shows before its change, or behind a later one.
            assert kind is UnlockedStore or at == position.generation
            seen.extend(change.generation for change in changes)
            for change in changes:
                if change.op is Op.UPSERT:
                    gallery[change.key] = change.vector
                else:
                    gallery.pop(change.key, None)
        assert [writer.exitcode for writer in writers] == [0] * WRITERS
        most = overlap([span for _ in writers for span in spans.get(timeout=5)])
        assert len(seen) == len(set(seen)), "no change is told twice"
        written = {change.generation for change in store.changes("c", 0)[1]}
        assert written == set(range(1, WRITERS * WRITES + 1)), "each write left its change"
        print(f"\n{kind.__name__}: {len(seen)} of {len(written)} writes seen, {reads} reads, overlap {most}")
        if len(seen) == len(written):
            _, keys, vectors = store.snapshot("c")
            assert sorted(gallery) == keys.tolist()
            np.testing.assert_array_equal(np.array([gallery[key] for key in sorted(gallery)]), vectors)
        return set(seen), most


def test_a_reader_misses_nothing(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        seen, most = follow_writers(SlowStore, url)
    assert seen == set(range(1, WRITERS * WRITES + 1))
    assert most >= 2, "the writers never overlapped: nothing was proven"


def test_without_the_lock_the_reader_misses_writes(
    new_postgres_database: Callable[[], str], capsys: pytest.CaptureFixture[str]
) -> None:
    with capsys.disabled():
        seen, most = follow_writers(UnlockedStore, new_postgres_database())
    assert most >= 2
    assert len(seen) < WRITERS * WRITES, "the test above cannot tell a lock from none"


def test_a_lock_that_is_held_is_reported(store: Store) -> None:
    url = store.url.render_as_string(hide_password=False)
    with closing(Store(url, lock_timeout=0.2)) as other, store._writing("c"):
        with pytest.raises(DatabaseBusyError):
            other.create_speaker("c", "x")
        assert other.position("c").generation == 0, "readers do not wait for writers"
    store.create_speaker("c", "x")
    assert store.position("c").generation == 2
