"""Manifests in every form, what is refused before any time is spent, the cache, and the split."""

from __future__ import annotations

import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from train.config import FitConfig, ValidationSection
from train.corpus import Utterance, read_manifest
from train.data import BatchSampler, SpeechCache
from train.data_report import describe_corpus, suspicious_labels
from train.split import read_corpus, split_speakers
from voicevault.errors import ManifestError


@pytest.fixture
def folder(corpus: Path, tmp_path: Path) -> Path:
    """Three speakers, two recordings each."""
    root = tmp_path / "corpus"
    for speaker in ("alba", "david", "robot"):
        for name in ("1.opus", "2.opus"):
            (root / speaker).mkdir(parents=True, exist_ok=True)
            shutil.copy(corpus / speaker / name, root / speaker / name)
    return root


def seen(utterances: list[Utterance]) -> set[tuple[str, str]]:
    return {(u.path, u.speaker) for u in utterances}


def test_every_form_names_the_same_recordings(folder: Path) -> None:
    rows = [(f"{s}/{n}.opus", s) for s in ("alba", "david", "robot") for n in (1, 2)]
    (folder / "list.tsv").write_text("path\tspeaker\n" + "".join(f"{p}\t{s}\n" for p, s in rows))
    (folder / "bare.tsv").write_text("".join(f"{p}\t{s}\n" for p, s in rows))
    (folder / "list.csv").write_text("speaker,path,source\n" + "".join(f"{s},{p},x\n" for p, s in rows))
    (folder / "list.jsonl").write_text("".join(f'{{"path": "{p}", "speaker": "{s}"}}\n' for p, s in rows))
    kaldi = folder / "kaldi"
    kaldi.mkdir()
    (kaldi / "wav.scp").write_text("".join(f"u{i} {p}\n" for i, (p, _) in enumerate(rows)))
    (kaldi / "utt2spk").write_text("".join(f"u{i} {s}\n" for i, (_, s) in enumerate(rows)))
    for form in ("list.tsv", "bare.tsv", "list.csv", "list.jsonl", "kaldi"):
        assert seen(read_manifest(folder / form, folder)) == set(rows), form
    shutil.rmtree(kaldi)
    assert seen(read_manifest(folder)) == set(rows)
    assert {u.source for u in read_manifest(folder / "list.csv")} == {"x"}


def test_folders_between_speaker_and_recording_are_sessions(folder: Path) -> None:
    (folder / "alba" / "video1").mkdir()
    (folder / "alba" / "1.opus").rename(folder / "alba" / "video1" / "1.opus")
    assert {u.session for u in read_manifest(folder) if u.speaker == "alba"} == {"video1", "-"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path\tspeaker\nalba/1.opus\ta\nnone.opus\tb\n", "1 recordings that are not there"),
        ("path\tspeaker\nalba/1.opus\ta\nalba/2.opus\ta\n", "one speaker only"),
        ("path\tspeaker\nalba/1.opus\ta\nalba/1.opus\tb\n", "twice"),
    ],
)
def test_wrong_manifests_are_refused(folder: Path, text: str, message: str) -> None:
    (folder / "list.tsv").write_text(text)
    with pytest.raises(ManifestError, match=message):
        read_manifest(folder / "list.tsv")


def test_commands_in_kaldi_folders_are_not_run(folder: Path) -> None:
    (folder / "wav.scp").write_text("u1 touch /tmp/pwned |\n")
    (folder / "utt2spk").write_text("u1 a\n")
    with pytest.raises(ManifestError, match="none is run"):
        read_manifest(folder)


