"""What the store keeps, refuses and forgets, on both databases."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from voicevault import errors
from voicevault.store import NewEnrollment, Store
from voicevault.types import DuplicatePolicy, Embedding, Op

MakeEmbedding = Callable[..., Embedding]


def test_collections(store: Store) -> None:
    made = store.create_collection("b", "other", 4)
    assert (made.generation, made.speakers, made.dim) == (0, 0, 4)
    assert [c.name for c in store.collections()] == ["b", "c"]
    with pytest.raises(errors.CollectionExistsError):
        store.create_collection("b", "other", 4)
    store.create_speaker("b", "x")
    assert store.collection("b").speakers == 1
    store.delete_collection("b")
    with pytest.raises(errors.CollectionNotFoundError):
        store.collection("b")
    with pytest.raises(errors.CollectionNotFoundError):
        store.create_speaker("b", "x")
    assert store.create_collection("b", "other", 4).uuid != made.uuid


def test_speakers(store: Store) -> None:
    made = store.create_speaker("c", "Ünal", "Ünal Ö", {"age": 40, "deep": [1, None]}, ["b", "a", "a"])
    assert made.tags == ("a", "b") and made.attributes == {"age": 40, "deep": [1, None]}
    assert store.speaker("c", "Ünal") == made
    assert made.created.utcoffset() is not None
    with pytest.raises(errors.SpeakerExistsError):
        store.create_speaker("c", "Ünal")
    assert len(store.create_speaker("c").id) == 16
    changed = store.update_speaker("c", "Ünal", name=None, tags=["b", "z"])
    assert (changed.name, changed.tags, changed.attributes) == (None, ("b", "z"), made.attributes)
    assert store.speaker("c", "Ünal") == changed
    with pytest.raises(errors.SpeakerNotFoundError):
        store.update_speaker("c", "nobody", name="x")


def test_pages_and_tags(store: Store) -> None:
    for name in ("b", "A", "é", "a", "Z"):
        store.create_speaker("c", name, tags=["t", f"only-{name}"])
    assert len(store.speakers("c", limit=10**30)) == len(store.speakers("c"))
    first = store.speakers("c", limit=3)
    rest = store.speakers("c", limit=3, after=first[-1].id)
    assert [s.id for s in first + rest] == ["A", "Z", "a", "b", "é"]
    assert [s.id for s in store.speakers("c", tags=["t", "only-a"])] == ["a"]
    assert store.speakers("c", tags=["none"]) == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"id": ""},
        {"id": "x" * 256},
        {"id": "a\0b"},
        {"name": "\ud800"},
        {"attributes": {"x": float("nan")}},
        {"attributes": {"x": object()}},
        {"tags": "text"},
        {"tags": [""]},
    ],
)
def test_what_no_database_keeps_is_refused(store: Store, wrong: dict[str, Any]) -> None:
    with pytest.raises(errors.RequestError):
        store.create_speaker("c", **wrong)
    assert store.position("c").generation == 0


@pytest.mark.parametrize("text", ["\ud800", "a\0b"])
def test_asking_for_what_no_database_keeps(store: Store, text: str) -> None:
    """As names on a command line are read that are no UTF-8: no failure of the database, which was not asked."""
    wrong = (errors.RequestError, errors.NotFoundError)
    for ask in (
        lambda: store.collection(text),
        lambda: store.speaker("c", text),
        lambda: store.forget_speaker(text, "s"),
        lambda: store.forget_enrollment("c", "s", text),
    ):
        with pytest.raises(wrong):
            ask()
    assert isinstance(store.speakers("c"), list)  # the connections are fine


def test_what_several_add_to_a_speaker_at_once_is_all_there(store: Store) -> None:
    store.create_speaker("c", "s", attributes={"kept": 1}, tags=["kept"])

    def add(n: int) -> None:
        store.update_speaker("c", "s", tags=[f"t{n}"], attributes={f"a{n}": n}, add=True)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, range(16)))
    found = store.speaker("c", "s")
    assert set(found.tags) == {"kept", *(f"t{n}" for n in range(16))}
    assert found.attributes == {"kept": 1, **{f"a{n}": n for n in range(16)}}
    with pytest.raises(errors.RequestError, match="at most 100"):
        store.update_speaker("c", "s", tags=[f"more{n}" for n in range(90)], add=True)
    assert store.speaker("c", "s") == found


def test_voiceprint_is_the_normalised_mean(store: Store, embedding: MakeEmbedding) -> None:
    made = [store.add_enrollment("c", "s", embedding(n), f"{n}.wav") for n in range(3)]
    vector, generation = store.voiceprint("c", "s")
    mean = np.mean([embedding(n).vector.astype(np.float64) for n in range(3)], axis=0)
    np.testing.assert_allclose(vector, mean / np.linalg.norm(mean), atol=1e-6)
    assert vector.dtype == np.float32 and generation == 3
    assert store.enrollments("c", "s") == made
    assert store.speaker("c", "s").enrollments == 3
    store.forget_enrollment("c", "s", made[2].id)
    store.forget_enrollment("c", "s", made[1].id)
    np.testing.assert_allclose(store.voiceprint("c", "s")[0], embedding(0).vector, atol=1e-6)
    with pytest.raises(errors.EnrollmentNotFoundError):
        store.forget_enrollment("c", "s", made[1].id)
    store.forget_enrollment("c", "s", made[0].id)
    with pytest.raises(errors.NotEnrolledError):
        store.voiceprint("c", "s")
    assert store.speaker("c", "s").enrollments == 0


def test_opposite_embeddings_still_have_a_direction(store: Store, embedding: MakeEmbedding) -> None:
    one = embedding(1)
    other = Embedding(-one.vector, "m", one.quality, "f" * 64, "f" * 64)
    store.add_enrollment("c", "s", one)
    store.add_enrollment("c", "s", other)
    np.testing.assert_allclose(store.voiceprint("c", "s")[0], other.vector, atol=1e-6)


def test_refused_writes_leave_nothing(store: Store, embedding: MakeEmbedding) -> None:
    store.add_enrollment("c", "s", embedding(1))
    before = store.position("c")
    with pytest.raises(errors.DuplicateRecordingError):
        store.add_enrollment("c", "s", embedding(1))
    with pytest.raises(errors.ModelMismatchError):
        store.add_enrollment("c", "t", embedding(2, model_id="other"))
    with pytest.raises(errors.SpeakerNotFoundError):
        store.add_enrollment("c", "t", embedding(2), create_speaker=False)
    bad = embedding(3)
    bad.vector[0] = np.nan
    with pytest.raises(errors.RequestError):
        store.add_enrollments("c", [NewEnrollment("t", embedding(2)), NewEnrollment("t", bad)])
    assert store.position("c") == before
    assert [s.id for s in store.speakers("c")] == ["s"]


def test_batch_and_duplicate_policies(store: Store, embedding: MakeEmbedding) -> None:
    rows = [NewEnrollment(f"s{n % 3}", embedding(n), name=f"S{n % 3}", tags=["bulk"]) for n in range(9)]
    made = store.add_enrollments("c", [*rows, rows[0]], policy=DuplicatePolicy.SKIP)
    assert [m is None for m in made] == [False] * 9 + [True]
    assert store.position("c").generation == 1
    everybody = {r.speaker_id for r in rows}
    sources = {
        speaker: {r.embedding.source_sha256 for r in rows if r.speaker_id == speaker} for speaker in everybody
    }
    assert store.known_sources("c", [*everybody, "nobody"]) == sources
    for nobody in (["nobody"], [], ["x" * 300, "\0", "\ud800"]):
        assert store.known_sources("c", nobody) == {}
    one = next(iter(everybody))
    assert store.known_sources("c", [one, one]) == {one: sources[one]}
    assert store.add_enrollments("c", rows, policy=DuplicatePolicy.SKIP) == [None] * 9
    skipped = store.add_enrollment("c", "s0", embedding(0), policy=DuplicatePolicy.SKIP)
    assert made[0] is not None and skipped.id == made[0].id

    newer = Embedding(embedding(50).vector, "m", embedding(50).quality, embedding(0).source_sha256, "0" * 64)
    replaced = store.add_enrollment("c", "s0", newer, name="new", tags=["t"], policy=DuplicatePolicy.REPLACE)
    assert replaced.audio_sha256 == "0" * 64 and store.speaker("c", "s0").enrollments == 3
    assert (store.speaker("c", "s0").name, store.speaker("c", "s0").tags) == ("new", ("t",))
    expected = np.sum([embedding(n).vector for n in (3, 6, 50)], axis=0)
    np.testing.assert_allclose(store.voiceprint("c", "s0")[0], expected / np.linalg.norm(expected), atol=1e-6)
    store.add_enrollment("c", "s0", newer, name="kept out", policy=DuplicatePolicy.ADD)
    assert (store.speaker("c", "s0").name, store.speaker("c", "s0").enrollments) == ("new", 4)
    assert store.add_enrollments("c", []) == []


def test_a_slice_of_changes_holds_whole_writes(store: Store, embedding: MakeEmbedding) -> None:
    store.add_enrollments("c", [NewEnrollment(f"s{n}", embedding(n)) for n in range(5)])
    store.add_enrollment("c", "s5", embedding(5))
    slices = list(store.changes_in_slices("c", 0, 3))
    assert [(place.generation, len(some), at) for place, some, at in slices] == [(1, 5, 2), (2, 1, 2)]


def test_changes_and_snapshot(store: Store, embedding: MakeEmbedding) -> None:
    for n, speaker in enumerate(("a", "b", "a", "d")):
        store.add_enrollment("c", speaker, embedding(n), tags=["x"] if speaker == "a" else [])
    keys = {s.id: s.key for s in store.speakers("c")}
    store.forget_speaker("c", "b")
    position, changes = store.changes("c", 0)
    assert position == store.position("c") and position.generation == 5
    assert [(c.generation, c.key, c.op) for c in changes] == [
        (1, keys["a"], Op.UPSERT),
        (2, keys["b"], Op.REMOVE),
        (3, keys["a"], Op.UPSERT),
        (4, keys["d"], Op.UPSERT),
        (5, keys["b"], Op.REMOVE),
    ]
    for change in changes:
        assert store.token_at("c", change.generation) == change.token
    assert changes[-1].token == position.token and store.token_at("c", 6) is None
    assert store.changes("c", 5)[1] == [] and store.changes("c", 99)[1] == []
    for most, ends in ((1, [1, 2, 3, 4, 5, 5]), (2, [2, 4, 5]), (5, [5, 5]), (6, [5])):
        slices = list(store.changes_in_slices("c", 0, most))
        read = [(c.generation, c.key, c.op) for _, some, _ in slices for c in some]
        assert read == [(c.generation, c.key, c.op) for c in changes]
        assert [place.generation for place, _, _ in slices] == ends
        assert all(store.token_at("c", place.generation) == place.token for place, _, _ in slices)
    assert store.size("c") == (position, 2)

    at, found, vectors = store.snapshot("c")
    assert at == position and found.dtype == np.int64 and vectors.dtype == np.float32
    assert found.tolist() == [keys["a"], keys["d"]]
    np.testing.assert_array_equal(vectors[0], store.voiceprint("c", "a")[0])
    np.testing.assert_array_equal(vectors[0], changes[0].vector)
    assert store.keys_with_tags("c", ["x"]).tolist() == [keys["a"]]
    assert store.keys_with_tags("c", []).tolist() == found.tolist()
    assert store.names_of("c", [keys["a"], keys["b"]]) == {keys["a"]: ("a", None)}
    with pytest.raises(errors.SpeakerNotFoundError):
        store.forget_speaker("c", "b")
    store.add_enrollment("c", "b", embedding(1))
    assert store.speaker("c", "b").key not in keys.values(), "a key is never given out twice"


def test_an_empty_snapshot_has_its_shape(store: Store) -> None:
    _, keys, vectors = store.snapshot("c")
    assert keys.shape == (0,) and vectors.shape == (0, 8)


def test_errors_carry_no_parameters(store: Store, embedding: MakeEmbedding) -> None:
    store.downgrade("base")
    with pytest.raises(errors.SchemaOutdatedError) as caught:
        store.add_enrollment("c", "secret-person", embedding(1))
    assert "secret-person" not in str(caught.value) + str(caught.value.__cause__) + json.dumps(
        caught.value.facts
    )
