"""What is forgotten in SQLite leaves its files at once, and nobody else may read them."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from tests.store.conftest import DIM, make_embedding
from voicevault.store import Store

ADA = replace(make_embedding(1), audio=b"what ada said " * 1000)
TRACES = (ADA.vector.tobytes(), b"what ada said", b"ada.wav")
Forget = Callable[[Store], None]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A file database with ada, whose speech is kept, and bob."""
    with closing(Store(f"sqlite:///{tmp_path / 'v.db'}", lock_timeout=5)) as made:
        made.upgrade()
        made.create_collection("c", "m", DIM, keeps_audio=True)
        made.add_enrollment("c", "bob", make_embedding(2))
        made.add_enrollment("c", "ada", ADA, "ada.wav")
        yield made


def found(folder: Path) -> list[bytes]:
    content = b"".join(file.read_bytes() for file in sorted(folder.iterdir()))
    return [trace for trace in TRACES if trace in content]


@pytest.mark.parametrize(
    "forget",
    [
        lambda store: store.forget_speaker("c", "ada"),
        lambda store: store.forget_enrollment("c", "ada", store.enrollments("c", "ada")[0].id),
        lambda store: store.delete_collection("c"),
    ],
    ids=["speaker", "enrollment", "collection"],
)
def test_no_trace_is_left_while_the_database_is_open(store: Store, tmp_path: Path, forget: Forget) -> None:
    assert found(tmp_path) == list(TRACES)
    forget(store)
    assert found(tmp_path) == []


def test_an_erasure_does_not_wait_for_a_long_reader(store: Store, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "v.db", isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM speakers").fetchone()
        store.forget_speaker("c", "ada")
        assert found(tmp_path) != []  # the reader may still ask for it
    store.forget_speaker("c", "bob")
    assert found(tmp_path) == []


def test_only_the_owner_may_read_it(store: Store, tmp_path: Path) -> None:
    files = list(tmp_path.iterdir())
    assert {"v.db", "v.db-wal"} <= {file.name for file in files}
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}
