"""Semantic diversity against entropy rate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from canopy_stats.figure_style import styled
from canopy_stats.report.figures.shared import distinct, left_label, need, of
from canopy_stats.report.figures.style import Look, facets, in_order, label, legend, looks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SHADE = "#F3EFE0"
MANY = 1500
"""Above this many points a cloud is drawn as pixels in an SVG: thousands of paths make it slow to open."""


def diversity_against_rate(panel: pd.DataFrame, fit: Any = None, *, by: str = "model_name",
                           curves: pd.DataFrame | None = None) -> Figure:
    """D against R_bar with every prompt of each variant, one facet per ``by``; common rates are shaded.

    ``fit`` is a fitted model with ``predict(frame)``, such as the interaction LMM: its lines are drawn over each
    variant's own rates, averaged over the variant's own rows (their lengths and tasks). ``curves`` are lines made
    elsewhere, with the columns ``model``, ``by``, ``model_variant``, ``R_bar`` and ``D``.
    """
    need(panel, ["D", "R_bar", "model_variant", by])
    if curves is not None:
        need(curves, ["model", by, "model_variant", "R_bar", "D"])
    elif fit is not None:
        curves = fitted_curves(panel, fit, by)
    with styled():
        figure, cells = facets(distinct(panel, by))
        styles = looks(panel["model_variant"])
        for value, (ax,) in cells.items():
            _draw_cloud(ax, of(panel, by, value), styles)
            if curves is not None:
                _draw_lines(ax, of(curves, by, value), styles, in_order(curves["model"]))
            ax.set(title=value, xlabel=label("R_bar").replace(" (", "\n("))
        left_label(cells, label("D"))
        averaged = curves is not None and by != "task" and "task" in panel and panel["task"].nunique() > 1
        legend(figure, [axes[0] for axes in cells.values()],
               title="Semantic diversity against entropy rate" + "; lines average over tasks" * averaged)
    return figure


def _draw_cloud(ax: Axes, rows: pd.DataFrame, styles: dict[str, Look]) -> None:
    shared = common_support(rows)
    if shared is not None:
        ax.axvspan(*shared, color=SHADE, zorder=0, label="shared rates")
    for variant, look in styles.items():
        own = of(rows, "model_variant", variant)
        ax.scatter(own["R_bar"], own["D"], s=9, marker=look.marker, color=look.colour, alpha=_alpha(len(own)),
                   linewidths=0, label=variant, rasterized=len(own) > MANY)


def _draw_lines(ax: Axes, curves: pd.DataFrame, styles: dict[str, Look], models: list[str]) -> None:
    """One model's lines have each variant's dash; of several, the dash tells the model and the colour the variant."""
    dashes = ("-", (0, (4, 1.5)), (0, (1, 1)), (0, (4, 1, 1, 1)))
    for place, model in enumerate(models):
        for variant, look in styles.items():
            line = of(of(curves, "model", model), "model_variant", variant).sort_values("R_bar")
            if len(line):
                alone = len(models) == 1
                ax.plot(line["R_bar"], line["D"], color=look.colour, linewidth=1.6,
                        linestyle=look.dash if alone else dashes[place % len(dashes)],
                        label=f"{variant}, {'fitted' if alone and model == 'fitted' else model}")


def _alpha(points: int) -> float:
    return float(np.clip(8 / np.sqrt(max(points, 1)), 0.25, 0.75))


def common_support(rows: pd.DataFrame) -> tuple[float, float] | None:
    """The range of R_bar that every variant reaches, or None when there is none."""
    ranges = rows.groupby("model_variant", observed=True)["R_bar"].agg(["min", "max"])
    low, high = float(ranges["min"].max()), float(ranges["max"].min())
    return (low, high) if len(ranges) > 1 and low < high else None


def fitted_curves(panel: pd.DataFrame, fit: Any, by: str) -> pd.DataFrame:
    """A fit's lines as ``curves`` of one model, by facet and variant."""
    parts = [fitted_line(fit, rows).assign(model="fitted", model_variant=str(variant), **{by: str(value)})
             for (value, variant), rows in panel.groupby([by, "model_variant"], observed=True, sort=False)]
    return pd.concat(parts, ignore_index=True)


def fitted_line(fit: Any, rows: pd.DataFrame, points: int = 25) -> pd.DataFrame:
    """Predicted D over the rows' range of R_bar, averaged over the rows' other columns. Columns R_bar, D."""
    grid = np.linspace(rows["R_bar"].min(), rows["R_bar"].max(), points)
    copies = pd.concat([rows.assign(R_bar=rate) for rate in grid], ignore_index=True)
    predicted = np.asarray(fit.predict(copies), dtype=float).reshape(points, len(rows))
    return pd.DataFrame({"R_bar": grid, "D": predicted.mean(axis=1)})
