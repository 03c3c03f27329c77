"""Random lives of a gallery, in several processes' indexes on one database, against counting: identical answers."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import hypothesis.strategies as st
import numpy as np
import psycopg
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from psycopg import sql
from sqlalchemy import make_url

from tests.gallery.oracle import COUNT, POOL, PROBES, TIERS, Oracle, start, url_of
from tests.index.galleries import half_precision
from voicevault.errors import VoicevaultError
from voicevault.gallery import Galleries
from voicevault.index import CompressedIndex, Device, FlatIndex
from voicevault.store import Store
from voicevault.types import Float32Array, GalleryPosition, Int64Array, SearchResult

EXAMPLES = int(os.environ.get("VOICEVAULT_SOAK", "8"))
"""Lives per tier: a few in the ordinary run; `make soak` sets thousands."""

names = st.integers(0, COUNT + 60).map(lambda number: f"s{number}")
voices = st.integers(0, len(POOL) - 1)
who = st.integers(0, 1)


@pytest.fixture(autouse=True)
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a gallery of a million on three cores, and after large imports."""
    monkeypatch.setattr("voicevault.index.codec._SHARD_BYTES", 1 << 12)
    monkeypatch.setattr("voicevault.gallery.galleries.available_cores", lambda: 3)
    monkeypatch.setattr("voicevault.store.gallery.SLICE", 16)


@dataclass
class Template:
    """The start of every life: a folder with index files, what is in them, and databases with the same.

    Attributes:
        database: Takes the folder of a life, into which `folder` was copied; gives the URL of its database, as long as
            it lives.
    """

    folder: Path
    oracle: Oracle
    database: Callable[[Path], AbstractContextManager[str]]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Template:
    folder = tmp_path_factory.mktemp("congruence")
    return Template(folder, start(folder), lambda life: nullcontext(url_of(life)))


@pytest.fixture(scope="module")
def on_postgres(
    tmp_path_factory: pytest.TempPathFactory, postgres: str, new_postgres_database: Callable[[], str]
) -> Template:
    folder, url = tmp_path_factory.mktemp("congruence"), new_postgres_database()
    oracle = start(folder, url)
    original = str(make_url(url).database)

    @contextmanager
    def database(_: Path) -> Iterator[str]:
        name = f"life{uuid4().hex[:12]}"
        with psycopg.connect(postgres, autocommit=True) as connection:
            both = [sql.Identifier(name), sql.Identifier(original)]
            connection.execute(sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(*both))
            yield url.replace(original, name)
            connection.execute(sql.SQL("DROP DATABASE {} (FORCE)").format(both[0]))

    return Template(folder, oracle, database)


