"""Sensitivity to the length cap."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd

from canopy_stats.figure_style import styled
from canopy_stats.report.figures.shared import need
from canopy_stats.report.figures.style import facets, family_marks, in_order, legend, looks, name, unit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CURVES = ("CE", "N_bar", "R_bar", "truncation_rate")


def cap_curves(curves: pd.DataFrame, *, columns: Sequence[str] = CURVES) -> Figure:
    """Pooled quantities as the cap grows, a facet per quantity, a line per family and variant.

    ``curves`` has one row per cap and checkpoint: ``model_name``, ``model_variant``, ``cap`` and the quantities.
    """
    need(curves, ["model_name", "model_variant", "cap", *columns])
    with styled():
        figure, cells = facets(list(columns), sharey=False)
        caps = cap_ticks(curves["cap"].tolist())
        for column, (ax,) in cells.items():
            _draw_curves(ax, curves, column)
            ax.set(title=name(column), ylabel=unit(column), xlabel="length cap (tokens)")
            ax.set_xscale("log", base=2)
            ax.set_xticks(caps, map(str, caps), minor=False)
        cells[columns[0]][0].set_ylim(bottom=0)
        legend(figure, [axes[0] for axes in cells.values()], title="Sensitivity to the length cap")
    return figure


def cap_ticks(caps: Sequence[int], most: int = 6) -> list[int]:
    """At most ``most`` of the caps, the largest among them, far enough apart on a logarithmic axis to be labelled."""
    apart = max(1.6, (max(caps) / min(caps)) ** (1 / (most - 1)) * 0.999)
    ticks: list[int] = []
    for cap in sorted(set(caps), reverse=True):
        if not ticks or ticks[-1] >= apart * cap:
            ticks.append(int(cap))
    return ticks[::-1]


def _draw_curves(ax: Axes, curves: pd.DataFrame, column: str) -> None:
    styles = looks(curves["model_variant"])
    marks = family_marks(in_order(curves["model_name"]))
    for (family, variant), rows in curves.groupby(["model_name", "model_variant"], observed=True, sort=False):
        look, line = styles[str(variant)], rows.sort_values("cap")
        ax.plot(line["cap"], line[column], look.dash, marker=marks[str(family)], markersize=3, color=look.colour,
                linewidth=1, label=f"{family} {variant}")
