"""The use cases, on real speech with a small model."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

import voicevault
from voicevault.audio import decode
from voicevault.bootstrap import make_folder, open_vault
from voicevault.encoder import default_model_dir
from voicevault.errors import (
    AudioNotFoundError,
    AudioOutOfRangeError,
    CheckpointError,
    CollectionExistsError,
    CollectionNotFoundError,
    DatabaseUnavailableError,
    DuplicateRecordingError,
    EnrollmentNotFoundError,
    ModelMismatchError,
    ModelNotFoundError,
    NotEnoughSpeechError,
    NotEnrolledError,
    NoThresholdError,
    RequestError,
    SpeakerExistsError,
    SpeakerNotFoundError,
)
from voicevault.settings import Settings
from voicevault.types import DuplicatePolicy, Float32Array, ManifestRow
from voicevault.vault import Vault

Voices = dict[str, list[Path]]


@pytest.fixture(scope="module")
def people(voices: Voices, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Voices:
    """Three speakers with three recordings each that an enrollment takes."""
    found: Voices = {}
    with Vault.open(Settings(home=tmp_path_factory.mktemp("x"), model=str(tiny_model))) as vault:
        for speaker, files in voices.items():
            fit = [f for f in files[:6] if vault.embed(f, min_speech=None).quality.speech_seconds > 2.2]
            if len(fit) >= 3:
                found[speaker] = fit[:3]
            if len(found) == 3:
                return dict(zip(("ada", "bob", "cy"), found.values(), strict=True))
    pytest.skip("fewer than three speakers have three recordings of two seconds of speech")


@pytest.fixture
def settings(tmp_path: Path, tiny_model: Path) -> Settings:
    return Settings(home=tmp_path / "home", model=str(tiny_model))


@pytest.fixture
def vault(settings: Settings) -> Iterator[Vault]:
    with Vault.open(settings) as opened:
        yield opened


@pytest.fixture(scope="module")
def full(people: Voices, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vault]:
    """Two recordings of each speaker are enrolled; the tests that share it change nothing."""
    settings = Settings(home=tmp_path_factory.mktemp("full"), model=str(tiny_model))
    with Vault.open(settings) as opened:
        for speaker, tags in (("ada", ["team", "vip"]), ("bob", ["team"]), ("cy", [])):
            opened.create_speaker(speaker, name=speaker.title(), tags=tags)
            for file in people[speaker][:2]:
                opened.enroll(speaker, file)
        yield opened


def other_model(tiny_model: Path, folder: Path) -> Path:
    """The same architecture with other weights, and without a policy."""
    import torch

    from voicevault.encoder.checkpoint import load_checkpoint, save_checkpoint

    model = load_checkpoint(tiny_model)[0]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.97)
    save_checkpoint(model, folder)
    return folder


def wav(samples: Float32Array, rate: int = 16_000) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format="WAV", subtype="FLOAT")
    return buffer.getvalue()


# --- opening ---------------------------------------------------------------------------------------------


def test_open(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VOICEVAULT_MODEL", str(tiny_model))
    with voicevault.Vault.open(tmp_path / "home") as vault:
        assert vault.collection().name == "default"
        assert (vault.collection().model_id, vault.collection().dim) == (vault.model_id, vault.dim)
        assert (tmp_path / "home" / "voicevault.db").is_file()
        assert (tmp_path / "home").stat().st_mode & 0o077 == 0  # voiceprints are nobody else's business
        ready = vault.ready()
        assert (ready["database"], ready["collections"], ready["policy"]) == ("sqlite", 1, True)
        assert vault.warm() == ready
    shutil.copytree(tiny_model, tmp_path / "home" / "models" / "mine")
    with Vault.open(Settings(home=tmp_path / "home", model="mine")) as vault:
        assert vault.encoder_name == "tiny"
    with pytest.raises(ModelNotFoundError, match="'nothing'"):
        Vault.open(Settings(home=tmp_path / "home", model="nothing"))
    database = f"sqlite:///{tmp_path / 'elsewhere' / 'v.db'}"
    with Vault.open(Settings(home=tmp_path / "home", database_url=database)) as vault:
        assert vault.speakers() == []
    assert (tmp_path / "elsewhere" / "v.db").is_file()


def test_folders_above_the_home_are_the_owners_too(tmp_path: Path) -> None:
    """The demo makes a home within the user's, which then must not be open to others."""
    make_folder(tmp_path / "home" / "demo")
    assert [f.stat().st_mode & 0o777 for f in (tmp_path / "home", tmp_path / "home" / "demo")] == [0o700] * 2


