"""The pictures of a report are written, whatever the scores look like."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from voicevault.errors import RequestError
from voicevault.scoring.charts import plot_decisions, plot_matrix, plot_ranks, plot_rates, plot_roc

CASES = {
    "usual": (
        np.random.default_rng(1).normal([0.0] * 3000 + [0.5] * 300, 0.1),
        np.repeat([0, 1], [3000, 300]),
    ),
    "separable": (np.array([0.1, 0.2, 0.8, 0.9]), np.array([0, 0, 1, 1])),
    "one score": (np.full(4, 0.5), np.array([0, 0, 1, 1])),
    "upside down": (np.array([0.9, 0.8, 0.2, 0.1]), np.array([0, 0, 1, 1])),
}


@pytest.mark.parametrize("case", CASES)
def test_curves(case: str, tmp_path: Path) -> None:
    scores, labels = CASES[case]
    plot_roc(scores, labels, tmp_path / "roc.png")
    plot_decisions(scores, labels, tmp_path / "decisions.png")
    assert len(list(tmp_path.iterdir())) == 2
    for picture in tmp_path.iterdir():
        assert picture.read_bytes().startswith(b"\x89PNG\r\n")


def test_ranks_groups_and_conditions(tmp_path: Path) -> None:
    plot_ranks([1.0], tmp_path / "one.png")
    plot_ranks([0.5, 0.75, 1.0], tmp_path / "ranks.png")
    plot_rates(["a", "b"], [0.0, 0.3], [None, (0.2, 0.5)], tmp_path / "rates.png")
    plot_matrix(["clean", "noise"], ["clean", "noise"], np.zeros((2, 2)), tmp_path / "zero.png")
    plot_matrix(["clean"], ["clean", "noise"], [[0.01, 0.2]], tmp_path / "matrix.png")
    assert len(list(tmp_path.iterdir())) == 5
    for picture in tmp_path.iterdir():
        assert picture.read_bytes().startswith(b"\x89PNG\r\n")


def test_no_picture_without_both_classes(tmp_path: Path) -> None:
    for plot in (plot_roc, plot_decisions):
        with pytest.raises(RequestError):
            plot([0.1], [1], tmp_path / "none.png")
    assert not list(tmp_path.iterdir())