def test_the_cache_skips_what_it_cannot_use_and_follows_its_corpus(folder: Path, tmp_path: Path) -> None:
    (folder / "alba" / "broken.wav").write_bytes(b"RIFF nothing")
    cache = SpeechCache.build(read_manifest(folder), folder, tmp_path / "cache")
    assert (cache.skipped, len(cache.utterances)) == (1, 6)
    (skipped,) = (tmp_path / "cache").glob("*/skipped.tsv")
    assert skipped.read_text(encoding="utf-8").startswith("alba/broken.wav\tAUDIO_")
    first = cache.read(cache.utterances[0])
    assert first.dtype == np.float32
    assert 0.02 < float(np.sqrt(np.square(first).mean())) < 0.1  # at -26 dBFS

    again = SpeechCache.build(read_manifest(folder), folder, tmp_path / "cache")
    assert again.digest == cache.digest
    # Other speech of the same size.
    path = folder / "robot" / "1.opus"
    size, changed = path.stat().st_size, (folder / "robot" / "2.opus").read_bytes()
    path.write_bytes(changed[:size].ljust(size, b"\0"))
    assert SpeechCache.build(read_manifest(folder), folder, tmp_path / "cache").digest != cache.digest
    shutil.rmtree(folder / "robot")
    other = SpeechCache.build(read_manifest(folder), folder, tmp_path / "cache")
    assert other.digest != cache.digest
    assert {u.speaker for u in other.utterances} == {"alba", "david"}


def test_nothing_usable_is_an_error(folder: Path, tmp_path: Path) -> None:
    for path in folder.rglob("*.opus"):
        path.write_bytes(b"nothing")
    with pytest.raises(
        ManifestError,
        match=r"not one of the first 6 .* can be used; the last of them: robot/2\.opus: The content",
    ):
        SpeechCache.build(read_manifest(folder), folder, tmp_path / "cache")


