"""From scores and recordings to the files that a vault decides by."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from train.__main__ import app
from train.evaluate import Scored
from train.evaluate_embed import Embedded
from train.trials import Recording, all_pairs
from train.tune import calibrate, fit_policy
from train.tune_crossfit import _folds, cross_fitted
from train.tune_refit import both_rates
from train.tune_speakers import draw_cohort, training_speakers
from voicevault.encoder import default_model_dir
from voicevault.encoder.lazy import read_identity
from voicevault.errors import ModelMismatchError, RequestError
from voicevault.scoring.normalise import Cohort
from voicevault.scoring.policy import Policy, PolicyRow

CONFIG = """
name = "small"
seed = 3
[data]
manifest = "train.tsv"
weights = {books = 1.0}
[validation]
speakers = {books = 3}
[optimiser]
steps = 1
"""


def scored(speakers: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, list[tuple[str, str]]]:
    """All pairs of three recordings of each speaker, as a model of some worth would score them."""
    random = np.random.default_rng(seed)
    owner = np.repeat(np.arange(speakers), 3)
    vectors = random.normal(size=(speakers, 24))[owner] + random.normal(size=(len(owner), 24)) * 0.9
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    a, b = np.triu_indices(len(owner), 1)
    pairs = [(f"s{owner[i]:03}", f"s{owner[j]:03}") for i, j in zip(a, b, strict=True)]
    return (vectors[a] * vectors[b]).sum(axis=1), owner[a] == owner[b], pairs


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Path:
    """A copy of the model that a test may write to, without thresholds."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    (folder / "policy.json").unlink()
    return folder


