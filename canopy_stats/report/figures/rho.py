"""Correlations of length and entropy rate: raw, what position explains, and what is left, by family and variant."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd

from canopy_stats.figure_style import BLACK, GREEN, GREY, SKY, VERMILLION, styled
from canopy_stats.report.figures.style import facets, in_order, legend, name
from canopy_stats.schema import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MARKS = {"raw": ("raw", BLACK, "o"), "position": ("explained by position", SKY, "s"),
         "excess": ("excess (raw − position)", VERMILLION, "D"), "adjusted": ("adjusted for position", GREEN, "^")}
"""Legend text, colour and marker of each quantity."""

NEEDED = ("model_name", "model_variant", "coefficient", "quantity", "estimate", "low", "high")


def rho_figure(table: pd.DataFrame, *, quantities: Sequence[str] = ("raw", "position", "excess")) -> Figure:
    """One facet per coefficient, one group of marks with intervals per family, variant and (if several) task.

    ``table`` stacks the tables of :func:`canopy_stats.rho` with ``model_name``, ``model_variant`` and perhaps
    ``task``.
    """
    missing = [column for column in NEEDED if column not in table]
    if missing or table.empty or not set(quantities) <= set(MARKS):
        raise UserError(f"rho_figure needs rows with {', '.join(NEEDED)}, and quantities from {', '.join(MARKS)}; "
                        "stack the tables of canopy_stats.rho and add model_name and model_variant.")
    rows = _row_names(table)
    with styled():
        height = 0.35 + (0.09 + 0.08 * len(quantities)) * len(rows)
        figure, cells = facets(in_order(table["coefficient"]), height=height)
        for coefficient, (ax,) in cells.items():
            _draw(ax, table[table["coefficient"].astype(str) == coefficient], list(rows), quantities)
            ax.set_title(name(coefficient))
        first = next(iter(cells.values()))[0]
        first.set_yticks(range(len(rows)), list(rows.values()))
        first.set_ylim(len(rows) - 0.5, -0.5)
        legend(figure, [first], title="Length and entropy rate within prompts, and what position explains")
    return figure


RowKey = tuple[str, ...]


def _keys(table: pd.DataFrame) -> pd.Series:
    columns = [c for c in ("task", "model_name", "model_variant") if c in table]
    return pd.Series(list(table[columns].astype(str).itertuples(index=False, name=None)), index=table.index)


def _row_names(table: pd.DataFrame) -> dict[RowKey, str]:
    """Each row of the figure and its name: families in order, the base variant first; tasks only if several."""
    variants, families = in_order(table["model_variant"]), in_order(table["model_name"])
    keys = sorted(set(_keys(table)), key=lambda k: (*k[:-2], families.index(k[-2]), variants.index(k[-1])))
    several = len({k[:-2] for k in keys}) > 1
    return {k: " ".join((*k[-2:], *(f"({task})" for task in k[:-2] if several))) for k in keys}


def _draw(ax: Axes, table: pd.DataFrame, rows: list[RowKey], quantities: Sequence[str]) -> None:
    ax.axvline(0, color=GREY, linewidth=0.8)
    apart = 0.5 / max(len(quantities) - 1, 1)
    at = _keys(table).map(rows.index)
    for place, quantity in enumerate(quantities):
        text, colour, marker = MARKS[quantity]
        own = table["quantity"].astype(str) == quantity
        y = at[own] + apart * (place - (len(quantities) - 1) / 2)
        ax.hlines(y, table.loc[own, "low"], table.loc[own, "high"], color=colour, linewidth=1.4)
        ax.plot(table.loc[own, "estimate"], y, marker=marker, markersize=4, color=colour, linestyle="", label=text)
    ax.grid(visible=False, axis="y")