def test_a_policy_of_another_model_is_refused(tmp_path: Path, tiny_model: Path) -> None:
    folder = other_model(tiny_model, tmp_path / "other")
    shutil.copy(tiny_model / "policy.json", folder)
    with pytest.raises(CheckpointError, match="another model"):
        Vault.open(Settings(home=tmp_path / "home", model=str(folder)))


# --- enrolling -------------------------------------------------------------------------------------------


def test_enroll(people: Voices, vault: Vault, tmp_path: Path) -> None:
    file, other, third = people["ada"]
    first = vault.enroll("ada", file)
    assert (first.speaker_id, first.source_name, first.model_id) == ("ada", file.name, vault.model_id)
    assert first.quality.speech_seconds >= 2.0
    second = vault.enroll("ada", other.read_bytes(), source_name="from memory")
    with third.open("rb") as opened:
        vault.enroll("ada", opened)
    odd = shutil.copy(file, tmp_path / "no UTF-8 \udcff.flac")
    assert vault.enroll("bob", odd).source_name == "no UTF-8 ?.flac"
    vault.forget("bob")
    names = [enrollment.source_name for enrollment in vault.enrollments("ada")]
    assert names == [file.name, "from memory", None]
    assert vault.enrollments("ada")[:2] == [first, second]
    assert vault.speaker("ada").enrollments == 3
    assert vault.collection().speakers == 1
    with pytest.raises(SpeakerNotFoundError):
        vault.enroll("nobody", file, create=False)
    with pytest.raises(AudioNotFoundError):
        vault.enroll("bob", file.with_name("missing.wav"))
    assert [speaker.id for speaker in vault.speakers()] == ["ada"]


def test_a_closed_vault_says_so(settings: Settings, people: Voices) -> None:
    with Vault.open(settings) as vault:
        vault.enroll("ada", people["ada"][0])
    for use in (
        lambda: vault.enroll("ada", people["ada"][1]),
        lambda: vault.identify(people["ada"][1]),
        lambda: vault.collections(),
    ):
        with pytest.raises(DatabaseUnavailableError, match="closed; open it again"):
            use()
    vault.close()  # once more harms nobody
    with Vault.open(settings) as again:
        assert [speaker.id for speaker in again.speakers()] == ["ada"]


def test_the_voiceprint_is_the_normalised_mean(people: Voices, full: Vault) -> None:
    mean = np.mean([full.embed(file).vector for file in people["ada"][:2]], axis=0)
    voiceprint = mean / np.linalg.norm(mean)
    for file in people["ada"]:
        expected = float(voiceprint @ full.embed(file).vector)
        assert full.verify("ada", file, threshold=0.0).score == pytest.approx(expected, abs=1e-5)


def test_the_same_recording_again(people: Voices, vault: Vault) -> None:
    file = people["ada"][0]
    first = vault.enroll("ada", file)
    with pytest.raises(DuplicateRecordingError) as caught:
        vault.enroll("ada", file)
    assert caught.value.facts["speaker"] == "ada"
    assert vault.enroll("ada", file, duplicates=DuplicatePolicy.SKIP) == first
    replaced = vault.enroll("ada", file, duplicates=DuplicatePolicy.REPLACE)
    assert vault.enrollments("ada") == [replaced]
    assert replaced.id != first.id
    vault.enroll("ada", file, duplicates=DuplicatePolicy.ADD)
    assert vault.speaker("ada").enrollments == 2
    assert vault.enroll("bob", file).source_sha256 == first.source_sha256  # of another speaker it is new


