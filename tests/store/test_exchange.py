"""Kept speech goes with its enrollment, and two collections exchange their names in one transaction."""

from __future__ import annotations

from dataclasses import replace

import pytest
from sqlalchemy import func, select

from tests.store.conftest import DIM, make_embedding
from voicevault.errors import CollectionExistsError, CollectionNotFoundError, DatabaseBusyError
from voicevault.store import Store
from voicevault.store.tables import AudioRow
from voicevault.types import DuplicatePolicy


def kept_audio(store: Store) -> int:
    with store._reading() as session:
        return session.scalar(select(func.count()).select_from(AudioRow)) or 0


def test_speech_is_kept_with_its_enrollment(store: Store) -> None:
    made = store.create_collection("keeps", "m", DIM, keeps_audio=True)
    assert made.keeps_audio and store.collection("keeps").keeps_audio and store.keeps_audio("keeps")
    assert not store.keeps_audio("c") and not store.collection("c").keeps_audio
    first = store.add_enrollment("keeps", "ada", replace(make_embedding(1), audio=b"first"))
    second = store.add_enrollment("keeps", "ada", replace(make_embedding(2), audio=b"second"))
    bare = store.add_enrollment("keeps", "bob", make_embedding(3))
    assert [store.audio_of(one.id) for one in (first, second, bare)] == [b"first", b"second", None]
    generation, kept = store.kept("keeps")
    assert generation == store.position("keeps").generation
    assert [(one.enrollment.id, one.audio) for one in kept] == [
        (first.id, True),
        (second.id, True),
        (bare.id, False),
    ]
    assert (kept[0].vector == make_embedding(1).vector).all()


def test_speech_goes_where_its_enrollment_goes(store: Store) -> None:
    for seed in range(4):
        store.add_enrollment("c", f"s{seed % 2}", replace(make_embedding(seed), audio=b"speech"))
    assert kept_audio(store) == 4
    store.forget_enrollment("c", "s0", store.enrollments("c", "s0")[0].id)
    assert kept_audio(store) == 3
    store.add_enrollment("c", "s1", replace(make_embedding(1), audio=b"anew"), policy=DuplicatePolicy.REPLACE)
    assert kept_audio(store) == 3
    store.forget_speaker("c", "s1")
    assert kept_audio(store) == 1
    store.delete_collection("c")
    assert kept_audio(store) == 0


def test_an_exchange(store: Store) -> None:
    old = store.collection("c")
    store.add_enrollment("c", "ada", make_embedding(1))
    new = store.create_collection("c@n", "n", DIM + 1, twin=old.uuid)
    assert store.twins_of("c") == ["c@n"] and store.twins_of("c@n") == ["c"]
    store.exchange("c", "c@n", "c@m", store.position("c").generation)
    assert {one.name: one.uuid for one in store.collections()} == {"c": new.uuid, "c@m": old.uuid}
    assert store.twins_of("c") == ["c@m"] and store.twins_of("c@m") == ["c"]
    assert [speaker.id for speaker in store.speakers("c@m", limit=9)] == ["ada"]
    store.exchange("c", "c@m", "c@n", store.position("c").generation)
    assert {one.name: one.uuid for one in store.collections()} == {"c": old.uuid, "c@n": new.uuid}


def test_twins_of_several_exchanges(store: Store) -> None:
    """Each knows all others, whichever of them were exchanged or deleted."""
    store.create_collection("stranger", "m", DIM)
    for model in "npq":
        store.create_collection(f"c@{model}", model, DIM, twin=store.collection("c").uuid)
        store.exchange("c", f"c@{model}", f"was {model}", store.position("c").generation)
    names = {"c", "was n", "was p", "was q"}
    assert all(set(store.twins_of(name)) == names - {name} for name in names)
    store.delete_collection("was n")  # the first of them
    names.remove("was n")
    assert all(set(store.twins_of(name)) == names - {name} for name in names)
    assert store.twins_of("stranger") == []


def test_an_exchange_that_cannot_be_changes_nothing(store: Store) -> None:
    store.create_collection("c@n", "n", DIM, twin=store.collection("c").uuid)
    store.create_collection("c@m", "m", DIM)
    before = {one.name: (one.uuid, one.generation) for one in store.collections()}
    with pytest.raises(CollectionExistsError, match="c@m"):
        store.exchange("c", "c@n", "c@m", 0)
    with pytest.raises(CollectionNotFoundError):
        store.exchange("c", "nobodys", "x", 0)
    store_generation = store.position("c").generation
    with pytest.raises(DatabaseBusyError):
        store.exchange("c", "c@n", "x", store_generation + 1)
    assert {one.name: (one.uuid, one.generation) for one in store.collections()} == before
