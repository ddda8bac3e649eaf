"""Figures of what a fit predicts: means by factor, or along a number, with their intervals."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from canopy_stats.figure_style import BLACK, BLUE, GREEN, GREY, ORANGE, PAGE, PURPLE, VERMILLION, styled
from canopy_stats.mixed.effects.contrasts import estimates_table
from canopy_stats.mixed.effects.grid import ReferenceGrid, reference_grid
from canopy_stats.mixed.effects.margins import at_typical, means
from canopy_stats.mixed.fit import Fit
from canopy_stats.mixed.formulas.fixed import NotEstimableWarning
from canopy_stats.mixed.formulas.frames import with_columns
from canopy_stats.mixed.results.plots import panel
from canopy_stats.mixed.results.predict import Scale
from canopy_stats.schema import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

COLOURS = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, BLACK, GREY)
MARKS = "o^sDvPX"
POINTS = 60


def plot_effects(fit: Fit, x: str, by: str | None = None, *, scale: Scale = "response",
                 marginal: bool = False, ax: Axes | None = None) -> Figure | SubFigure:
    """Means of the response by the factor ``x``, or along the number ``x``, for each level of ``by``.

    Means are those of ``means``, with 95% intervals: other factors averaged with equal weights, other numbers at their
    means, random effects at zero (``marginal=True``, for factors: averaged over). Drawn into ``ax`` where one is given,
    else into a figure of its own; the figure is returned.
    """
    data = fit.design.data
    if x not in data.columns:
        raise UserError(f"The model does not use {x}; its columns are: {', '.join(data.columns)}.")
    number = x not in fit.design.fixed.levels and pd.api.types.is_numeric_dtype(data[x])
    if number and marginal:
        raise UserError("marginal=True is for factors; along a number the means are those at typical random effects.")
    with styled(), warnings.catch_warnings():
        warnings.simplefilter("ignore", NotEstimableWarning)
        table = _along(fit, x, by, scale) if number else means(fit, x, by=by, scale=scale, marginal=marginal)
        axes = ax if ax is not None else panel(PAGE * 0.6, 2.8)
        (_curves if number else _points)(axes, table, x, by)
        axes.set(xlabel=x, ylabel=f"{fit.design.response} ({scale} scale)")
        if by is not None and ax is not None:
            axes.legend(title=by)
        elif by is not None:
            axes.figure.legend(title=by, loc="outside right upper")
    return axes.figure


def _along(fit: Fit, x: str, by: str | None, scale: Scale) -> pd.DataFrame:
    """Means at points from the smallest to the largest fitted value of x."""
    values = fit.design.data[x].to_numpy(dtype=float)
    parts = []
    for value in np.linspace(values.min(), values.max(), POINTS):
        grid = reference_grid(fit, [] if by is None else [by])
        there = ReferenceGrid(with_columns(grid.frame, {x: value}), grid.cells, grid.weights)
        table = pd.concat([grid.cells, estimates_table(at_typical(fit, there, scale))], axis=1)
        parts.append(with_columns(table, {x: value}))
    return pd.concat(parts, ignore_index=True)


def _lines(table: pd.DataFrame, by: str | None) -> Sequence[tuple[str, pd.DataFrame]]:
    return [("", table)] if by is None else [(str(level), part) for level, part in table.groupby(by, sort=False)]


def _curves(axes: Axes, table: pd.DataFrame, x: str, by: str | None) -> None:
    for i, (level, part) in enumerate(_lines(table, by)):
        colour = COLOURS[i % len(COLOURS)]
        axes.plot(part[x], part["estimate"], color=colour, label=level, linestyle=("-", "--", ":", "-.")[i % 4])
        axes.fill_between(part[x], part["conf_low"], part["conf_high"], color=colour, alpha=0.15, linewidth=0)


def _points(axes: Axes, table: pd.DataFrame, x: str, by: str | None) -> None:
    levels, lines = list(dict.fromkeys(table[x])), _lines(table, by)
    for i, (level, part) in enumerate(lines):
        places = np.array([levels.index(v) for v in part[x]]) + 0.12 * (i - (len(lines) - 1) / 2)
        middle, colour = part["estimate"].to_numpy(), COLOURS[i % len(COLOURS)]
        axes.vlines(places, part["conf_low"], part["conf_high"], color=colour)
        axes.plot(places, middle, MARKS[i % len(MARKS)], color=colour, label=level, markersize=4.5)
    axes.set_xticks(range(len(levels)), [str(level) for level in levels])
    axes.set_xlim(-0.5, len(levels) - 0.5)