class Life(RuleBasedStateMachine):
    """Two indexes, as of two processes, share a database and a folder of index files."""

    template: Template
    tier: str
    accelerated: bool

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="vv-life-"))
        shutil.copytree(self.template.folder, self.folder, dirs_exist_ok=True)
        self.oracle, self.database = self.template.oracle.copy(), self.template.database(self.folder)
        self.store = Store(self.database.__enter__())
        self.galleries = [self.opened(), self.opened()]

    def opened(self) -> Galleries:
        device = Device(half_precision, 300)
        find = (lambda: device) if self.accelerated else None
        return Galleries(self.store, self.folder / self.tier, TIERS[self.tier], find)

    def check(self, which: int, probes: Float32Array, k: int, allow: Int64Array | None = None) -> None:
        galleries = self.galleries[which]
        if self.accelerated:  # now, not when the background comes to it
            index, position = galleries.current("c")
            assert isinstance(index, CompressedIndex)
            held = galleries._held.get(position.uuid)
            if held is not None:  # else its file was found to be damaged just now
                galleries._upkeep._accelerate(held, index)
        self.oracle.check(galleries, probes, k, allow)

    @rule(given=st.dictionaries(names, voices, min_size=1, max_size=40))
    def enroll(self, given: dict[str, int]) -> None:
        self.oracle.enroll(self.store, given)

    @rule(given=st.lists(names, min_size=1, max_size=6, unique=True), which=who)
    def forget(self, given: list[str], which: int) -> None:
        for name in given:
            if name in self.oracle.names:
                self.oracle.forget(self.store, name)
        self.galleries[which].forget("c")

    @rule(which=who, first=st.integers(0, len(PROBES) - 1), many=st.booleans(), k=st.sampled_from([1, 5, 60]))
    def search(self, which: int, first: int, many: bool, k: int) -> None:
        probes = PROBES if many else PROBES[first : first + 1]
        self.check(which, probes, k)

    @rule(
        which=who,
        first=st.integers(0, len(PROBES) - 3),
        few=st.lists(names, max_size=8),
        seed=st.integers(0, 9),
        share=st.sampled_from([0.0, 0.01, 0.5, 0.999]),
    )
    def search_among(self, which: int, first: int, few: list[str], seed: int, share: float) -> None:
        random = np.random.default_rng(seed)
        many = [name for name in self.oracle.names if random.random() < share]
        self.check(which, PROBES[first : first + 3], 5, self.oracle.filters(few + many))

    @rule(
        which=who,
        first=st.integers(0, len(PROBES) - 1),
        given=st.lists(st.dictionaries(names, voices, min_size=1, max_size=12), min_size=2, max_size=5),
    )
    def search_between_slices(self, which: int, first: int, given: list[dict[str, int]]) -> None:
        """A search is caught up when all this is written, and another thread has read one slice of it when it looks."""
        index, _ = self.galleries[which].current("c")
        search = index.search

        def late(*question: Any, **more: Any) -> SearchResult:
            index.search = search  # type: ignore[method-assign]
            for enrolled in given:
                self.oracle.enroll(self.store, enrolled)
            seen, changes, read_at = next(self.store.changes_in_slices("c", index.generation))
            index.apply(changes, seen.generation, seen.token, read_at)
            return search(*question, **more)

        index.search = late  # type: ignore[method-assign]
        self.check(which, PROBES[first : first + 1], 60)

    def teardown(self) -> None:
        if not hasattr(self, "store"):
            return
        try:
            for which, galleries in enumerate(self.galleries):
                for probe in (0, 7):
                    self.check(which, PROBES[probe : probe + 1], 5)
                index = galleries.current("c")[0]
                assert isinstance(index, FlatIndex if self.tier == "exact" else CompressedIndex)
        finally:
            for galleries in self.galleries:
                galleries.close()
            self.store.close()
            self.database.__exit__(None, None, None)
            shutil.rmtree(self.folder)


class LifeOnDisk(Life):
    """And compactions, restarts, crashes and damage."""

    @rule(which=who)
    def compact(self, which: int) -> None:
        self.galleries[which].compact("c")

    @rule(which=who)
    def restart(self, which: int) -> None:
        self.galleries[which].close()
        self.galleries[which] = self.opened()

    @rule(which=who)
    def crash(self, which: int) -> None:
        """What was in memory is lost; a compaction is left half written."""
        uuid = self.store.position("c").uuid
        (self.folder / self.tier / f"{uuid}.base.{which}.tmp").write_bytes(b"half")
        self.galleries[which] = self.opened()

    @rule(at=st.floats(0, 1, exclude_max=True), cut=st.booleans())
    def damage(self, at: float, cut: bool) -> None:
        """While no process has the file open."""
        for galleries in self.galleries:
            galleries.close()
        for file in (self.folder / self.tier).iterdir():
            data = bytearray(file.read_bytes())
            if data and file.suffix in (".base", ".index"):
                place = int(at * len(data))
                data[place] ^= 4
                # A file of its own: what a crashed index of this process still maps must not shrink under it.
                aside = file.with_suffix(".damaged")
                aside.write_bytes(data[:place] if cut else data)
                aside.replace(file)
        self.galleries = [self.opened(), self.opened()]


