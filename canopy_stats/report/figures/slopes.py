"""Slopes of diversity on entropy rate with their intervals."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from canopy_stats.figure_style import BLACK, BLUE, GREY, ORANGE, VERMILLION, styled
from canopy_stats.report.figures.shared import need
from canopy_stats.report.figures.style import legend

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SLOPES = {"base": ("base slope", BLUE, "o"), "tuned": ("tuned slope", VERMILLION, "^"),
          "difference": ("difference", ORANGE, "D")}
COMMON = ("one slope for both", BLACK, "s")


def slope_forest(slopes: pd.DataFrame, *, level: float = 0.95, scale: str = "D per nat/token") -> Figure:
    """Base slope, tuned slope and their difference with intervals, one group of three per row of ``slopes``.

    ``slopes`` has ``model`` and, for each of base, tuned and difference, the estimate under that name with
    ``_low`` and ``_high`` for its interval; ``ratio`` (text or number), when there, is printed beside the model. A
    row without tuned slope and difference has one slope for both variants.
    """
    need(slopes, ["model", *(f"{which}{end}" for which in SLOPES for end in ("", "_low", "_high"))])
    from canopy_stats.picture import NotebookFigure

    with styled():
        figure = NotebookFigure(figsize=(5.2, 0.9 + 0.62 * len(slopes)), layout="constrained")
        ax = figure.subplots()
        for row, (_, entry) in enumerate(slopes.iterrows()):
            _draw_slopes(ax, entry, row)
        ax.axvline(0, color=GREY, linewidth=0.8)
        ax.set_yticks(range(len(slopes)), [_forest_name(entry) for _, entry in slopes.iterrows()])
        ax.set(xlabel=f"slope of diversity on entropy rate\n{scale}", ylim=(len(slopes) - 0.5, -0.5))
        ax.grid(visible=False, axis="y")
        legend(figure, [ax], title=f"Slope of diversity on entropy rate, {100 * level:g}% intervals")
    return figure


def _draw_slopes(ax: Axes, entry: pd.Series, row: int) -> None:
    drawn = [which for which in SLOPES if pd.notna(entry[which])]
    for place, which in enumerate(drawn):
        text, colour, marker = COMMON if drawn == ["base"] else SLOPES[which]
        at = row + 0.22 * (place - (len(drawn) - 1) / 2)
        ax.plot([entry[f"{which}_low"], entry[f"{which}_high"]], [at, at], color=colour, linewidth=1.4)
        ax.plot(entry[which], at, marker=marker, markersize=4.5, color=colour, linestyle="", label=text)


def _forest_name(entry: pd.Series) -> str:
    ratio = entry.get("ratio")
    if ratio is None or pd.isna(ratio):
        return str(entry["model"])
    return f"{entry['model']}\nratio {ratio if isinstance(ratio, str) else f'{ratio:.2f}'}"
