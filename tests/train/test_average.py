"""Models averaged: their weights in proportion, and batch norms that fit the result."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from train.__main__ import app
from train.average import average_models, batch_norms
from train.config import read_config
from train.fit import Fit
from voicevault.encoder import default_model_dir
from voicevault.encoder.checkpoint import load_checkpoint
from voicevault.errors import CheckpointError, RequestError, VoicevaultError


@pytest.fixture
def two(config_file: Path, corpus: Path, tmp_path: Path) -> list[Path]:
    """The first and the last weights of one training, as model folders. Its best may be its last."""
    training = Fit(read_config(config_file), corpus, tmp_path / "run", tmp_path / "cache")
    training.export(tmp_path / "first", half=False, last=True)
    training.run()
    training.export(tmp_path / "last", half=False, last=True)
    return [tmp_path / "first", tmp_path / "last"]


def test_weights_are_averaged_in_proportion(two: list[Path]) -> None:
    first, second = (load_checkpoint(folder)[0].state_dict() for folder in two)
    assert any(not torch.equal(first[name], second[name]) for name in first)
    mean = average_models(two, [1.0, 3.0]).state_dict()
    for name, value in mean.items():
        if value.is_floating_point():
            torch.testing.assert_close(value, 0.25 * first[name] + 0.75 * second[name])


def test_the_command_measures_the_batch_norms(
    two: list[Path], config_file: Path, corpus: Path, tmp_path: Path
) -> None:
    to = tmp_path / "mean"
    said = CliRunner().invoke(
        app,
        ["average", *map(str, two), "--config", str(config_file), "--to", str(to), "--share", "2", "--share", "1",
         "--corpora", str(corpus), "--cache", str(tmp_path / "cache"), "--no-half"],
    )  # fmt: skip
    assert said.exit_code == 0, said.output
    written, identity = load_checkpoint(to)
    assert said.stdout == f"model {identity} in {to}\n"
    plain = average_models(two, [2.0, 1.0])
    state, expected = written.state_dict(), plain.state_dict()
    for name, value in state.items():
        if value.is_floating_point() and "running" not in name:
            torch.testing.assert_close(value, expected[name])
    for measured, averaged in zip(batch_norms(written), batch_norms(plain), strict=True):
        assert measured.running_mean is not None and averaged.running_mean is not None
        assert not torch.allclose(measured.running_mean, averaged.running_mean)


@pytest.mark.parametrize(
    ("folders", "shares", "error", "says"),
    [
        (1, [1.0], RequestError, "two models or more"),
        (2, [1.0], RequestError, "for each a share"),
        (2, [1.0, 0.0], RequestError, "above 0"),
        (3, [1.0, 1.0, 1.0], CheckpointError, "another architecture"),
    ],
)
def test_what_cannot_be_averaged(
    two: list[Path], folders: int, shares: list[float], error: type[VoicevaultError], says: str
) -> None:
    with pytest.raises(error, match=says):
        average_models([*two, default_model_dir()][:folders], shares)
