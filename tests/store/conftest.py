"""Both databases: SQLite in a temporary file, and a database of the session's PostgreSQL server per test."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from voicevault.store import Store
from voicevault.types import Embedding, Quality

DIM = 8
MakeUrl = Callable[[], str]
MakeEmbedding = Callable[..., Embedding]


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of an empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'folder' / 'voicevault.db'}"
    create: MakeUrl = request.getfixturevalue("new_postgres_database")
    return create()


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
