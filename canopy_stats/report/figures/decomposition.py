"""Canopy entropy in three terms."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from canopy_stats.figure_style import BLACK, GREEN, GREY, PAGE, SKY, VERMILLION, styled
from canopy_stats.report.figures.shared import distinct, left_label, need, of
from canopy_stats.report.figures.style import facets, in_order, legend, looks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TERMS = {"product": ("mean N · mean r", SKY), "cov_within": ("Cov within prompts", VERMILLION),
         "cov_between": ("Cov between prompts", GREEN)}
"""The three terms of pooled CE*, by column."""
COVARIANCES = ("cov_within", "cov_between")


def decomposition_bars(levels: pd.DataFrame, *, by: str = "task") -> Figure:
    """Pooled CE* = mean N · mean r + mean within-prompt Cov + between-prompt Cov, a bar per family and variant.

    ``levels`` has one row per cell: ``model_name``, ``model_variant``, ``by``, ``CE``, ``product``, ``cov_within``
    and ``cov_between``. Negative terms hang below zero; the black mark is CE*, their sum. The covariances, small
    beside the product, stand below once more on a scale of their own.
    """
    need(levels, ["model_name", "model_variant", by, "CE", *TERMS])
    with styled():
        most = int(levels[by].astype(str).value_counts().max())
        figure, cells = facets(distinct(levels, by), height=3.0, rows_each=2, ratios=(1.7, 1), sharey="row",
                               columns=4 if most <= 8 else 2 if most <= 18 else 1, width=PAGE if most > 18 else None)
        order = {variant: place for place, variant in enumerate(looks(levels["model_variant"]))}
        for value, (above, below) in cells.items():
            own = of(levels, by, value).astype({"model_name": str, "model_variant": str})
            rows = own.sort_values("model_variant", key=lambda v: v.map(order)).sort_values("model_name", kind="stable")
            _draw_stacks(above, rows)
            _draw_covariances(below, rows)
            above.set_title(value)
        left_label(cells, "canopy entropy\nCE* (nats)", "covariances\n(nats)")
        families = in_order(levels["model_name"])
        legend(figure, [axes[0] for axes in cells.values()],
               title="Canopy entropy and its three terms" + (f": {families[0]}" if len(families) == 1 else ""))
    return figure


def _places(rows: pd.DataFrame) -> np.ndarray:
    """Where the bars stand (rows,): a gap between families."""
    families = rows["model_name"].ne(rows["model_name"].shift()).cumsum().to_numpy() - 1
    return np.asarray(np.arange(len(rows)) + 0.6 * families)


def _draw_stacks(ax: Axes, rows: pd.DataFrame) -> None:
    at = _places(rows)
    ends = {1: np.zeros(len(rows)), -1: np.zeros(len(rows))}
    for term, (text, colour) in TERMS.items():
        height = rows[term].to_numpy(float)
        bottom = np.where(height >= 0, ends[1], ends[-1])
        ax.bar(at, height, 0.8, bottom=bottom, color=colour, label=text)
        ends = {1: ends[1] + height.clip(min=0), -1: ends[-1] + height.clip(max=0)}
    ax.plot(at, rows["CE"], linestyle="", marker="_", markersize=9, markeredgewidth=1.6, color=BLACK,
            label="CE* (their sum)")
    _finish(ax, rows, named=False)


def _draw_covariances(ax: Axes, rows: pd.DataFrame) -> None:
    at = _places(rows)
    for place, term in enumerate(COVARIANCES):
        ax.bar(at + 0.4 * (place - 0.5), rows[term], 0.4, color=TERMS[term][1])
    _finish(ax, rows, named=True)


def _finish(ax: Axes, rows: pd.DataFrame, *, named: bool) -> None:
    ax.axhline(0, color=GREY, linewidth=0.7)
    ax.use_sticky_edges = False  # else a tall bar's mark is cut by the frame
    ax.margins(y=0.06)
    ax.grid(visible=False, axis="x")
    several = rows["model_name"].nunique() > 1
    names = [f"{family} {variant}" if several else str(variant)
             for family, variant in zip(rows["model_name"], rows["model_variant"], strict=True)]
    ax.set_xticks(_places(rows), names if named else [""] * len(rows), rotation=60, ha="right",
                  rotation_mode="anchor")
