"""An evaluation from files to numbers, with a real model and real recordings."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from train.__main__ import app
from train.conditions import CODECS
from train.embedding_cache import EmbeddingCache
from train.evaluate import read_scores, score_trials
from train.evaluate_embed import embed_recordings, load_pipeline
from train.trials import Recording, read_trials
from voicevault.embedding import EmbeddingPipeline
from voicevault.errors import AudioNotFoundError, CorruptAudioError, ManifestError, ModelNotFoundError
from voicevault.scoring.metrics import equal_error_rate
from voicevault.scoring.policy import Policy


@pytest.fixture(scope="module")
def corpus(voices: dict[str, list[Path]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with four speakers of three recordings, one of them of half a second, a manifest and a list."""
    root = tmp_path_factory.mktemp("corpus")
    rows = ["path\tspeaker\tgender\tsource"]
    paths = []
    for s, (speaker, files) in enumerate(list(voices.items())[:4]):
        for i, file in enumerate(files[:3]):
            samples, rate = soundfile.read(file)
            seconds = 0.5 if (s, i) == (0, 2) else 3.0
            path = f"{speaker}-{i}.wav"
            soundfile.write(root / path, samples[rate : rate + int(seconds * rate)], rate)
            rows.append(f"{path}\t{speaker}\t{'fm'[s % 2]}\tsource {s // 2}")
            paths.append((speaker, path))
    (root / "manifest.tsv").write_text("\n".join(rows) + "\n")
    trials = [f"{int(a == b)} {x} {y}" for i, (a, x) in enumerate(paths) for b, y in paths[i + 1 :]]
    (root / "list.trials").write_text("\n".join(trials) + "\n")
    return root


@pytest.fixture(scope="module")
def pipeline(tiny_model: Path) -> EmbeddingPipeline:
    return load_pipeline(str(tiny_model))


def test_scores_are_those_of_embedding_each_recording_by_itself(
    pipeline: EmbeddingPipeline, corpus: Path
) -> None:
    trials = read_trials(corpus / "list.trials")
    scored = score_trials(pipeline, trials, corpus, workers=0)
    alone = np.stack([pipeline.embed_one(corpus / r.path, min_speech=None).vector for r in trials.recordings])
    expected = (alone[trials.enroll] * alone[trials.test]).sum(axis=1)
    assert scored.scores == pytest.approx(expected, abs=1e-5)
    assert len(scored.scores) == 66  # not one is dropped
    short = trials.recordings.index(next(r for r in trials.recordings if r.path.endswith("-2.wav")))
    assert scored.embedded.speech_seconds[short] < 0.6
    assert scored.embedded.whole >= 1


