"""Figures of one fit's tables: coefficients and random effects with their intervals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import stats

from canopy_stats.figure_style import BLACK, BLUE, COLUMN, GREY, PAGE, styled
from canopy_stats.schema import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

LINE = 0.19
"""Inches a row of an interval plot takes."""
MOST_LABELS = 40


def panel(width: float, height: float) -> Axes:
    """Axes of a figure of their own, in inches, that a notebook shows."""
    from canopy_stats.picture import NotebookFigure

    return NotebookFigure(figsize=(width, height), layout="constrained").subplots()


def plot_coefficients(table: pd.DataFrame, intercept: bool = False) -> Figure:
    """Coefficients with 95% intervals from ``Fit.tidy()``, one panel a component; aliased ones are left out."""
    from canopy_stats.picture import NotebookFigure

    used = table[table["estimate"].notna() & (intercept | (table["term"] != "Intercept"))]
    parts = list(used.groupby("component", sort=False))
    if not parts:
        raise UserError("There is no coefficient to draw besides the intercept; ask for intercept=True.")
    with styled():
        sizes = [len(part) for _, part in parts]
        figure = NotebookFigure(figsize=(PAGE * 0.75, 0.7 * len(parts) + LINE * sum(sizes) + 0.3), layout="constrained")
        panels = figure.subplots(len(parts), 1, squeeze=False, height_ratios=sizes)[:, 0]
        for axes, (component, part) in zip(panels, parts, strict=True):
            _intervals(axes, list(part["term"]), *(part[n].to_numpy() for n in ("estimate", "conf_low", "conf_high")))
            axes.axvline(0, color=GREY, linewidth=0.8)
            axes.set(title=f"{component}: estimates and 95% intervals" if len(parts) > 1 else "",
                     xlabel="coefficient" if len(parts) == 1 else "")
    return figure


def plot_ranef(modes: Mapping[str, pd.DataFrame], spreads: Mapping[str, pd.DataFrame], group: str | None) -> Figure:
    """Random effects of one grouping variable in order of size, with 95% intervals; one panel a term."""
    from canopy_stats.picture import NotebookFigure

    name = group or next(iter(modes), None)
    if name not in modes or name is None:
        raise UserError(f"group is {group!r}; the fit's grouping variables are: {', '.join(modes) or 'none'}.")
    values, errors = modes[name], spreads[name] * stats.norm.isf(0.025)
    order = np.argsort(values.iloc[:, 0].to_numpy())
    labels = [str(level) for level in values.index[order]]
    with styled():
        height = 0.9 + LINE * min(len(labels), MOST_LABELS)
        figure = NotebookFigure(figsize=(min(PAGE, COLUMN * values.shape[1]), height), layout="constrained")
        panels = figure.subplots(1, values.shape[1], squeeze=False, sharey=True)[0]
        for axes, term in zip(panels, values.columns, strict=True):
            middle, half = values[term].to_numpy()[order], errors[term].to_numpy()[order]
            _intervals(axes, labels, middle, middle - half, middle + half)
            axes.axvline(0, color=GREY, linewidth=0.8)
            axes.set(title=f"{term} | {name}", xlabel="conditional mode")
    return figure


def _intervals(axes: Axes, labels: list[str], middle: np.ndarray, low: np.ndarray, high: np.ndarray) -> None:
    """One row a label, from top to bottom; of many rows only the positions are drawn."""
    places = np.arange(len(labels))[::-1]
    axes.hlines(places, low, high, color=BLUE)
    axes.plot(middle, places, "o", color=BLACK, markersize=3.5)
    axes.set_yticks(places if len(labels) <= MOST_LABELS else [], labels if len(labels) <= MOST_LABELS else [])
    axes.set_ylim(-0.7, len(labels) - 0.3)
    axes.grid(False, axis="y")


def plot_influence(table: pd.DataFrame, ax: Axes | None = None) -> Figure | SubFigure:
    """Cook's distances of levels from ``Fit.influence``, the largest first; the line is 4 over their number."""
    known = table[table["cooks_distance"].notna()].sort_values("cooks_distance", ascending=False)
    used = known.head(MOST_LABELS)
    if used.empty:
        raise UserError("No level could be left out, so there is nothing to draw.")
    with styled():
        axes = ax if ax is not None else panel(COLUMN, 0.9 + LINE * len(used))
        distance = used["cooks_distance"].to_numpy()
        _intervals(axes, list(used["level"]), distance, np.zeros(len(used)), distance)
        axes.axvline(4 / len(table), color=GREY, linewidth=0.8)
        left = len(known) - len(used)
        axes.set(title=f"without each {table.attrs.get('group', 'level')}" + (f" ({left} more)" if left else ""),
                 xlabel="Cook's distance")
    return axes.figure
