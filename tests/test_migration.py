"""A collection changes its model: from kept speech, without an interruption, and back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from voicevault.encoder.checkpoint import load_checkpoint, save_checkpoint
from voicevault.encoder.importing import import_model
from voicevault.encoder.store import ModelStore
from voicevault.errors import (
    AudioNotKeptError,
    EnrollmentNotFoundError,
    IndexUnavailableError,
    ModelNotFoundError,
    RequestError,
    SpeakerNotFoundError,
)
from voicevault.settings import Settings
from voicevault.types import ManifestRow
from voicevault.vault import Vault


@pytest.fixture(scope="module")
def people(
    voices: dict[str, list[Path]], tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, list[Path]]:
    """Three speakers with three recordings each that an enrollment takes."""
    found: dict[str, list[Path]] = {}
    with Vault.open(Settings(home=tmp_path_factory.mktemp("x"), model=str(tiny_model))) as vault:
        for files in voices.values():
            fit = [f for f in files[:6] if vault.embed(f, min_speech=None).quality.speech_seconds > 2.2]
            if len(fit) >= 3:
                found[("ada", "bob", "cy")[len(found)]] = fit[:3]
            if len(found) == 3:
                return found
    pytest.skip("fewer than three speakers have three recordings of two seconds of speech")


@pytest.fixture(scope="module")
def second(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another model, of which the store gets a copy."""
    model, _ = load_checkpoint(tiny_model)
    with torch.no_grad():
        model.network.project.weight.copy_(model.network.project.weight.flip(0) * 1.5)
        model.network.project.bias += 0.1
    folder = tmp_path_factory.mktemp("second") / "second"
    save_checkpoint(model, folder)
    return folder


@pytest.fixture
def vault(tiny_model: Path, second: Path, tmp_path: Path) -> Iterator[Vault]:
    """With a collection ``staff`` that keeps audio, and both models in the store."""
    settings = Settings(home=tmp_path / "home", model=str(tiny_model), threads=1)
    import_model(ModelStore(settings.models_folder), second)
    with Vault.open(settings) as made:
        made.create_collection("staff", keep_audio=True)
        yield made


def enroll(vault: Vault, people: dict[str, list[Path]]) -> None:
    for speaker, files in people.items():
        vault.create_speaker(
            speaker, name=speaker.title(), tags=["x"], attributes={"n": 1}, collection="staff"
        )
        vault.enroll(speaker, files[0], collection="staff")
    rows = [ManifestRow(files[1], speaker) for speaker, files in people.items()]
    assert vault.enroll_many(rows, collection="staff", workers=1).enrolled == 3


def test_a_collection_changes_its_model(vault: Vault, people: dict[str, list[Path]]) -> None:
    enroll(vault, people)
    before = vault.collection("staff")
    ready = vault.migrate("staff", "second", switch=False)
    assert (ready.recordings, ready.enroll_again, ready.partly, ready.backup) == (6, (), (), None)
    assert (ready.genuine, ready.impostor) == (3, 12)
    assert ready.eer_before is not None and ready.eer_after is not None
    assert vault.collection("staff") == before  # until the switch
    assert vault.identify(people["ada"][2], collection="staff", threshold=0.5).model_id == before.model_id
    told: list[tuple[int, int]] = []
    done = vault.migrate("staff", "second", progress=lambda *counts: told.append(counts))
    assert told == []  # all was embedded in the first call
    after = vault.collection("staff")
    assert (after.model_id, after.speakers, after.keeps_audio) == (done.to_model, 3, True)
    assert done.backup == f"staff@{before.model_id[:8]}"
    assert vault.collection(done.backup).uuid == before.uuid
    assert [
        (s.id, s.name, s.tags, s.attributes, s.enrollments) for s in vault.speakers(collection="staff")
    ] == [(id, id.title(), ("x",), {"n": 1}, 2) for id in ("ada", "bob", "cy")]
    answer = vault.identify(people["bob"][0], collection="staff", threshold=0.5)
    assert (answer.model_id, answer.speaker_id, answer.gallery) == (done.to_model, "bob", 3)
    # Kept speech embeds as the recording itself does.
    fresh = vault.embed(people["bob"][0], model="second").vector
    _, kept = vault._store.kept("staff")
    stored = next(
        one.vector
        for one in kept
        if one.enrollment.speaker_id == "bob" and one.enrollment.source_name == people["bob"][0].name
    )
    assert float(np.dot(fresh, stored)) > 0.9999


