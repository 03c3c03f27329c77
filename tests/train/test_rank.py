"""Models ranked on the speakers that a config keeps out: the numbers of a training, best first."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from train.__main__ import app
from train.config import read_config
from train.fit import Fit
from voicevault.encoder import default_model_dir, read_identity
from voicevault.errors import ManifestError, ModelNotFoundError


def rank(config: Path, corpus: Path, cache: Path, *models: str) -> str:
    arguments = ["rank", "--config", str(config), "--corpora", str(corpus), "--cache", str(cache), *models]
    run = CliRunner().invoke(app, arguments)
    if run.exception is not None:
        raise run.exception
    return run.stdout


@pytest.fixture
def augmented(config_file: Path) -> Path:
    text = config_file.read_text(encoding="utf-8").replace("share = 0.25", "share = 0.25\naugmented = true")
    config_file.write_text(text, encoding="utf-8")
    return config_file


def test_the_better_model_comes_first_with_the_rates_that_a_training_measures(
    augmented: Path, corpus: Path, tmp_path: Path, tiny_model: Path
) -> None:
    cache = tmp_path / "cache"
    found: dict[str, Any] = json.loads(rank(augmented, corpus, cache, "--json", str(tiny_model), "default"))
    first, second = found["models"]
    assert (first["model"], second["model"]) == ("default", str(tiny_model))
    assert first["model_id"] == read_identity(default_model_dir()).model_id
    assert first["eer"] < second["eer"]
    lines: list[str] = []
    text = augmented.read_text(encoding="utf-8")
    augmented.write_text(text[: text.index("[model]")] + text[text.index("[augment]") :], encoding="utf-8")
    training = Fit(read_config(augmented), corpus, tmp_path / "run", cache, init=tiny_model, say=lines.append)
    measured = training._measured()
    assert second["eer"] == pytest.approx(measured.mean_eer)
    assert measured.augmented is not None
    assert second["clean"] == pytest.approx(measured.eer["-"])
    assert second["augmented"] == pytest.approx(measured.augmented["-"])
    assert second["eer"] == pytest.approx((second["clean"] + second["augmented"]) / 2)
    assert found["recordings"] == len(training.corpus.validation)

    table = rank(augmented, corpus, cache, "default", str(tiny_model)).splitlines()
    assert table[0].startswith(f"EER on {found['recordings']} recordings of {found['speakers']} speakers")
    assert [line.split()[0] for line in table[3:5]] == ["1", "2"]
    assert f"{second['augmented']:.2%}" in table[4] and str(tiny_model) in table[4]
    assert table[-1].startswith("(no source)") and f"{first['clean']:.2%}" in table[-1]


def test_a_model_that_is_missing_is_said_before_any_time_is_spent(
    augmented: Path, corpus: Path, tmp_path: Path
) -> None:
    with pytest.raises(ModelNotFoundError, match="is no model folder"):
        rank(augmented, corpus, tmp_path / "cache", "default", str(tmp_path / "none"))
    assert not (tmp_path / "cache").exists()


def test_a_refit_ranks_nothing(config_file: Path, corpus: Path, tmp_path: Path) -> None:
    text = config_file.read_text(encoding="utf-8").replace("share = 0.25\nevery_steps = 4", "refit = true")
    config_file.write_text(text, encoding="utf-8")
    with pytest.raises(ManifestError, match="keeps nobody out"):
        rank(config_file, corpus, tmp_path / "cache", "default")