@pytest.fixture(scope="module")
def corpus(voices: dict[str, list[Path]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("corpus")
    rows = ["path\tspeaker\tgender\tsource\tsession"]
    for s, (speaker, files) in enumerate(list(voices.items())[:7]):
        for file in files[:3]:
            shutil.copyfile(file, root / f"{speaker}-{file.name}")
            rows.append(f"{speaker}-{file.name}\t{speaker}\t{'fm'[s % 2]}\tbooks\t-")
    (root / "train.tsv").write_text("\n".join(rows) + "\n")
    (root / "config.toml").write_text(CONFIG)
    return root


def test_calibration_is_worth_something_on_speakers_it_was_not_fitted_on() -> None:
    scores, genuine, pairs = scored(80)
    calibration, worth = calibrate(scores, genuine, pairs)
    assert calibration is not None and calibration.p_target == worth["prior"] == 0.05
    assert worth["held_out_cllr_after"] < 0.5 * worth["held_out_cllr_before"]
    assert worth["held_out_min_cllr"] <= worth["held_out_cllr_after"] < 1.25 * worth["held_out_min_cllr"]


def test_a_policy_keeps_thresholds_calibration_and_where_they_are_from(tmp_path: Path) -> None:
    scores, genuine, pairs = scored(80)
    policy = fit_policy("m", scores, genuine, pairs, provenance={"speakers_from": "here"})
    policy.save(tmp_path / "policy.json")
    loaded = Policy.load(tmp_path / "policy.json", "m")
    assert loaded == policy
    rows = {row.name: row for row in loaded.thresholds}
    assert set(rows) == {"fmr_10pct", "fmr_1pct", "fmr_0.1pct", "eer", "min_dcf_01", "min_dcf_05"}
    assert rows["fmr_0.1pct"].threshold is None  # 28 false matches cannot be 30 pairs of speakers
    assert rows["fmr_10pct"].threshold is not None
    assert loaded.provenance["speakers"] == 80
    assert loaded.provenance["impostor_trials"] == int((~genuine).sum())
    assert loaded.threshold_for(0.01).value == rows["fmr_1pct"].threshold


def test_cross_fitted_rates_are_those_of_people_who_did_not_set_the_threshold() -> None:
    scores, genuine, pairs = scored(80)
    policy = fit_policy("m", scores, genuine, pairs, provenance={})
    found = policy.provenance["cross_fitted"]
    kept = {row.name: row for row in policy.thresholds if row.threshold is not None}
    assert set(found["rows"]) == set(kept)
    for name, row in found["rows"].items():
        threshold = kept[name].threshold
        assert row["fmr_in_sample"] == (scores[~genuine] >= threshold).mean() <= kept[name].fmr
        low, high = row["thresholds"]
        assert low <= threshold <= high
        assert low < high
        # What the folds' thresholds may give lies between the rates at the lowest and at the highest of them.
        assert (
            (scores[~genuine] >= high).mean() <= row["fmr_cross_fitted"] <= (scores[~genuine] >= low).mean()
        )
        assert (scores[genuine] < low).mean() <= row["fnmr_cross_fitted"] <= (scores[genuine] < high).mean()


def test_nobody_takes_part_in_setting_the_threshold_that_decides_them() -> None:
    scores, genuine, pairs = scored(40)
    fold = _folds({speaker for pair in pairs for speaker in pair})
    assert np.bincount(list(fold.values())).tolist() == [8] * 5
    thresholds: dict[frozenset[int], float] = {}
    accepted = []
    for score, pair in zip(scores, pairs, strict=True):
        mine = frozenset(fold[speaker] for speaker in pair)
        if mine not in thresholds:
            others = np.array([not mine & {fold[a], fold[b]} for a, b in pairs])
            impostors = scores[others & ~genuine]
            thresholds[mine] = min(s for s in scores[others] if (impostors >= s).mean() <= 0.1)
        accepted.append(score >= thresholds[mine])
    rows = fit_policy("m", scores, genuine, pairs, provenance={}).thresholds
    found = cross_fitted(scores, genuine, pairs, rows)["rows"]["fmr_10pct"]
    assert found["fmr_cross_fitted"] == pytest.approx(np.array(accepted)[~genuine].mean())
    assert found["fnmr_cross_fitted"] == pytest.approx(1 - np.array(accepted)[genuine].mean())
    assert found["thresholds"] == [min(thresholds.values()), max(thresholds.values())]


def test_few_speakers_are_not_cross_fitted_but_it_is_said_why() -> None:
    scores, genuine, pairs = scored(5)
    row = PolicyRow("fmr_10pct", 0.1, 0.5, None, 1, 1, 5)
    # Without two of five people three are left, without an impostor pair less.
    assert "rows" in cross_fitted(scores, genuine, pairs, [row])
    assert "too few speakers" in cross_fitted(*scored(3), [row])["reason"]
    assert "no threshold" in cross_fitted(scores, genuine, pairs, [])["reason"]


def test_trials_without_error_have_no_calibration_but_say_so() -> None:
    _, genuine, pairs = scored(6)
    policy = fit_policy("m", np.where(genuine, 0.9, 0.1), genuine, pairs, provenance={})
    assert policy.calibration is None
    assert "cannot be calibrated" in policy.provenance["calibration"]["reason"]


def test_the_cohort_is_shared_out_as_the_training_batches_are() -> None:
    recordings = [
        Recording(f"{source}{s}-{i}", f"{source}{s}", source)
        for source, speakers in (("a", 50), ("b", 8), ("c", 50))
        for s in range(speakers)
        for i in range(5)
    ]
    drawn = draw_cohort(recordings, 40, {"a": 0.5, "b": 0.5})
    people = Counter(next(iter(r.speaker)) for r in {r.speaker: r for r in drawn}.values())
    assert people == {"a": 32, "b": 8}  # b has no more
    assert max(Counter(r.speaker for r in drawn).values()) == 3
    assert drawn == draw_cohort(list(reversed(recordings)), 40, {"a": 0.5, "b": 0.5})
    assert len({r.speaker for r in draw_cohort(recordings, 1000, {})}) == 108


def test_the_provenance_names_the_seed_that_the_speakers_were_drawn_with(
    corpus: Path, tmp_path: Path
) -> None:
    text = (corpus / "config.toml").read_text(encoding="utf-8")
    config = tmp_path / "config.toml"
    config.write_text(text.replace("[validation]", "[validation]\nseed = 8"), encoding="utf-8")
    assert training_speakers(config, corpus, tmp_path / "cache").provenance["seed"] == 8


def test_a_model_is_tuned_on_the_speakers_that_its_training_kept_out(
    model: Path, corpus: Path, tmp_path: Path
) -> None:
    arguments = ["tune", "--model", str(model), "--config", str(corpus / "config.toml"), "--workers", "0"]
    folders = ["--corpora", str(corpus), "--cache", str(tmp_path / "cache"), "--out", str(tmp_path / "out")]
    run = CliRunner().invoke(app, [*arguments, *folders, "--cohort", "4"])
    assert run.exit_code == 0, run.output
    identity = read_identity(model).model_id
    policy = Policy.load(model / "policy.json", identity)
    facts = policy.provenance
    assert (facts["speakers"], facts["recordings"], facts["trials"]) == (3, 9, 36)
    assert (facts["seed"], facts["training"], facts["impostors_share"]) == (3, "small", ["source"])
    assert all(
        row.threshold is None and row.reason for row in policy.thresholds
    )  # three speakers promise nothing
    people = training_speakers(corpus / "config.toml", corpus, tmp_path / "cache")
    assert not {r.speaker for r in people.held_out} & {r.speaker for r in people.trained}
    cohort = Cohort.load(model / "cohort.safetensors", identity)
    assert len(cohort.vectors) == 4
    assert facts["as_norm"]["cohort"] == 4
    assert "36 trials of 3 speakers" in run.output
    assert facts["cross_fitted"] == {"reason": "no threshold to measure"}
    assert (tmp_path / "out" / "scores.png").is_file()


def test_a_refit_has_the_thresholds_of_its_stand_in_and_a_cohort_of_its_own(
    model: Path, corpus: Path, tmp_path: Path
) -> None:
    """The default model stands in for a tiny one, whose scores are others."""
    arguments = ["tune", "--model", str(model), "--config", str(corpus / "config.toml"), "--workers", "0"]
    folders = ["--corpora", str(corpus), "--cache", str(tmp_path / "cache"), "--out", str(tmp_path / "out")]
    untouched = (default_model_dir() / "policy.json").read_bytes()
    run = CliRunner().invoke(app, [*arguments, *folders, "--cohort", "4", "--stand-in", "default"])
    assert run.exit_code == 0, run.output
    identity, stand_in = read_identity(model).model_id, read_identity(default_model_dir()).model_id
    policy = Policy.load(model / "policy.json", identity)
    assert policy.provenance["scores_of"] == stand_in
    assert (policy.provenance["trials"], policy.provenance["lent"]["speakers"]) == (36, 4)
    assert len(Cohort.load(model / "cohort.safetensors", identity).vectors) == 4
    assert f"of a stand-in, {stand_in}" in run.output
    assert (default_model_dir() / "policy.json").read_bytes() == untouched

    for wrong, message in (
        (["--config", "x.toml", "--cohort", "0", "--stand-in", "default"], "a cohort of the others"),
        (["--manifest", str(corpus / "train.tsv"), "--stand-in", "default"], "needs --config"),
        ([*arguments[3:], *folders, "--cohort", "4", "--stand-in", str(model)], "is the model itself"),
    ):
        refused = CliRunner().invoke(app, ["tune", "--model", str(model), *wrong])
        assert isinstance(refused.exception, RequestError), refused.output
        assert message in refused.exception.message


def test_both_models_are_measured_at_the_stand_ins_thresholds() -> None:
    recordings = [Recording(f"{s}-{i}", s, "books") for s in "abcd" for i in range(2)]
    trials = all_pairs(recordings, [r.name for r in recordings])
    nothing = Embedded(np.zeros((8, 2), np.float32), np.ones(8), np.ones(8), ("",) * 8, {})
    one, other = (
        Scored(trials, np.where(trials.genuine, *rates), nothing) for rates in ((0.6, 0.4), (0.5, 0.1))
    )
    rows = [PolicyRow("eer", 0.1, 0.3, None, 1, 1, 1), PolicyRow("fmr_1pct", 0.01, None, None, 1, 1, 1)]
    found = both_rates(one, other, rows)
    assert (found["speakers"], found["genuine_trials"], found["impostor_trials"]) == (4, 4, 24)
    assert found["rows"] == {
        "eer": {"threshold": 0.3, "fmr": 1.0, "fmr_stand_in": 0.0, "fnmr": 0.0, "fnmr_stand_in": 0.0}
    }


def test_a_scores_file_tunes_as_its_recordings_do_and_only_its_own_model(
    model: Path, corpus: Path, tmp_path: Path
) -> None:
    manifest, out = str(corpus / "train.tsv"), ["--workers", "0", "--out", str(tmp_path / "out")]
    evaluated = CliRunner().invoke(
        app, ["evaluate", "--model", str(model), "--manifest", manifest, "--no-report", *out]
    )
    assert evaluated.exit_code == 0, evaluated.output
    one = CliRunner().invoke(
        app, ["tune", "--model", str(model), "--manifest", manifest, "--impostors", "all", "--json", *out]
    )
    assert one.exit_code == 0, one.output
    scores = tmp_path / "out" / "scores.tsv"
    other = CliRunner().invoke(app, ["tune", "--model", str(model), "--scores", str(scores), "--json", *out])
    assert other.exit_code == 0, other.output
    rows, again = json.loads(one.stdout)["thresholds"], json.loads(other.stdout)["thresholds"]
    for row, same in zip(rows, again, strict=True):
        assert row["threshold"] == pytest.approx(same["threshold"], abs=1e-6)
        assert row["reason"] == same["reason"]
    assert "speech 4 to 8 s" in json.loads(one.stdout)["groups"]
    text = scores.read_text().replace(read_identity(model).model_id, "0" * 32)
    scores.write_text(text)
    refused = CliRunner().invoke(app, ["tune", "--model", str(model), "--scores", str(scores)])
    assert isinstance(refused.exception, ModelMismatchError)


def test_thresholds_are_not_replaced_by_none(tiny_model: Path, corpus: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    before = (folder / "policy.json").read_bytes()
    arguments = ["tune", "--model", str(folder), "--manifest", str(corpus / "train.tsv"), "--workers", "0"]
    run = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "out")])
    assert isinstance(run.exception, RequestError)
    assert "they are kept" in run.exception.message
    assert (folder / "policy.json").read_bytes() == before


def test_what_cannot_be_asked_is_refused_at_once(model: Path, corpus: Path) -> None:
    manifest = str(corpus / "train.tsv")
    for arguments, message in (
        ([], "one of --manifest"),
        (["--manifest", manifest, "--config", "x.toml"], "one of --manifest"),
        (["--manifest", manifest, "--prior", "1"], "--prior"),
        (["--manifest", manifest, "--cohort-manifest", manifest], "in the trials and in the cohort"),
    ):
        run = CliRunner().invoke(app, ["tune", "--model", str(model), *arguments])
        assert isinstance(run.exception, RequestError)
        assert message in run.exception.message
    assert not (model / "policy.json").exists()
