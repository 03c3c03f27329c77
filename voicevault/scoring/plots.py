"""Pictures of score lists: DET curve and histograms. matplotlib is loaded when a picture is drawn."""

from __future__ import annotations

from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from voicevault.scoring.metrics import Float64Array, check_trials, det_curve, equal_error_rate

if TYPE_CHECKING:
    from matplotlib.axes import Axes

GENUINE, IMPOSTOR, INK, GRID = "#0072b2", "#d55e00", "#333333", "#dddddd"
_TICKS = (0.0001, 0.001, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)
_DEVIATES = np.linspace(-5.0, 5.0, 4001)
_NORMAL = NormalDist()
_SHARES = np.array([_NORMAL.cdf(float(deviate)) for deviate in _DEVIATES])


def plot_det(scores: ArrayLike, labels: ArrayLike, path: str | Path, title: str = "DET curve") -> None:
    """Write a PNG of FNMR over FMR on normal-deviate axes, with the EER point.

    See Martin et al., 'The DET curve in assessment of detection task performance', Eurospeech 1997. Points
    where either rate rests on no error at all are not drawn.

    Args:
        scores: [n], finite.
        labels: [n], 1 for genuine.
        path: The PNG.
        title: Above the curve.

    Raises:
        RequestError: See `metrics.check_trials`.
    """
    values, genuine = check_trials(scores, labels)
    curve = det_curve(values, genuine)
    rate, _ = equal_error_rate(values, genuine)
    finest = 1.0 / len(values)
    low = max(1e-4, min(1e-2, finest))
    shown = (curve.fmr > 0.0) & (curve.fnmr > 0.0)

    axes = new_axes(title, 5.6, 5.4)
    axes.plot(_probit(curve.fmr[shown]), _probit(curve.fnmr[shown]), color=GENUINE, linewidth=1.8)
    limits = _probit(np.array([low, 0.8]))
    axes.plot(limits, limits, color=GRID, linewidth=1.0, zorder=0)
    if rate >= low:
        at = _probit(np.array([rate]))
        axes.plot(at, at, "o", color=IMPOSTOR, markersize=6)
    axes.text(
        0.97,
        0.95,
        f"EER {rate:.2%}\n{int(genuine.sum()):,} genuine, {int((~genuine).sum()):,} impostor trials",
        transform=axes.transAxes,
        ha="right",
        va="top",
        color=INK,
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8},
    )
    ticks = [tick for tick in _TICKS if low <= tick <= 0.8]
    places, names = _probit(np.array(ticks)).tolist(), [f"{tick * 100:g}" for tick in ticks]
    axes.set_xticks(places, names)
    axes.set_yticks(places, names)
    axes.set_xlim(*limits)
    axes.set_ylim(*limits)
    axes.set_aspect("equal")
    axes.set_xlabel("False match rate (%)")
    axes.set_ylabel("False non-match rate (%)")
    save_figure(axes, path)


def plot_histogram(
    scores: ArrayLike,
    labels: ArrayLike,
    path: str | Path,
    title: str = "Scores",
    thresholds: dict[str, float] | None = None,
) -> None:
    """Write a PNG of the densities of genuine and impostor scores, with a line per named threshold.

    Args:
        scores: [n] cosines.
        labels: [n], 1 for genuine.
        path: The PNG.
        title: Above the histogram.
        thresholds: Name to cosine.

    Raises:
        RequestError: See `metrics.check_trials`.
    """
    values, genuine = check_trials(scores, labels)
    low, high = float(values.min()), float(values.max())
    edges = np.linspace(low, high if high > low else low + 0.01, 61).tolist()
    axes = new_axes(title, 5.6, 5.4)
    for name, chosen, color in (("impostor", ~genuine, IMPOSTOR), ("genuine", genuine, GENUINE)):
        label = f"{name} ({int(chosen.sum()):,})"
        axes.hist(values[chosen], edges, density=True, color=color, alpha=0.55, label=label)
    ordered = sorted((thresholds or {}).items(), key=lambda item: item[1])
    for row, (name, threshold) in enumerate(ordered):
        axes.axvline(threshold, color=INK, linewidth=1.0, linestyle="--")
        # One height per line: thresholds often lie too close for their names to fit side by side. In the right
        # half the name stands before its line, so that it does not leave the picture.
        right = threshold > (low + high) / 2.0
        axes.annotate(
            f"{name} {threshold:.3f}",
            (threshold, 0.97 - 0.07 * row),
            xycoords=("data", "axes fraction"),
            xytext=(-4 if right else 4, 0),
            textcoords="offset points",
            fontsize=8,
            ha="right" if right else "left",
            va="top",
            color=INK,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.0},
        )
    axes.margins(y=0.12)
    axes.set_xlabel("Cosine")
    axes.set_ylabel("Density")
    legend_below(axes)
    save_figure(axes, path)


def _probit(rates: Float64Array) -> Float64Array:
    return np.interp(rates, _SHARES, _DEVIATES)


def new_axes(title: str, width: float, height: float) -> Axes:
    # A figure of its own, not pyplot's: no global state and no window system.
    from matplotlib.figure import Figure

    axes = Figure(figsize=(width, height), dpi=150, layout="constrained").add_subplot()
    axes.set_title(title, loc="left", color=INK)
    axes.grid(color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return axes


def legend_below(axes: Axes, columns: int = 2) -> None:
    """A legend under the axes, where it hides no curve."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.legend(frameon=False, loc="outside lower center", ncols=columns, fontsize=9)


def save_figure(axes: Axes, path: str | Path) -> None:
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.savefig(path, format="png")
