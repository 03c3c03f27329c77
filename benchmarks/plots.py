"""The look that all pictures share. matplotlib loads when one is drawn."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c8c8c", "#000000")
"""Okabe and Ito's palette, which people with any colour vision tell apart."""
INK, GRID = "#333333", "#dddddd"


def new_figure(width: float, height: float, columns: int = 1, **subplots: Any) -> tuple[Figure, list[Axes]]:
    """A figure with `columns` plots side by side. Not pyplot's: no global state and no window system."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    made = figure.subplots(1, columns, squeeze=False, **subplots)
    plots: list[Axes] = list(made[0])
    for axes in plots:
        axes.grid(color=GRID, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.tick_params(colors=INK)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    return figure, plots


def save(figure: Figure, path: Path) -> None:
    """Writes the PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png")


def footer(figure: Figure, text: str) -> None:
    """Small lines below everything, e.g. the machine."""
    wrapped = textwrap.fill(text, int(figure.get_figwidth() * 17))
    figure.supxlabel(wrapped, fontsize=7, color="#777777", x=0.01, ha="left")


def log_axis(axes: Axes, which: Literal["x", "y"], ticks: Sequence[float] | None = None) -> None:
    """Makes an axis logarithmic with plain numbers: 0.2, 1, 30,000. At `ticks`, or at 1, 2 and 5 of each decade."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

    axes.set(**{f"{which}scale": "log"})
    axis: Axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_locator(FixedLocator(list(ticks)) if ticks else LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 10 else f"{value:g}"))


def legend(axes: Axes) -> None:
    """The legend right of the plot, where it hides nothing."""
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
