"""More pictures of an evaluation: ROC, decisions against the threshold, ranks, groups and conditions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from voicevault.scoring.metrics import decision_curves, det_curve, equal_error_rate
from voicevault.scoring.plots import GENUINE, GRID, IMPOSTOR, INK, legend_below, new_axes, save_figure

if TYPE_CHECKING:
    from matplotlib.ticker import PercentFormatter

GREEN, PURPLE = "#009e73", "#7b4fa3"
_POINTS = 2_000
"""Points of a curve that are drawn; more cannot be seen."""


def plot_roc(scores: ArrayLike, labels: ArrayLike, path: str | Path, title: str = "ROC curve") -> None:
    """Write a PNG of 1 - FNMR over FMR, the latter on a logarithmic axis from one impostor trial up.

    Raises:
        RequestError: See `metrics.check_trials`.
    """
    curve = det_curve(scores, labels)
    rate, _ = equal_error_rate(scores, labels)
    impostors = int((~np.asarray(labels, dtype=np.bool_)).sum())
    shown = curve.fmr > 0.0
    axes = new_axes(title, 5.6, 5.2)
    axes.step(curve.fmr[shown], 1.0 - curve.fnmr[shown], where="post", color=GENUINE, linewidth=1.8)
    axes.plot([rate], [1.0 - rate], "o", color=IMPOSTOR, markersize=6, label=f"EER {rate:.2%}")
    axes.set_xscale("log")
    axes.set_xlim(min(0.5 / impostors, 0.1), 1.0)
    axes.set_ylim(0.0, 1.02)
    axes.set_xlabel("False match rate")
    axes.set_ylabel("Genuine trials accepted (1 - FNMR)")
    axes.legend(frameon=False, loc="lower right")
    save_figure(axes, path)


def plot_decisions(
    scores: ArrayLike, labels: ArrayLike, path: str | Path, title: str = "Decisions against the threshold"
) -> None:
    """Write a PNG of FAR, FRR, precision, recall and F1 against the threshold, the best of each marked.

    Raises:
        RequestError: See `metrics.check_trials`.
    """
    curves = decision_curves(scores, labels)
    rate, equal = equal_error_rate(scores, labels)
    best_f1 = int(np.argmax(curves.f1))
    best_accuracy = int(np.argmax(curves.accuracy))
    kept = np.unique(np.linspace(0, len(curves.thresholds) - 1, _POINTS).astype(int))
    axes = new_axes(title, 5.6, 5.2)
    lines = (
        ("FAR (FMR)", curves.fmr, IMPOSTOR, "-"),
        ("FRR (FNMR)", curves.fnmr, GENUINE, "-"),
        ("precision", curves.precision, GREEN, "-"),
        ("recall", curves.recall, GENUINE, ":"),
        ("F1", curves.f1, PURPLE, "-"),
    )
    for name, values, color, style in lines:
        axes.plot(curves.thresholds[kept], values[kept], style, color=color, linewidth=1.6, label=name)
    marks = (
        (equal, rate, f"EER {rate:.2%} at {equal:.3f}", INK),
        (
            float(curves.thresholds[best_f1]),
            float(curves.f1[best_f1]),
            f"best F1 {curves.f1[best_f1]:.3f} at {curves.thresholds[best_f1]:.3f}",
            PURPLE,
        ),
        (
            float(curves.thresholds[best_accuracy]),
            float(curves.accuracy[best_accuracy]),
            f"best accuracy {curves.accuracy[best_accuracy]:.3f} at {curves.thresholds[best_accuracy]:.3f}",
            GREEN,
        ),
    )
    for at, value, name, color in marks:
        axes.plot([at], [value], "o", color=color, markersize=6, label=name)
    axes.set_ylim(-0.02, 1.04)
    axes.set_xlabel("Threshold")
    axes.set_ylabel("Share")
    legend_below(axes)
    save_figure(axes, path)


def plot_ranks(accuracy: Sequence[float], path: str | Path, title: str = "Identification") -> None:
    """Write a PNG of the share of probes whose speaker is among the first k candidates.

    Args:
        accuracy: Rank 1 to k.
    """
    axes = new_axes(title, 5.2, 3.6)
    ranks = np.arange(1, len(accuracy) + 1)
    axes.plot(ranks, accuracy, "o-", color=GENUINE, linewidth=1.8, markersize=5)
    axes.annotate(
        f"rank 1: {accuracy[0]:.1%}",
        (1, accuracy[0]),
        xytext=(10, -12),
        textcoords="offset points",
        color=INK,
    )
    axes.set_xticks(ranks)
    low = min(accuracy)
    axes.set_ylim(max(0.0, low - max(0.02, 0.3 * (1.0 - low))), 1.0 + 0.03 * (1.0 - low) + 0.002)
    axes.yaxis.set_major_formatter(_percent())
    axes.set_xlabel("Candidates looked at (k)")
    axes.set_ylabel("Probes whose speaker is there")
    save_figure(axes, path)


def plot_rates(
    names: Sequence[str],
    rates: Sequence[float],
    intervals: Sequence[tuple[float, float] | None],
    path: str | Path,
    title: str = "EER by group",
) -> None:
    """Write a PNG of one rate per group, with its interval where there is one.

    Args:
        names: Of the groups, top to bottom.
        rates: In [0, 1].
        intervals: Lower and upper end.
    """
    axes = new_axes(title, 8.4, 1.2 + 0.34 * len(names))
    places = np.arange(len(names))[::-1]
    for place, rate, interval in zip(places, rates, intervals, strict=True):
        if interval is not None:
            axes.plot(interval, [place, place], color=GENUINE, linewidth=2.0, alpha=0.45)
        axes.plot([rate], [place], "o", color=GENUINE, markersize=6)
        axes.annotate(
            f"{rate:.2%}", (rate, place), xytext=(0, 6), textcoords="offset points", ha="center", fontsize=8
        )
    axes.set_yticks(places, names)
    axes.set_ylim(-0.6, len(names) - 0.2)
    axes.set_xlim(left=0.0)
    axes.xaxis.set_major_formatter(_percent())
    axes.set_xlabel("EER, with 95 % interval over speakers")
    save_figure(axes, path)


def plot_matrix(
    rows: Sequence[str],
    columns: Sequence[str],
    rates: ArrayLike,
    path: str | Path,
    title: str = "EER when enrollment and probe differ",
) -> None:
    """Write a PNG of a table of rates, darker where they are higher.

    Args:
        rows, columns: Conditions of enrollment and probe.
        rates: [rows, columns] in [0, 1].
    """
    from matplotlib.colors import LinearSegmentedColormap

    values = np.asarray(rates, dtype=np.float64)
    axes = new_axes(title, 2.4 + 0.95 * len(columns), 1.8 + 0.5 * len(rows))
    axes.grid(visible=False)
    colors = LinearSegmentedColormap.from_list("rates", ["#f5f9fc", GENUINE])
    axes.imshow(values, cmap=colors, vmin=0.0, vmax=max(float(values.max()), 1e-3), aspect="auto")
    for i, j in np.ndindex(values.shape):
        dark = values[i, j] > 0.6 * values.max()
        axes.text(
            j, i, f"{values[i, j]:.1%}", ha="center", va="center", color="white" if dark else INK, fontsize=9
        )
    axes.set_xticks(np.arange(len(columns)), columns, rotation=30, ha="right")
    axes.set_yticks(np.arange(len(rows)), rows)
    axes.tick_params(length=0)
    for side in axes.spines.values():
        side.set_color(GRID)
    axes.set_xlabel("Probe")
    axes.set_ylabel("Enrollment")
    save_figure(axes, path)


def _percent() -> PercentFormatter:
    from matplotlib.ticker import PercentFormatter

    return PercentFormatter(1.0)