def test_there_and_back(vault: Vault, people: dict[str, list[Path]]) -> None:
    """What was enrolled, changed and forgotten on the new model is so on the former one too."""
    enroll(vault, people)
    first = vault.collection("staff")
    backup = vault.migrate("staff", "second").backup
    assert backup is not None
    vault.enroll("ada", people["ada"][2], collection="staff")
    vault.enroll("dee", people["cy"][2], collection="staff")
    vault.update_speaker("bob", name="Robert", collection="staff")
    vault.forget("cy", collection="staff")
    with pytest.raises(SpeakerNotFoundError):  # at once: it must not live on in a backup
        vault.speaker("cy", collection=backup)
    one = vault.enrollments("bob", collection="staff")[0]
    vault.forget("bob", one.id, collection="staff")
    assert [e.source_sha256 for e in vault.enrollments("bob", collection=backup)] != []
    assert one.source_sha256 not in {e.source_sha256 for e in vault.enrollments("bob", collection=backup)}
    back = vault.migrate("staff", first.model_id)
    now = vault.collection("staff")
    assert (now.uuid, now.model_id) == (first.uuid, first.model_id)
    assert {(s.id, s.name, s.enrollments) for s in vault.speakers(collection="staff")} == {
        ("ada", "Ada", 3),
        ("bob", "Robert", 1),
        ("dee", None, 1),
    }
    assert vault.identify(people["ada"][2], collection="staff", threshold=0.5).speaker_id == "ada"
    assert {one.name for one in vault.collections()} == {"default", "staff", back.backup}


def test_whoever_is_forgotten_is_so_on_all_models(
    vault: Vault, people: dict[str, list[Path]], tiny_model: Path, tmp_path: Path
) -> None:
    model, _ = load_checkpoint(tiny_model)
    with torch.no_grad():
        model.network.project.bias -= 0.1
    save_checkpoint(model, tmp_path / "third")
    import_model(ModelStore(vault.settings.models_folder), tmp_path / "third")
    enroll(vault, people)
    vault.migrate("staff", "second")
    vault.migrate("staff", "third", switch=False)
    ready = vault.migrate("staff", "third", switch=False)  # goes on with the copy that is there
    names = {one.name for one in vault.collections()} - {"default"}
    assert len(names) == 3 and ready.target in names
    vault.migrate("staff", "third")
    vault.forget("cy", collection="staff")
    one = vault.enrollments("bob", collection="staff")[0]
    vault.forget("bob", one.id, collection="staff")
    names = {one.name for one in vault.collections()} - {"default"}
    assert len(names) == 3
    for name in names:
        assert {s.id: s.enrollments for s in vault.speakers(collection=name)} == {"ada": 2, "bob": 1}
        left = vault.enrollments("bob", collection=name)
        assert one.source_sha256 not in {e.source_sha256 for e in left}


@pytest.mark.parametrize("copied_again", [False, True])
@pytest.mark.parametrize("whole", [True, False])
def test_whoever_is_forgotten_while_names_are_exchanged(
    vault: Vault,
    people: dict[str, list[Path]],
    monkeypatch: pytest.MonkeyPatch,
    whole: bool,
    copied_again: bool,
) -> None:
    """The change of the model comes when the copy has forgotten already, and the collection has not."""
    enroll(vault, people)
    ready = vault.migrate("staff", "second", switch=False)
    store, first = vault._store, vault.enrollments("cy", collection="staff")[0]
    backup = f"staff@{ready.from_model[:8]}"
    method = "forget_speaker" if whole else "forget_enrollment"
    forget = getattr(store, method)

    def late(collection: str, *what: str) -> None:
        if collection == "staff" and backup not in {one.name for one in vault.collections()}:
            if copied_again:
                vault.migrate("staff", "second")
            else:
                store.exchange("staff", ready.target, backup, store.position("staff").generation)
        forget(collection, *what)

    monkeypatch.setattr(store, method, late)
    vault.forget("cy", None if whole else first.id, collection="staff")
    for name in ("staff", backup):
        left = {s.id: s.enrollments for s in vault.speakers(collection=name)}
        assert left == {"ada": 2, "bob": 2} | ({} if whole else {"cy": 1})
        if not whole:
            assert vault.enrollments("cy", collection=name)[0].source_sha256 != first.source_sha256
    with pytest.raises(SpeakerNotFoundError if whole else EnrollmentNotFoundError):
        vault.forget("cy", None if whole else first.id, collection="staff")


