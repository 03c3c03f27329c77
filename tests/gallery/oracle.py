"""A database with a gallery large enough for every tier, and the dictionary that says what is right."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from sqlalchemy import create_engine, text

from tests.index.galleries import DIM, gallery, probes_of, unit
from voicevault.gallery import Galleries, Limits
from voicevault.store import NewEnrollment, Store
from voicevault.store.enrollments import fuse
from voicevault.types import DuplicatePolicy, Embedding, Float32Array, Int64Array, Quality

COUNT = 5200
POOL = np.concatenate([gallery(COUNT, seed=8)[1], unit(np.random.default_rng(9).normal(size=(50, DIM)))])
"""Voices that speakers are given. The first COUNT are enrolled at the start."""
PROBES = probes_of(POOL, 30)
TIERS = {
    "exact": Limits(compress_from=1 << 40),
    "compressed": Limits(compress_from=4000, compact_after=1 << 40, compact_share=1 << 10),
}


class Oracle:
    """Which speaker has which voice, by counting."""

    def __init__(self) -> None:
        self.keys = np.empty(0, dtype=np.int64)
        self.vectors: dict[int, Float32Array] = {}
        self.names: dict[str, int] = {}

    def copy(self) -> Oracle:
        made = Oracle()
        made.vectors, made.names = dict(self.vectors), dict(self.names)
        return made

    def enroll(self, store: Store, voices: dict[str, int]) -> None:
        """Gives each speaker the voice of that number in the pool, in one write, whoever had which before."""
        quality = Quality(3.0, 2.5, -20.0, 0.0, None)
        rows = []
        for name, voice in voices.items():
            sha = hashlib.sha256(
                name.encode()
            ).hexdigest()  # one recording each, so that a new one replaces it
            rows.append(NewEnrollment(name, Embedding(POOL[voice], "m", quality, sha, sha)))
        store.add_enrollments("c", rows, policy=DuplicatePolicy.REPLACE)
        if any(name not in self.names for name in voices):
            engine = create_engine(store.url)
            with engine.connect() as database:
                found = database.execute(text("SELECT public_id, key FROM speakers"))
                self.names = {str(name): int(key) for name, key in found}
            engine.dispose()
        for name, voice in voices.items():
            self.vectors[self.names[name]] = fuse([POOL[voice]])

    def forget(self, store: Store, name: str) -> None:
        store.forget_speaker("c", name)
        del self.vectors[self.names.pop(name)]

    def check(
        self, galleries: Galleries, probes: Float32Array, k: int, allow: Int64Array | None = None
    ) -> None:
        """The answers are those of counting: the same ids, the same scores, ties by id."""
        found, size = galleries.search("c", probes, k, allow)
        keys = np.array(sorted(self.vectors), dtype=np.int64)
        vectors = np.array([self.vectors[key] for key in keys.tolist()], dtype=np.float32).reshape(-1, DIM)
        assert size == len(keys)
        if allow is not None:
            among = np.isin(keys, allow)
            keys, vectors = keys[among], vectors[among]
        for row, probe in enumerate(probes):
            products = (vectors.astype(np.float64) * probe).sum(axis=1)
            scores = np.clip(products.astype(np.float32), -1, 1)
            order = np.lexsort((keys, -scores))[:k]
            assert found.ids[row].tolist() == keys[order].tolist()
            np.testing.assert_allclose(found.scores[row], scores[order], atol=1e-5, rtol=0)

    def filters(self, names: Iterable[str]) -> Int64Array:
        return np.unique(np.array([self.names[name] for name in names if name in self.names], dtype=np.int64))


def start(folder: Path, url: str | None = None) -> Oracle:
    """An empty database (None is a new one in `folder`) gets the first COUNT voices; `folder` index files for both
    tiers."""
    oracle = Oracle()
    store = Store(url or url_of(folder))
    store.upgrade()
    store.create_collection("c", "m", DIM)
    for at in range(0, COUNT, 1300):
        oracle.enroll(store, {f"s{voice}": voice for voice in range(at, min(at + 1300, COUNT))})
    for tier, limits in TIERS.items():
        galleries = Galleries(store, folder / tier, limits)
        galleries.current("c")
        galleries.close()
    store.close()
    return oracle


def url_of(folder: Path) -> str:
    return f"sqlite:///{folder / 'voicevault.db'}"
