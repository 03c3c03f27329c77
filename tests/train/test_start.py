"""A training that starts from a model: whose shape it has, how it goes on, and what is exported of it."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from train.__main__ import app
from train.config import FitConfig, read_config
from train.fit import STATE_FILE, Fit
from train.provenance import PROVENANCE_FILE
from voicevault.encoder.checkpoint import load_checkpoint, save_checkpoint
from voicevault.encoder.lazy import read_identity
from voicevault.errors import CheckpointError, RequestError, SettingsError


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs") / "cache"


@pytest.fixture
def any_model(config_file: Path) -> Path:
    """The small config without its [model], and of four steps."""
    text = re.sub(r"\[model\]\n([a-z_]+ = .+\n)+", "", config_file.read_text(encoding="utf-8"))
    config_file.write_text(text.replace("steps = 12", "steps = 4"), encoding="utf-8")
    return config_file


def fit(config: FitConfig, corpus: Path, run: Path, cache: Path, init: Path | None = None) -> Fit:
    return Fit(config, corpus, run, cache, init=init, say=lambda line: None)


def exported(run: Path, to: Path, *options: str) -> Path:
    done = CliRunner().invoke(app, ["export", "--run", str(run), "--to", str(to), *options])
    if done.exception is not None:
        raise done.exception
    return to


def with_facts(state: Path, *dropped: str) -> None:
    """The state as it was before these facts were in it."""
    with safe_open(state, framework="pt") as file:
        facts = json.loads(file.metadata()["facts"])
    kept = {key: value for key, value in facts.items() if key not in dropped}
    save_file(load_file(state), state, {"facts": json.dumps(kept)})


def test_a_run_that_began_with_a_model_is_exported_without_it(
    any_model: Path, corpus: Path, tmp_path: Path, cache: Path, tiny_model: Path
) -> None:
    shutil.copytree(tiny_model, tmp_path / "start")
    run = cache.parent / "begun"
    training = fit(read_config(any_model), corpus, run, cache, tmp_path / "start")
    training.run()
    identity = training.export(tmp_path / "at-once")
    noted = (run / PROVENANCE_FILE).read_bytes()
    facts = json.loads(noted)
    assert facts["init"] == str(tmp_path / "start")
    assert facts["init_model_id"] == read_identity(tiny_model).model_id
    # A state of before it said which model it is: what the run noted beside it does.
    before = cache.parent / "before"
    shutil.copytree(run, before)
    with_facts(before / STATE_FILE, "init", "model")
    assert read_identity(exported(before, tmp_path / "older")).model_id == identity
    shutil.rmtree(tmp_path / "start")
    assert read_identity(exported(run, tmp_path / "later")).model_id == identity
    given = exported(run, tmp_path / "given", "--config", str(any_model), "--corpora", str(corpus))
    assert read_identity(given).model_id == identity
    model, _ = load_checkpoint(given)
    assert model.config.architecture == load_checkpoint(tiny_model)[0].config.architecture
    assert model.config.name == "small"
    assert (run / PROVENANCE_FILE).read_bytes() == noted
    with pytest.raises(CheckpointError, match="is it a model folder"):
        exported(before, tmp_path / "none")


def test_a_run_goes_on_from_the_model_it_began_with_alone(
    any_model: Path, corpus: Path, tmp_path: Path, cache: Path, tiny_model: Path
) -> None:
    config, run = read_config(any_model), tmp_path / "run"
    fit(config, corpus, run, cache, tiny_model).save()
    assert fit(config, corpus, run, cache).start.init == read_identity(tiny_model).model_id
    assert fit(config, corpus, run, cache, tiny_model)._keeps_norms
    other, _ = load_checkpoint(tiny_model)
    with torch.no_grad():
        other.network.project.weight.mul_(2.0)
    save_checkpoint(other, tmp_path / "other")
    with pytest.raises(CheckpointError, match=r"started from .* leave --init out"):
        fit(config, corpus, run, cache, tmp_path / "other")
    fresh = tmp_path / "fresh"
    fit(config, corpus, fresh, cache).save()
    with pytest.raises(CheckpointError, match="random weights"):
        fit(config, corpus, fresh, cache, tiny_model)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("[model]\nchannels = 64\n", r"\[model\] .*channels 64 against 32.* leave \[model\] out"),
        ("[frontend]\nhop_ms = 5.0\n", r"\[frontend\] .* \(hop_ms 5.0 against 10.0\)"),
        ('[frontend]\ntype = "mfcc"\ncoefficients = 80\nmel_bins = 80\n', "has a FrontendConfig"),
    ],
)
def test_a_config_that_describes_another_model_is_refused_before_any_time_is_spent(
    any_model: Path, corpus: Path, tmp_path: Path, tiny_model: Path, lines: str, message: str
) -> None:
    any_model.write_text(any_model.read_text(encoding="utf-8") + lines, encoding="utf-8")
    with pytest.raises(SettingsError, match=message):
        fit(read_config(any_model), corpus, tmp_path / "run", tmp_path / "cache", tiny_model)
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "cache").exists()


def test_a_config_that_describes_the_same_model_is_taken(
    any_model: Path, corpus: Path, tmp_path: Path, cache: Path, tiny_model: Path
) -> None:
    same = "[model]\nchannels = 32\naggregate = 96\nembedding = 64\nstride = 2\nse_channels = 16\nattention_channels = 16\n"
    any_model.write_text(any_model.read_text(encoding="utf-8") + same, encoding="utf-8")
    assert fit(read_config(any_model), corpus, tmp_path / "run", cache, tiny_model).start.init


def test_what_a_model_cannot_do_is_said_before_any_time_is_spent(
    any_model: Path, corpus: Path, tmp_path: Path, wavlm_model: Path
) -> None:
    text = any_model.read_text(encoding="utf-8").replace("[data]\n", "[data]\ntract_share = 0.5\n")
    any_model.write_text(text, encoding="utf-8")
    with pytest.raises(SettingsError, match=r"tract_share .* set it to 0"):
        fit(read_config(any_model), corpus, tmp_path / "run", tmp_path / "cache", wavlm_model)
    with pytest.raises(CheckpointError, match="is it a model folder"):
        fit(read_config(any_model), corpus, tmp_path / "run", tmp_path / "cache", tmp_path)


def test_a_folder_without_a_training_is_not_exported(
    any_model: Path, corpus: Path, tmp_path: Path, cache: Path
) -> None:
    with pytest.raises(CheckpointError, match=r"has no state\.safetensors"):
        exported(tmp_path / "typo", tmp_path / "model")
    assert not (tmp_path / "typo").exists()
    run = cache.parent / "noted"
    fit(read_config(any_model), corpus, run, cache).save()
    (run / PROVENANCE_FILE).unlink()
    with pytest.raises(RequestError, match="name it by --config"):
        exported(run, tmp_path / "model")