def test_what_is_refused_or_skipped_is_not_embedded(
    people: Voices, vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = people["ada"][0]
    first = vault.enroll("ada", file)

    def work(*_: object, **__: object) -> None:
        raise AssertionError("there is no need for that")

    pipeline = vault.pipeline
    monkeypatch.setattr(pipeline, "embed", work)
    with pytest.raises(DuplicateRecordingError) as caught:
        vault.enroll("ada", file)
    assert caught.value.facts == {"speaker": "ada", "source_sha256": first.source_sha256}
    assert vault.enroll("ada", file, duplicates="skip") == first
    monkeypatch.setattr(pipeline, "prepare", work)
    for speaker, name in (("", None), ("a\0da", None), ("x" * 256, None), ("ada", "a\nb"), ("ada", "")):
        with pytest.raises(RequestError, match="source name" if speaker == "ada" else "speaker id"):
            vault.enroll(speaker, file, source_name=name)


def test_policies_for_duplicates_may_be_texts(people: Voices, vault: Vault) -> None:
    file = people["ada"][0]
    first = vault.enroll("ada", file)
    assert vault.enroll("ada", file, duplicates="skip") == first
    assert vault.enroll_many([ManifestRow(file, "ada")], duplicates="skip", workers=1).skipped == 1
    for wrong in ("skipp", ""):
        with pytest.raises(RequestError, match="skip, replace, add"):
            vault.enroll("ada", file, duplicates=wrong)
        with pytest.raises(RequestError, match="skip, replace, add"):
            vault.enroll_many([ManifestRow(file, "ada")], duplicates=wrong)
    assert vault.enrollments("ada") == [first]


def test_too_little_speech(people: Voices, vault: Vault) -> None:
    samples = decode(people["ada"][0]).samples
    second = wav(samples[8_000:24_000])
    with pytest.raises(NotEnoughSpeechError) as caught:
        vault.enroll("ada", second)
    facts = caught.value.facts
    assert facts["needed"] == 2.0
    assert 0 < facts["found"] <= 1.0
    assert facts["missing"] == pytest.approx(2.0 - facts["found"], abs=0.002)
    assert f"{facts['missing']:.2f} s" in caught.value.message
    assert vault.speakers() == []
    vault.enroll("ada", people["ada"][0])
    if facts["found"] > 0.5:
        assert vault.verify("ada", second, threshold=-1.0).accepted
    for ask in (lambda a: vault.identify(a), lambda a: vault.verify("ada", a), lambda a: vault.embed(a)):
        with pytest.raises(NotEnoughSpeechError) as caught:
            ask(wav(samples[8_000:12_800]))
        assert caught.value.facts["needed"] == 0.5


def test_one_channel_of_two(people: Voices, vault: Vault) -> None:
    ada, bob = (decode(people[speaker][0]).samples for speaker in ("ada", "bob"))
    length = min(len(ada), len(bob))
    both = wav(np.stack([ada[:length], bob[:length]], axis=1))
    vault.enroll("ada", both, channel=0)
    vault.enroll("bob", both, channel=1)
    assert vault.verify("ada", wav(ada[:length]), threshold=0.0).score > 0.9999
    assert vault.identify(wav(bob[:length]), k=1, threshold=0.9).speaker_id == "bob"
    with pytest.raises(AudioOutOfRangeError):
        vault.embed(both, channel=2)


# --- embedding -------------------------------------------------------------------------------------------


def models(tiny_model: Path) -> list[Path]:
    default = default_model_dir()
    return [tiny_model, *([default] if (default / "config.json").is_file() else [])]


def test_level_does_not_matter(people: Voices, tiny_model: Path, tmp_path: Path) -> None:
    lowest = {}
    for model in models(tiny_model):
        with Vault.open(Settings(home=tmp_path / model.name, model=str(model))) as vault:
            for file in (file for files in people.values() for file in files[:2]):
                samples = decode(file).samples
                reference = vault.embed(wav(samples)).vector
                for gain in (-30, -12, 10):
                    vector = vault.embed(wav(samples * np.float32(10 ** (gain / 20)))).vector
                    key = (model.name, gain)
                    lowest[key] = min(lowest.get(key, 1.0), float(reference @ vector))
    print(lowest)
    assert min(lowest.values()) >= 0.999, lowest


def test_embed(people: Voices, full: Vault) -> None:
    embedding = full.embed(people["ada"][0])
    assert (embedding.model_id, embedding.vector.shape) == (full.model_id, (full.dim,))
    assert embedding.vector.dtype == np.float32
    assert np.linalg.norm(embedding.vector) == pytest.approx(1.0, abs=1e-5)
    assert {"decode", "speech", "embed"} <= embedding.timing.keys()
    again = full.embed(people["ada"][0].read_bytes())
    np.testing.assert_allclose(again.vector, embedding.vector, atol=1e-6)
    assert again.source_sha256 == embedding.source_sha256


# --- verification ----------------------------------------------------------------------------------------


def test_verify(people: Voices, full: Vault) -> None:
    answer = full.verify("ada", people["ada"][0])
    assert (answer.speaker_id, answer.collection, answer.model_id) == ("ada", "default", full.model_id)
    assert answer.generation == full.collection().generation
    assert answer.accepted == (answer.score >= answer.threshold.value)
    assert (answer.threshold.source, answer.threshold.fmr, answer.threshold.value) == ("policy", 0.01, 0.975)
    assert answer.timing["total"] > 0
    own, strange = (full.verify("ada", people[who][0], threshold=0.5).score for who in ("ada", "cy"))
    assert own > strange
    strict = full.verify("ada", people["cy"][0], threshold=1.0)
    assert (strict.accepted, strict.threshold.source, strict.threshold.fmr) == (False, "given", None)
    assert full.verify("ada", people["cy"][0], threshold=-1.0).accepted
    loose = full.verify("ada", people["ada"][0], fmr=0.1)
    assert (loose.threshold.value, loose.threshold.wanted_fmr) == (0.95, 0.1)


def test_verify_what_cannot_be(people: Voices, full: Vault, vault: Vault) -> None:
    file = people["ada"][0]
    with pytest.raises(SpeakerNotFoundError):
        full.verify("nobody", file)
    for wrong in ({"threshold": 1.5}, {"fmr": 0.0}, {"fmr": 0.1, "threshold": 0.5}):
        with pytest.raises(RequestError):
            full.verify("ada", file, **wrong)
        with pytest.raises(RequestError):
            full.identify(file, **wrong)
    vault.create_speaker("eve")
    with pytest.raises(NotEnrolledError):
        vault.verify("eve", file)


# --- identification --------------------------------------------------------------------------------------


def test_identify(people: Voices, full: Vault) -> None:
    for speaker, files in people.items():
        answer = full.identify(files[0], threshold=0.0)
        assert answer.candidates[0].speaker_id == answer.speaker_id == speaker
        assert answer.candidates[0].name == speaker.title()
        assert [candidate.rank for candidate in answer.candidates] == [1, 2, 3]
        scores = [candidate.score for candidate in answer.candidates]
        assert scores == sorted(scores, reverse=True)
        for candidate in answer.candidates:
            one = full.verify(candidate.speaker_id, files[0], threshold=0.0)
            assert candidate.score == pytest.approx(one.score, abs=1e-5)
        assert (answer.gallery, answer.generation) == (3, full.collection().generation)


def test_how_many_candidates(people: Voices, full: Vault) -> None:
    file = people["bob"][0]
    everybody = full.identify(file, k=100, threshold=0.0).candidates
    assert len(everybody) == 3
    assert full.identify(file, k=2, threshold=0.0).candidates == everybody[:2]
    with pytest.raises(RequestError):
        full.identify(file, k=0)


def test_nobody_is_an_answer(people: Voices, full: Vault) -> None:
    answer = full.identify(people["ada"][0], threshold=1.0)
    best = answer.candidates[0]
    assert (answer.speaker_id, best.speaker_id, best.accepted) == (None, "ada", best.score >= 1.0)
    middle = (answer.candidates[0].score + answer.candidates[1].score) / 2
    split = full.identify(people["ada"][0], threshold=middle)
    assert [candidate.accepted for candidate in split.candidates] == [True, False, False]
    assert split.speaker_id == "ada"


def test_the_threshold_is_stated(people: Voices, full: Vault) -> None:
    """By default one percent over the whole gallery, as far down as the table goes."""
    file = people["ada"][0]
    default = full.identify(file).threshold
    assert default.wanted_fmr == pytest.approx(0.01 / 3)
    assert default.source == "policy"
    assert 0.975 < default.value < 0.99
    team = full.identify(file, tags=["team"]).threshold
    assert team.wanted_fmr == pytest.approx(0.01 / 2)
    beyond = full.identify(file, fmr=1e-6).threshold
    assert (beyond.source, beyond.value, beyond.fmr) == ("policy-limit", 0.99, 0.001)
    assert beyond.note is not None
    given = full.identify(file, threshold=0.3).threshold
    assert (given.source, given.value) == ("given", 0.3)


def test_tags_are_applied_before_the_top_k(people: Voices, full: Vault) -> None:
    file = people["cy"][0]
    assert full.identify(file, k=1, threshold=0.0).speaker_id == "cy"
    answer = full.identify(file, k=1, threshold=0.0, tags=["vip"])
    assert ([c.speaker_id for c in answer.candidates], answer.gallery) == (["ada"], 1)
    team = full.identify(file, k=5, threshold=0.0, tags=["team"])
    assert ({c.speaker_id for c in team.candidates}, team.gallery) == ({"ada", "bob"}, 2)
    both = full.identify(file, k=5, threshold=0.0, tags=("team", "vip"))
    assert [c.speaker_id for c in both.candidates] == ["ada"]
    nobody = full.identify(file, k=5, threshold=0.0, tags=["no such tag"])
    assert (nobody.speaker_id, nobody.candidates, nobody.gallery) == (None, (), 0)
    with pytest.raises(RequestError, match="list"):
        full.identify(file, tags="vip")


def test_an_empty_gallery(people: Voices, vault: Vault) -> None:
    vault.create_speaker("without a voice")
    answer = vault.identify(people["ada"][0])
    assert (answer.speaker_id, answer.candidates, answer.gallery) == (None, (), 0)
    assert answer.threshold.wanted_fmr == 0.01


# --- forgetting ------------------------------------------------------------------------------------------


def test_forget_a_speaker(people: Voices, settings: Settings) -> None:
    with Vault.open(settings) as vault:
        for speaker, files in people.items():
            vault.enroll(speaker, files[0])
        assert vault.identify(people["ada"][0], k=1, threshold=0.9).speaker_id == "ada"
        vector = vault.embed(people["ada"][0]).vector.tobytes()[:64]
        assert files_with(vector, settings.home)
        vault.forget("ada")
        answer = vault.identify(people["ada"][0], threshold=-1.0)
        assert {candidate.speaker_id for candidate in answer.candidates} == {"bob", "cy"}
        for missing in (vault.speaker, vault.enrollments, vault.forget):
            with pytest.raises(SpeakerNotFoundError):
                missing("ada")
    assert files_with(vector, settings.home) == []  # neither database nor index keep the voice


def files_with(content: bytes, folder: Path) -> list[Path]:
    return [file for file in folder.rglob("*") if file.is_file() and content in file.read_bytes()]


def test_forget_one_enrollment(people: Voices, vault: Vault) -> None:
    first, second = (vault.enroll("ada", file) for file in people["ada"][:2])
    vault.forget("ada", first.id)
    assert vault.enrollments("ada") == [second]
    assert vault.verify("ada", people["ada"][1], threshold=0.0).score > 0.9999
    with pytest.raises(EnrollmentNotFoundError):
        vault.forget("ada", first.id)
    vault.forget("ada", second.id)
    assert vault.speaker("ada").enrollments == 0
    with pytest.raises(NotEnrolledError):
        vault.verify("ada", people["ada"][1])
    assert vault.identify(people["ada"][1]).candidates == ()


# --- speakers and collections ----------------------------------------------------------------------------


def test_speakers(vault: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("voicevault.vault._PAGE", 3)
    made = [vault.create_speaker(f"s{n}", tags=["even"] if n % 2 == 0 else []) for n in range(8)]
    assert vault.speakers() == made
    assert [s.id for s in vault.speakers(tags=["even"])] == ["s0", "s2", "s4", "s6"]
    assert [s.id for s in vault.speakers(after="s2", limit=2)] == ["s3", "s4"]
    assert vault.create_speaker().id
    with pytest.raises(SpeakerExistsError):
        vault.create_speaker("s1")
    changed = vault.update_speaker("s1", name="One", tags=["odd"], attributes={"n": 1})
    assert (changed.name, changed.tags, changed.attributes) == ("One", ("odd",), {"n": 1})
    emptied = vault.update_speaker("s1", name=None)
    assert (emptied.name, emptied.tags) == (None, ("odd",))
    with pytest.raises(SpeakerNotFoundError):
        vault.update_speaker("nobody", name="x")


def test_collections_are_apart(people: Voices, vault: Vault) -> None:
    file = people["ada"][0]
    vault.create_collection("guests")
    vault.enroll("ada", file)
    vault.enroll("somebody", file, collection="guests")
    assert vault.identify(file, collection="guests", threshold=0.9).speaker_id == "somebody"
    assert vault.identify(file, threshold=0.9).speaker_id == "ada"
    with pytest.raises(CollectionExistsError):
        vault.create_collection("guests")
    vault.delete_collection("guests")
    assert [collection.name for collection in vault.collections()] == ["default"]
    missing = [
        lambda: vault.identify(file, collection="guests"),
        lambda: vault.verify("ada", file, collection="guests"),
        lambda: vault.enroll("ada", file, collection="guests"),
        lambda: vault.enroll_many([ManifestRow(file, "ada")], collection="guests"),
        lambda: vault.speakers(collection="guests"),
        lambda: vault.forget("ada", collection="guests"),
    ]
    for ask in missing:
        with pytest.raises(CollectionNotFoundError):
            ask()


def test_each_collection_answers_with_its_own_model(
    people: Voices, settings: Settings, tiny_model: Path, tmp_path: Path
) -> None:
    """A vault that is opened with another model, as after an upgrade, reads the collections of the first one."""
    file = people["ada"][0]
    with Vault.open(settings) as vault:
        vault.enroll("ada", file)
        first = vault.identify(file, threshold=0.9)
    folder = other_model(tiny_model, tmp_path / "other")
    with open_vault(settings.changed(model=str(folder))) as other:
        assert other.model_id != first.model_id
        there = [model.model_id for model in other.models()]
        assert there[0] == other.model_id and there.count(first.model_id) == 1
        again = other.identify(file, threshold=0.9)
        assert (again.speaker_id, again.model_id) == ("ada", first.model_id)
        assert again.candidates == first.candidates
        assert other.verify("ada", file).threshold.source == "policy"  # of the first model, kept with it
        other.create_collection("mine")
        assert other.enroll("ada", file, collection="mine").model_id == other.model_id
        with pytest.raises(NoThresholdError):  # this model has no policy
            other.verify("ada", file, collection="mine")
        with pytest.raises(NoThresholdError):
            other.identify(file, collection="mine")
        assert other.identify(file, collection="mine", threshold=0.9).model_id == other.model_id
        made = other.create_collection("theirs", first.model_id[:10])
        assert made.model_id == first.model_id
        rows = [ManifestRow(file, "ada")]
        assert other.enroll_many(rows, collection="theirs").enrolled == 1
        assert other.verify("ada", file, collection="theirs").model_id == first.model_id
        assert (
            other.embed(file, model=first.model_id).model_id == first.model_id != other.embed(file).model_id
        )
        with pytest.raises(ModelNotFoundError, match="'none'"):
            other.create_collection("nobodys", "none")


def test_embeddings_of_two_models_never_meet(
    people: Voices, settings: Settings, tiny_model: Path, tmp_path: Path
) -> None:
    file = people["ada"][0]
    with Vault.open(settings) as vault:
        vault.enroll("ada", file)
        first = vault.model_id
    folder = other_model(tiny_model, tmp_path / "other")
    shutil.rmtree(settings.models_folder)
    with open_vault(settings.changed(model=str(folder))) as other:
        assert other.model_id != first
        for ask in (
            lambda: other.identify(file, threshold=0.5),
            lambda: other.verify("ada", file, threshold=0.5),
            lambda: other.enroll("ada", file),
            lambda: other.enroll_many([ManifestRow(file, "ada")]),
        ):
            with pytest.raises(ModelMismatchError) as caught:
                ask()
            assert caught.value.facts["collection_model"] == first
        assert [speaker.id for speaker in other.speakers()] == ["ada"]  # to look is no comparison
    with Vault.open(settings) as vault:
        assert vault.identify(file, threshold=0.9).speaker_id == "ada"


def test_two_vaults_on_one_database(people: Voices, settings: Settings, tmp_path: Path) -> None:
    shared = settings.changed(database_url=settings.resolved_database_url)
    with Vault.open(shared) as one, Vault.open(shared.changed(home=tmp_path / "other home")) as two:
        one.enroll("ada", people["ada"][0])
        assert two.identify(people["ada"][0], threshold=0.9).speaker_id == "ada"
        two.enroll("bob", people["bob"][0])
        assert one.identify(people["bob"][0], threshold=0.9).speaker_id == "bob"
        one.forget("ada")
        answer = two.identify(people["ada"][0], threshold=-1.0)
        assert [candidate.speaker_id for candidate in answer.candidates] == ["bob"]
