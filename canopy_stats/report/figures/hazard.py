"""The chance that a step draws an end token, by position."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from canopy_stats.figure_style import styled
from canopy_stats.report.figures.shared import distinct, left_label, need, of
from canopy_stats.report.figures.style import facets, looks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure

FLOOR = 1e-4
"""Smaller chances look like this one."""
EMPTY = "#E3E3E3"


def hazard_map(steps: pd.DataFrame, *, by: str = "task", bins: int = 32, fewest: int = 50) -> Figure:
    """Mean stop probability by position as a heat map, a facet per ``by``, a row per family and variant.

    ``steps`` has one row per step: ``by``, ``model_name``, ``model_variant``, ``step``, ``stop_probability``. The mean
    is over the steps that rollouts still running take there; cells of fewer than ``fewest`` steps stay grey.
    """
    need(steps, [by, "model_name", "model_variant", "step", "stop_probability"])
    width = max(1, -(-(int(steps["step"].max()) + 1) // bins))
    table = hazards(steps, [by, "model_name", "model_variant"], width)
    rows = [(f, v) for f in distinct(steps, "model_name") for v in looks(steps["model_variant"])]
    grids = {value: _grid(of(table, by, value), rows, fewest) for value in distinct(steps, by)}
    with styled():
        columns = 2 if len(grids) in (2, 4) else 3
        figure, cells = facets(list(grids), height=0.55 + 0.16 * len(rows), columns=columns)
        scale = _scale(grids)
        for value, (ax,) in cells.items():
            mesh = _draw_map(ax, grids[value], width, scale)
            ax.set(title=value, xlabel="position (tokens)")
            several = steps["model_name"].nunique() > 1
            ax.set_yticks(range(len(rows)), [f"{f} {v}" if several else v for f, v in rows])
        left_label(cells, "")
        bar = figure.colorbar(mesh, ax=[axes[0] for axes in cells.values()], aspect=30, pad=0.02)
        bar.set_label("chance of an end token")
        bar.outline.set_visible(False)
        figure.suptitle("End-token hazard along the rollout (grey: too few steps)")
    return figure


def hazards(steps: pd.DataFrame, keys: Sequence[str], width: int) -> pd.DataFrame:
    """By ``keys`` and ``start`` of each bin of ``width`` positions: mean ``hazard`` and number of ``steps``."""
    grouped = steps.assign(start=steps["step"] // width * width).groupby([*keys, "start"], observed=True)
    return grouped["stop_probability"].agg(hazard="mean", steps="size").reset_index()


def _grid(table: pd.DataFrame, rows: Sequence[tuple[str, str]], fewest: int) -> np.ndarray:
    """Hazards (rows, bins), NaN where there are too few steps."""
    starts = np.sort(table["start"].unique())
    enough = table[table["steps"] >= fewest].astype({"model_name": str, "model_variant": str})
    wide = enough.pivot(index=["model_name", "model_variant"], columns="start", values="hazard")
    return wide.reindex(index=pd.MultiIndex.from_tuples(rows), columns=starts).to_numpy(float)


def _scale(grids: dict[str, np.ndarray]) -> LogNorm:
    from matplotlib.colors import LogNorm

    values = np.concatenate([grid[np.isfinite(grid)] for grid in grids.values()])
    low = max(float(values.min()) if len(values) else FLOOR, FLOOR)
    return LogNorm(low, max(float(values.max()) if len(values) else 1.0, 10 * low))


def _draw_map(ax: Axes, grid: np.ndarray, width: int, scale: LogNorm) -> Any:
    edges = np.arange(grid.shape[1] + 1) * width
    ax.set_facecolor(EMPTY)
    ax.grid(visible=False)
    mesh = ax.pcolormesh(edges, np.arange(len(grid) + 1) - 0.5, np.clip(grid, FLOOR, None), norm=scale,
                         cmap="cividis", rasterized=True)
    ax.set_ylim(len(grid) - 0.5, -0.5)
    ax.tick_params(length=0)
    return mesh