def test_a_corpus_of_which_nothing_can_be_used_is_given_up_early(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("train.data.HOPELESS", 3)
    for path in (folder / "alba").glob("*.opus"):
        path.write_bytes(b"nothing")
    assert len(SpeechCache.build(read_manifest(folder), folder, tmp_path / "one").utterances) == 4
    (folder / "david" / "1.opus").write_bytes(b"nothing")
    with pytest.raises(ManifestError, match=r"not one of the first 3 .*: david/1\.opus"):
        SpeechCache.build(read_manifest(folder), folder, tmp_path / "two")


def test_a_speaker_with_one_recording_is_an_error_where_the_config_says_so(
    folder: Path, tmp_path: Path
) -> None:
    (folder / "robot" / "2.opus").unlink()
    settings = {"name": "x", "optimiser": {"steps": 1}, "data": {"min_recordings": 2}}
    with pytest.raises(
        ManifestError, match=r"1 speakers have fewer than 2 recordings, the first of them 'robot'"
    ):
        read_corpus(FitConfig.model_validate(settings), folder, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def utterances(speakers: int, recordings: int, source: str = "s", seconds: float = 3.0) -> list[Utterance]:
    length = int(seconds * 16_000)
    return [
        Utterance(f"{source}/{s}/{r}", f"{source}{s}", source, "-", 0, length)
        for s in range(speakers)
        for r in range(recordings)
    ]


def test_a_split_shares_no_speaker_and_is_drawn_by_name(tmp_path: Path) -> None:
    every = utterances(40, 3) + utterances(10, 2, "t")
    split = split_speakers(every, ValidationSection(share=0.2), 1)
    kept, trained = {u.speaker for u in split.validation}, {u.speaker for u in split.training}
    assert not kept & trained
    assert (len([s for s in kept if s.startswith("s")]), len([s for s in kept if s.startswith("t")])) == (
        8,
        2,
    )
    shuffled = split_speakers(every[::-1], ValidationSection(share=0.2), 1)
    assert {u.speaker for u in shuffled.validation} == kept
    assert {u.speaker for u in split_speakers(every, ValidationSection(share=0.2), 2).validation} != kept


def test_a_refit_trains_on_every_recording() -> None:
    every = utterances(6, 3)
    split = split_speakers(every, ValidationSection(refit=True), 1)
    assert (split.training, split.validation, split.closed) == (every, [], [])
    for measured in ({"augmented": True}, {"recordings": 5}, {"patience": 2}, {"speakers": {"s": 2}}):
        with pytest.raises(ValueError, match=f"measures nothing: leave out {next(iter(measured))}"):
            ValidationSection(refit=True, **measured)  # type: ignore[arg-type]


def test_a_single_recording_is_cut_into_pieces_that_do_not_overlap() -> None:
    split = split_speakers(utterances(6, 1, seconds=9.0), ValidationSection(speakers={"s": 2}, pieces=3), 1)
    assert len(split.validation) == 6
    for speaker in {u.speaker for u in split.validation}:
        pieces = sorted((u.start, u.stop) for u in split.validation if u.speaker == speaker)
        assert all(stop <= start for (_, stop), (start, _) in pairwise(pieces))


@pytest.mark.parametrize(
    ("every", "section"),
    [
        (utterances(3, 2), ValidationSection(share=0.5)),
        (utterances(5, 2), ValidationSection(speakers={"s": 5})),
        (utterances(5, 2), ValidationSection(speakers={"other": 2})),
        (utterances(9, 1, seconds=1.0), ValidationSection(speakers={"s": 2})),
    ],
)
def test_too_few_speakers_to_keep_some_out(every: list[Utterance], section: ValidationSection) -> None:
    with pytest.raises(ManifestError, match=r"kept out|keep two"):
        split_speakers(every, section, 1)


def test_draws_depend_on_seed_and_step_alone(folder: Path, tmp_path: Path) -> None:
    cache = SpeechCache.build(read_manifest(folder), folder, tmp_path / "cache")
    sampler = BatchSampler(cache, cache.utterances, {}, 5)
    crops, labels = sampler.draw(3, 2, 16_000)
    again, same = BatchSampler(cache, cache.utterances, {}, 5).draw(3, 2, 16_000)
    assert np.array_equal(crops, again)
    assert np.array_equal(labels, same)
    assert not np.array_equal(crops, sampler.draw(4, 2, 16_000)[0])
    assert labels.tolist()[:2] == labels.tolist()[2:]
    assert len(set(labels.tolist())) == 2
    # Longer than any recording: continued, never silent.
    long, _ = sampler.draw(0, 2, 30 * 16_000)
    assert long.shape == (4, 30 * 16_000)
    assert np.abs(long).reshape(4, -1, 16_000).max(axis=2).min() > 0.0
    with pytest.raises(ManifestError, match="no recording of these sources"):
        BatchSampler(cache, cache.utterances, {"elsewhere": 1.0}, 5)


def test_a_speaker_in_two_collections_is_drawn_from_both(folder: Path, tmp_path: Path) -> None:
    """As where the same staff is on the telephone and in the office."""
    lines = [
        f"{name}/{i}.opus\t{name}\t{source}"
        for source, i in (("telephone", 1), ("office", 2))
        for name in ("alba", "david", "robot")
    ]
    (folder / "m.tsv").write_text("\n".join(["path\tspeaker\tsource", *lines, ""]), encoding="utf-8")
    cache = SpeechCache.build(read_manifest(folder / "m.tsv"), folder, tmp_path / "cache")
    sampler = BatchSampler(cache, cache.utterances, {"office": 1.0, "telephone": 0.001}, 5)
    starts = {u.path: cache.read(u)[:400] for u in cache.utterances}
    drawn = [set[str](), set[str]()]
    for step in range(20):
        shortest = min(u.stop - u.start for u in cache.utterances)
        crops, labels = sampler.draw(step, 3, shortest // 2)
        for row, (crop, label) in enumerate(zip(crops, labels, strict=True)):
            own = [cache.read(u) for u in cache.utterances if u.speaker == sampler.classes[label]]
            (place,) = [i for i, whole in enumerate(own) if crop.tobytes() in whole.tobytes()]
            drawn[row // 3].add(("telephone", "office")[place])
    assert len(starts) == 6
    assert drawn == [{"office"}, {"telephone"}]
    assert {u.source for u in sampler.recordings("alba")} == {"telephone", "office"}

    settings = {
        "name": "x",
        "data": {"manifest": "m.tsv"},
        "optimiser": {"steps": 1},
        "loss": {"rivals": "collection"},
    }
    with pytest.raises(
        ManifestError, match=r"3 speakers are in several collections, the first of them 'alba'"
    ):
        read_corpus(FitConfig.model_validate(settings), folder, tmp_path / "cache")
    settings["data"] = {"manifest": "m.tsv", "alike": [["office", "telephone"]]}
    with pytest.raises(ManifestError, match="four speakers"):  # which is what it would have been without
        read_corpus(FitConfig.model_validate(settings), folder, tmp_path / "cache")


def test_the_report_finds_doubles_and_wrong_labels(folder: Path, tmp_path: Path, tiny_model: Path) -> None:
    shutil.copy(folder / "alba" / "1.opus", folder / "david" / "copy.opus")
    cache = SpeechCache.build(read_manifest(folder), folder, tmp_path / "cache")
    report = describe_corpus(cache)
    assert (report["speakers"], report["recordings"]) == (3, 7)
    assert report["doubles"] == [["alba/1.opus", "david/copy.opus"]]
    assert sum(facts["recordings"] for facts in report["sources"].values()) == 7
    # The same recordings under two names: their centroids coincide whatever the model.
    shutil.copytree(folder / "robot", folder / "robot2")
    both = SpeechCache.build(read_manifest(folder), folder, tmp_path / "cache")
    pairs = suspicious_labels(both, tiny_model)["speakers_that_coincide"]
    assert {"score": 1.0, "what": "robot = robot2"} in pairs


def test_recordings_are_kept_out_of_speakers_who_have_three() -> None:
    every = utterances(9, 3) + utterances(9, 2, "two") + utterances(9, 3, "other")
    section = ValidationSection(speakers={"s": 2}, recordings=5)
    split = split_speakers(every, section, 1, {"s": 1.0, "two": 1.0})
    assert len(split.closed) == len({u.speaker for u in split.closed}) == 5
    assert {u.source for u in split.closed} == {"s"}
    assert {u.path for u in split.training} == {u.path for u in every} - {
        u.path for u in split.closed + split.validation
    }
    assert split_speakers(every[::-1], section, 1, ["s"]).closed == split.closed
    assert split_speakers(every, ValidationSection(speakers={"s": 2}), 1).closed == []
    assert len(split_speakers(every, ValidationSection(speakers={"s": 2}, recordings=99), 1).closed) == 16
    with pytest.raises(ManifestError, match=r"validation\.recordings = 0"):
        split_speakers(utterances(9, 2), ValidationSection(speakers={"s": 2}, recordings=5), 1)


def test_a_second_training_keeps_out_whom_the_first_one_kept_out() -> None:
    every = utterances(40, 3)

    def kept(section: ValidationSection, seed: int) -> set[str]:
        return {u.speaker for u in split_speakers(every, section, seed).validation}

    first = kept(ValidationSection(share=0.2), 1)
    assert (
        kept(ValidationSection(share=0.2, seed=1), 2)
        == kept(ValidationSection(share=0.2, seed=1), 3)
        == first
    )
    assert kept(ValidationSection(share=0.2), 2) != first


def test_noise_and_rooms_in_the_corpus_folder_are_no_speakers(folder: Path, tmp_path: Path) -> None:
    for speaker in ("keith", "mauri"):
        shutil.copytree(folder / "alba", folder / speaker)
    for other in ("noise/street", "rooms"):
        shutil.copytree(folder / "alba", folder / other)
    config = {
        "name": "x",
        "optimiser": {"steps": 1},
        "augment": {"noise_folder": "noise", "room_folder": "rooms"},
    }
    corpus = read_corpus(FitConfig.model_validate(config), folder, tmp_path / "cache")
    heard = {u.speaker for u in corpus.training + corpus.validation}
    assert heard == {"alba", "david", "robot", "keith", "mauri"}