def test_worker_processes_and_the_cache_change_no_vector(
    pipeline: EmbeddingPipeline, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("train.evaluate_embed.FEW", 0)
    monkeypatch.setattr("train.evaluate_embed.CHUNK", 5)
    recordings = [Recording(path.name) for path in sorted(corpus.glob("*.wav"))]
    here = embed_recordings(pipeline, recordings, corpus, workers=0)
    cache = EmbeddingCache(tmp_path, pipeline.encoder)
    there = embed_recordings(pipeline, recordings, corpus, workers=1, cache=cache)
    assert np.allclose(here.vectors, there.vectors, atol=1e-5)
    assert here.audio_sha256 == there.audio_sha256

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("nothing is left to embed")

    again = EmbeddingCache(tmp_path, pipeline.encoder)
    monkeypatch.setattr("train.evaluate_embed._prepare", refuse)
    kept = embed_recordings(pipeline, recordings, corpus, workers=0, cache=again)
    assert np.array_equal(kept.vectors, there.vectors)
    assert np.array_equal(kept.speech_seconds, there.speech_seconds)
    cache.path.write_bytes(cache.path.read_bytes()[:100])
    assert EmbeddingCache(tmp_path, pipeline.encoder).get("x") is None  # damaged: computed anew


def test_pieces_of_a_recording_are_recordings_of_their_own(pipeline: EmbeddingPipeline, corpus: Path) -> None:
    path = sorted(corpus.glob("*.wav"))[0].name
    pieces = [Recording(path, part=(i, 2)) for i in range(2)]
    found = embed_recordings(pipeline, [Recording(path), *pieces], corpus, workers=0)
    assert found.seconds[1:].sum() == pytest.approx(found.seconds[0], abs=0.001)
    assert not np.allclose(found.vectors[1], found.vectors[2], atol=1e-3)


def test_missing_and_broken_recordings_are_named(
    pipeline: EmbeddingPipeline, corpus: Path, tmp_path: Path
) -> None:
    with pytest.raises(AudioNotFoundError, match=r"gone\.wav"):
        embed_recordings(pipeline, [Recording("gone.wav")], corpus)
    good = sorted(corpus.glob("*.wav"))[0].read_bytes()
    (tmp_path / "good.wav").write_bytes(good)
    (tmp_path / "cut.wav").write_bytes(good[: len(good) // 2])
    (tmp_path / "list").write_text("1 good.wav cut.wav\n0 good.wav cut.wav\n")
    with pytest.raises(CorruptAudioError, match=r"cut\.wav"):
        score_trials(pipeline, read_trials(tmp_path / "list"), tmp_path)


def test_a_model_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="no model folder"):
        load_pipeline(str(tmp_path))


def test_the_command_writes_numbers_scores_pictures_and_a_report(
    tiny_model: Path, corpus: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    rates = {
        "fmr_in_sample": 0.1,
        "fmr_cross_fitted": 0.12345,
        "fnmr_in_sample": 0.2,
        "fnmr_cross_fitted": 0.3,
    }
    tuned = {"speakers_from": "<here>", "cross_fitted": {"folds": 5, "rows": {"fmr_10pct": rates}}}
    replace(Policy.load(model / "policy.json"), provenance=tuned).save(model / "policy.json")
    arguments = ["evaluate", "--model", str(model), "--trials", str(corpus / "list.trials")]
    arguments += ["--audio-root", str(corpus), "--manifest", str(corpus / "manifest.tsv"), "--workers", "0"]
    run = CliRunner().invoke(app, [*arguments, "--cost", "0.1,10,1", "--out", str(tmp_path), "--json"])
    assert run.exit_code == 0, run.output
    result = json.loads(run.stdout)
    model_id, scores, genuine, pairs = read_scores(tmp_path / "scores.tsv")
    assert result["model_id"] == model_id
    assert (result["trials"], len(scores)) == (66, 66)
    assert result["eer"] == pytest.approx(equal_error_rate(scores, genuine)[0], abs=1e-6)
    assert all((a == b) == g for (a, b), g in zip(pairs, genuine, strict=True))
    assert result["eer_interval"][0] <= result["eer"] <= result["eer_interval"][1]
    assert {cost["name"] for cost in result["costs"]} == {"min_dcf_01", "min_dcf_05", "min_dcf_1_miss10_fa1"}
    assert result["min_dcf_05"] == result["costs"][1]["min_dcf"]
    groups = {row["group"]: row for row in result["groups"]}
    assert groups["same source and gender"]["impostor"] == 0
    assert groups["same source"]["impostor"] == 18
    assert set(result["at_policy_thresholds"]) == {"fmr_10pct", "fmr_1pct", "fmr_0.1pct"}
    page = (tmp_path / "report.html").read_text()
    assert "12.345 %" in page and "(&lt;here&gt;)" in page  # the policy's rates where it was tuned
    assert page.count("data:image/png;base64,") >= 5
    assert "http" not in page  # nothing is loaded from elsewhere
    for picture in ("det", "roc", "scores", "decisions", "groups"):
        assert (tmp_path / f"{picture}.png").read_bytes().startswith(b"\x89PNG")


def test_a_list_that_contradicts_itself_is_measured_without_what_needs_its_speakers(
    tiny_model: Path, corpus: Path, tmp_path: Path
) -> None:
    lines = (corpus / "list.trials").read_text().splitlines()
    wrong = tmp_path / "wrong.trials"
    wrong.write_text("\n".join(["0" + lines[0][1:], *lines[1:]]) + "\n")
    arguments = ["evaluate", "--model", str(tiny_model), "--trials", str(wrong), "--json"]
    run = CliRunner().invoke(
        app, [*arguments, "--audio-root", str(corpus), "--out", str(tmp_path), "--workers", "0"]
    )
    assert run.exit_code == 0, run.output
    result = json.loads(run.stdout)
    assert (result["trials"], result["contradictory_labels"]) == (66, 1)
    assert result["eer"] is not None and result["eer_interval"] is None
    assert "contradict" in result["no_interval"]
    assert "identification" not in result
    assert (tmp_path / "report.html").is_file()


def test_all_pairs_of_a_manifest_leave_out_copies(tiny_model: Path, corpus: Path, tmp_path: Path) -> None:
    manifest = (corpus / "manifest.tsv").read_text()
    first = manifest.splitlines()[1].split("\t")
    (corpus / "copy.wav").write_bytes((corpus / first[0]).read_bytes())
    listing = tmp_path / "with-copy.tsv"
    listing.write_text(manifest + "\t".join(["copy.wav", *first[1:]]) + "\n")
    arguments = ["evaluate", "--model", str(tiny_model), "--manifest", str(listing), "--json", "--no-report"]
    run = CliRunner().invoke(
        app, [*arguments, "--audio-root", str(corpus), "--out", str(tmp_path / "out"), "--workers", "0"]
    )
    assert run.exit_code == 0, run.output
    assert json.loads(run.stdout)["trials"] == 66
    assert (tmp_path / "out" / "det.png").is_file()
    assert not (tmp_path / "out" / "report.html").exists()


def test_conditions_are_measured_with_equal_and_with_clean_enrollments(
    tiny_model: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("train.conditions.SNRS_DB", (5,))
    arguments = ["evaluate", "--model", str(tiny_model), "--manifest", str(corpus / "manifest.tsv"), "--json"]
    run = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path), "--workers", "0", "--conditions"])
    assert run.exit_code == 0, run.output
    found = json.loads(run.stdout)["conditions"]
    named = ["clean", "noise 5 dB", "babble 5 dB", "near room", "far room", *(c.name for c in CODECS)]
    assert [row["condition"] for row in found["rows"]] == named
    assert [row["seconds"] for row in found["lengths"]] == [1, 2, 3, 5, 10]
    assert found["lengths"][-1]["trials"] == 0
    clean = found["rows"][0]
    assert clean["matched"]["eer"] == clean["clean_enrollment"]["eer"] == found["matrix"]["eer"][0][0]
    assert "By condition" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--trials"),
        (["--trials", "LIST", "--cost", "0.1"], "three numbers"),
        (["--trials", "LIST", "--cost", "2,1,1"], "prior"),
        (["--manifest", "MANIFEST", "--impostors", "age"], "'source,gender'"),
        (["--trials", "LIST", "--noise", "EMPTY"], "no recordings of noise"),
        (["--trials", "LIST", "--impostors", "source"], "taken whole"),
    ],
)
def test_what_cannot_be_asked_is_refused_at_once(
    arguments: list[str], message: str, tiny_model: Path, corpus: Path, tmp_path: Path
) -> None:
    places = {"LIST": corpus / "list.trials", "MANIFEST": corpus / "manifest.tsv", "EMPTY": tmp_path}
    given = [str(places.get(argument, argument)) for argument in arguments]
    run = CliRunner().invoke(app, ["evaluate", "--model", str(tiny_model), *given])
    assert run.exit_code != 0
    assert message in str(run.exception)


def test_a_file_that_holds_no_scores_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "scores.tsv"
    path.write_text("label\tscore\n1\t0.5\n")
    with pytest.raises(ManifestError, match="no scores file"):
        read_scores(path)


def test_two_models_side_by_side(tiny_model: Path, corpus: Path, tmp_path: Path) -> None:
    arguments = ["compare", "--model", str(tiny_model), "--model", str(tiny_model), "--workers", "0"]
    lists = ["--trials", str(corpus / "list.trials"), "--audio-root", str(corpus), "--out", str(tmp_path)]
    run = CliRunner().invoke(app, [*arguments, *lists, "--json"])
    assert run.exit_code == 0, run.output
    first, second = json.loads(run.stdout)
    assert first["lists"] == second["lists"]
    assert first["lists"]["list"]["trials"] == 66
    assert first["lists"]["list"]["eer_difference_interval"] == [0.0, 0.0]
    assert first["ms_per_3_s"] > 0
    assert (tmp_path / "compare.md").read_text().count("\n") == 4
