"""The pictures are written, whatever the scores look like."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from voicevault.errors import RequestError
from voicevault.scoring.plots import plot_det, plot_histogram

CASES = {
    "usual": (np.random.default_rng(1).normal([0.0] * 500 + [0.5] * 500, 0.1), np.repeat([0, 1], 500)),
    "separable": (np.array([0.1, 0.2, 0.8, 0.9]), np.array([0, 0, 1, 1])),
    "one score": (np.full(4, 0.5), np.array([0, 0, 1, 1])),
}


@pytest.mark.parametrize("case", CASES)
def test_both_pictures_are_png_files(case: str, tmp_path: Path) -> None:
    scores, labels = CASES[case]
    plot_det(scores, labels, tmp_path / "det.png")
    plot_histogram(scores, labels, tmp_path / "scores.png", thresholds={"1 %": 0.3})
    for picture in tmp_path.iterdir():
        assert picture.read_bytes().startswith(b"\x89PNG\r\n")


def test_no_picture_without_both_classes(tmp_path: Path) -> None:
    for plot in (plot_det, plot_histogram):
        with pytest.raises(RequestError):
            plot([0.1], [1], tmp_path / "none.png")
    assert not list(tmp_path.iterdir())


def test_importing_loads_neither_matplotlib_nor_torch() -> None:
    code = (
        "import sys, voicevault.scoring.plots, voicevault.scoring.decide\n"
        "assert not {'matplotlib', 'torch', 'sklearn'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