def test_a_copy_forgets_even_if_the_index_fails(
    vault: Vault, people: dict[str, list[Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    enroll(vault, people)
    target = vault.migrate("staff", "second", switch=False).target
    forget_in_index = vault._galleries.forget

    def fail(collection: str) -> None:
        if collection == "staff":
            vault.create_speaker("cy", collection=target)  # as a copy that is just being made does
            raise IndexUnavailableError("too fast")
        forget_in_index(collection)

    monkeypatch.setattr(vault._galleries, "forget", fail)
    with pytest.raises(IndexUnavailableError):
        vault.forget("cy", collection="staff")
    assert [s.id for s in vault.speakers(collection=target)] == ["ada", "bob"]


def test_a_speaker_whom_only_a_backup_still_holds_can_be_forgotten(
    vault: Vault, people: dict[str, list[Path]]
) -> None:
    """As after a first try that was killed between two collections."""
    enroll(vault, people)
    backup = vault.migrate("staff", "second").backup
    assert backup is not None
    vault._store.forget_speaker("staff", "cy")
    vault.forget("cy", collection="staff")
    assert [s.id for s in vault.speakers(collection=backup)] == ["ada", "bob"]
    with pytest.raises(SpeakerNotFoundError):
        vault.forget("cy", collection="staff")


def test_who_must_enroll_again(vault: Vault, people: dict[str, list[Path]]) -> None:
    for speaker, files in people.items():
        vault.enroll(speaker, files[0])  # into a collection that keeps nothing
    with pytest.raises(AudioNotKeptError) as caught:
        vault.migrate("default", "second")
    assert caught.value.facts == {"enroll_again": ["ada", "bob", "cy"], "partly": []}
    assert vault.collection().model_id == vault.model_id
    done = vault.migrate("default", "second", leave_out=True)
    assert (done.recordings, done.enroll_again, done.eer_after) == (0, ("ada", "bob", "cy"), None)
    assert [(s.id, s.enrollments) for s in vault.speakers()] == [("ada", 0), ("bob", 0), ("cy", 0)]
    vault.enroll("ada", people["ada"][0])
    assert vault.identify(people["ada"][0], threshold=0.9).speaker_id == "ada"
    vault.forget("cy")
    vault.migrate("default", vault.model_id)  # on the former model they need not
    assert [(s.id, s.enrollments) for s in vault.speakers()] == [("ada", 1), ("bob", 1)]


def test_what_cannot_be_migrated(vault: Vault) -> None:
    with pytest.raises(RequestError, match="already"):
        vault.migrate("staff", vault.model_id)
    with pytest.raises(ModelNotFoundError):
        vault.migrate("staff", "nobodys")


def test_a_collection_that_is_written_to_meanwhile(
    vault: Vault, people: dict[str, list[Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the copy and the switch somebody is enrolled: nothing is lost."""
    enroll(vault, people)
    exchange, calls = vault._store.exchange, []

    def late(name: str, other: str, backup: str, generation: int) -> None:
        calls.append(generation)
        if len(calls) == 1:
            vault.enroll("late", people["ada"][2], collection="staff")
        exchange(name, other, backup, generation)

    monkeypatch.setattr(vault._store, "exchange", late)
    done = vault.migrate("staff", "second")
    assert len(calls) == 2
    assert done.recordings == 7
    assert {s.id: s.enrollments for s in vault.speakers(collection="staff")}["late"] == 1