def live(
    kind: type[Life],
    template: Template,
    tier: str,
    examples: int,
    accelerated: bool = False,
    **more: object,
) -> None:
    class Here(kind):  # type: ignore[misc, valid-type]
        pass

    Here.template, Here.tier, Here.accelerated = template, tier, accelerated
    run_state_machine_as_test(
        Here,
        settings=settings(
            max_examples=examples,
            stateful_step_count=15,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            **more,  # type: ignore[arg-type]
        ),
    )


@pytest.mark.timeout(0 if EXAMPLES > 100 else 300)
@pytest.mark.parametrize("tier", list(TIERS))
def test_every_life_answers_as_counting_does(template: Template, tier: str) -> None:
    live(LifeOnDisk, template, tier, EXAMPLES)


@pytest.mark.timeout(0 if EXAMPLES > 100 else 300)
def test_every_life_with_a_device(template: Template) -> None:
    """Of a GPU's precision."""
    live(LifeOnDisk, template, "compressed", EXAMPLES // 2, accelerated=True)


@pytest.mark.timeout(0 if EXAMPLES > 100 else 300)
def test_every_life_on_postgresql(on_postgres: Template) -> None:
    live(LifeOnDisk, on_postgres, "compressed", EXAMPLES // 2)


def tombstones_ignored(patch: pytest.MonkeyPatch) -> None:
    apply = CompressedIndex.apply

    def changed(self: CompressedIndex, *change: Any) -> None:
        apply(self, *change)
        self._gone[:] = False
        self._gone_count = 0

    patch.setattr(CompressedIndex, "apply", changed)


def filtered_after_the_best_k(patch: pytest.MonkeyPatch) -> None:
    search = CompressedIndex.search

    def changed(
        self: CompressedIndex,
        probes: Float32Array,
        k: int,
        allow: Int64Array | None = None,
        at_least: int = 0,
    ) -> SearchResult:
        found = search(self, probes, k, None, at_least)
        if allow is None:
            return found
        kept = [np.isin(row, allow) for row in found.ids]
        least = min(int(row.sum()) for row in kept)
        ids = np.array([row[ok][:least] for row, ok in zip(found.ids, kept, strict=True)])
        scores = np.array([row[ok][:least] for row, ok in zip(found.scores, kept, strict=True)])
        return SearchResult(ids, scores, found.generation)

    patch.setattr(CompressedIndex, "search", changed)


def catching_up_skipped(patch: pytest.MonkeyPatch) -> None:
    def changed(*_: object) -> bool:
        return True

    patch.setattr(Galleries, "_caught_up", changed)
    current = Galleries.current

    def behind(self: Galleries, collection: str) -> tuple[object, GalleryPosition]:
        index, position = current(self, collection)
        return index, GalleryPosition(position.uuid, position.model_id, position.dim, 0, position.token)

    patch.setattr(Galleries, "current", behind)


def slices_answered_half_read(patch: pytest.MonkeyPatch) -> None:
    apply = CompressedIndex.apply

    def changed(self: CompressedIndex, *change: Any) -> None:
        apply(self, *change[:3])  # without the generation that was read

    patch.setattr(CompressedIndex, "apply", changed)


@pytest.mark.parametrize(
    "mutant",
    [tombstones_ignored, filtered_after_the_best_k, catching_up_skipped, slices_answered_half_read],
)
def test_mutants_do_not_live(
    template: Template,
    mutant: Callable[[pytest.MonkeyPatch], None],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    mutant(monkeypatch)
    with caplog.at_level(logging.CRITICAL), pytest.raises((AssertionError, VoicevaultError)) as caught:
        live(Life, template, "compressed", 60, phases=[Phase.generate], derandomize=True)
    assert isinstance(caught.value, AssertionError), "the answer must be what is wrong, not its way"
