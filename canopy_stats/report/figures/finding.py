"""The finding at one look: the change of slope in every version above the change of rho(N, r); and slopes by cell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import stats

from canopy_stats.figure_style import BLACK, BLUE, GREY, ORANGE, PAGE, VERMILLION, styled
from canopy_stats.report.figures.shared import need
from canopy_stats.report.figures.style import legend
from canopy_stats.schema import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LEVEL = 0.95
PARTS = {"base": ("base slope", BLUE, "o"), "tuned": ("tuned slope", VERMILLION, "^"),
         "difference": ("difference", ORANGE, "D")}


def finding_forest(claims: pd.DataFrame, rho: pd.Series | None = None) -> Figure:
    """Every version of the change of slope with its interval, and below them the change of rho(N, r).

    ``claims`` has model, claim, corrected, estimate, conf_low and conf_high; rows without numbers are named and left
    empty. ``rho`` has estimate, conf_low, conf_high, predict_low, predict_high of Fisher's z, or is None.
    """
    need(claims, ["model", "claim", "corrected", "estimate", "conf_low", "conf_high"])
    from canopy_stats.picture import NotebookFigure

    rows = len(claims)
    with styled():
        height = 1.0 + 0.24 * rows + (0.75 if rho is not None else 0)
        figure = NotebookFigure(figsize=(PAGE, height), layout="constrained")
        heights = [rows, 1.6] if rho is not None else [rows]
        axes = figure.subplots(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
        _changes(axes[0], claims)
        if rho is not None:
            _rho(axes[1], rho)
    return figure


def _changes(ax: Axes, claims: pd.DataFrame) -> None:
    for place, row in enumerate(claims.to_dict("records")):
        paper = row["model"] != "robust"
        ax.plot([row["conf_low"], row["conf_high"]], [place, place], color=GREY if paper else BLUE, linewidth=1.6)
        ax.plot(row["estimate"], place, "s" if paper else "o", color=GREY if paper else BLUE, markersize=5,
                fillstyle="full" if paper or row["corrected"] else "none")
    _zero(ax, [_version(row) for row in claims.to_dict("records")])
    ax.set(xlabel="change of the slope of diversity on entropy rate, tuned − base (95% intervals)")


def _version(row: Mapping[Any, Any]) -> str:
    if row["model"] != "robust":
        return f"{row['model']}: the paper's model"
    if not np.isfinite(row["estimate"]):
        return "robust: no answer"
    return f"robust{'' if row['corrected'] else ', uncorrected'}: {row['claim']}"


def _rho(ax: Axes, rho: pd.Series) -> None:
    ax.plot([rho["predict_low"], rho["predict_high"]], [0, 0], color=VERMILLION, linewidth=0.7, linestyle=(0, (3, 2)))
    ax.plot([rho["conf_low"], rho["conf_high"]], [0, 0], color=VERMILLION, linewidth=1.6)
    ax.plot(rho["estimate"], 0, "D", color=VERMILLION, markersize=5)
    _zero(ax, ["change of ρ(N, r)"])
    ax.set(xlabel="change of Fisher's z (95% interval; dashed: another family and task)")


def _zero(ax: Axes, names: list[str]) -> None:
    ax.axvline(0, color=BLACK, linewidth=0.8)
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.grid(visible=False, axis="y")


def cell_forest(cells: pd.DataFrame) -> Figure:
    """Base slope, tuned slope and difference of each family and task, with 95% intervals of a normal law.

    ``cells`` has model_name, task, base_slope, tuned_slope, estimate and their standard errors.
    """
    need(cells, ["model_name", "task", "base_slope", "base_std_error", "tuned_slope", "tuned_std_error", "estimate",
                 "std_error"])
    from canopy_stats.picture import NotebookFigure

    if cells.empty:
        raise UserError("There are no families and tasks to draw.")
    ordered = cells.sort_values(["task", "model_name"], kind="stable").reset_index(drop=True)
    with styled():
        figure = NotebookFigure(figsize=(PAGE, 1.0 + 0.3 * len(ordered)), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True, width_ratios=[3, 2])
        for place, row in enumerate(ordered.to_dict("records")):
            _draw(left, place - 0.13, row["base_slope"], row["base_std_error"], "base")
            _draw(left, place + 0.13, row["tuned_slope"], row["tuned_std_error"], "tuned")
            _draw(right, place, row["estimate"], row["std_error"], "difference")
        for ax, what in ((left, "slope"), (right, "tuned − base")):
            _zero(ax, [f"{row['task']}, {row['model_name']}" for row in ordered.to_dict("records")])
            _within(ax, ordered, ["base_slope", "tuned_slope"] if ax is left else ["estimate"])
            ax.set(xlabel=what)
        legend(figure, [left, right], title="The robust slope by family and task, at matched rates and lengths")
    return figure


def _draw(ax: Axes, place: float, value: float, error: float, part: str) -> None:
    text, colour, marker = PARTS[part]
    half = float(stats.norm.ppf((1 + LEVEL) / 2)) * error
    ax.plot([value - half, value + half], [place, place], color=colour, linewidth=1.2)
    ax.plot(value, place, marker, color=colour, markersize=4, label=text, linestyle="")


def _within(ax: Axes, cells: pd.DataFrame, columns: list[str]) -> None:
    """Limits that hold every estimate and most intervals: one cell without information must not flatten the others."""
    values = cells[columns].to_numpy(dtype=float).ravel()
    errors = cells[["std_error" if c == "estimate" else c.replace("slope", "std_error") for c in columns]]
    half = 2 * float(np.nanquantile(errors.to_numpy(dtype=float), 0.75))
    low, high = float(np.nanmin(values)) - half, float(np.nanmax(values)) + half
    ax.set_xlim(min(low, 0), max(high, 0))
