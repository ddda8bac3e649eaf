"""Canopy entropy's three terms as signed shares."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from canopy_stats.figure_style import BLACK, GREY, styled
from canopy_stats.report.figures.decomposition import TERMS
from canopy_stats.report.figures.shared import distinct, need, of
from canopy_stats.report.figures.style import facets, legend, looks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BOTH = "share_cov_paper"


def share_bars(levels: pd.DataFrame, *, by: str = "task") -> Figure:
    """Each term's share of CE*, a bar per family and variant; negative ones hang left of zero, and all add up to one.

    ``levels`` has one row per cell: ``model_name``, ``model_variant``, ``by``, and the shares ``share_product``,
    ``share_cov_within``, ``share_cov_between``, ``share_cov_paper`` (the last two together, as numbers at the right).
    """
    need(levels, ["model_name", "model_variant", by, BOTH, *(f"share_{term}" for term in TERMS)])
    order = {variant: place for place, variant in enumerate(looks(levels["model_variant"]))}
    with styled():
        bars = int(levels[by].astype(str).value_counts().max())
        figure, cells = facets(distinct(levels, by), height=0.7 + 0.19 * bars, sharey=True)
        low = min(0.0, float(levels[[f"share_{term}" for term in TERMS]].clip(upper=0).sum(axis=1).min()))
        high = max(1.0, float(levels[[f"share_{term}" for term in TERMS]].clip(lower=0).sum(axis=1).max()))
        for value, (ax,) in cells.items():
            own = of(levels, by, value).astype({"model_name": str, "model_variant": str})
            rows = own.sort_values("model_variant", key=lambda v: v.map(order)).sort_values("model_name", kind="stable")
            _draw(ax, rows, high)
            ax.set(title=value, xlabel="share of CE*", xlim=(low - 0.04, high + 0.42 * (high - low)))
        legend(figure, [axes[0] for axes in cells.values()],
               title="Canopy entropy's terms as signed shares; at the right both covariances together")
    return figure


def _draw(ax: Axes, rows: pd.DataFrame, high: float) -> None:
    at = np.arange(len(rows)) + 0.6 * (rows["model_name"].ne(rows["model_name"].shift()).cumsum().to_numpy() - 1)
    ends = {1: np.zeros(len(rows)), -1: np.zeros(len(rows))}
    for term, (text, colour) in TERMS.items():
        width = rows[f"share_{term}"].to_numpy(float)
        ax.barh(at, width, 0.8, left=np.where(width >= 0, ends[1], ends[-1]), color=colour, label=text)
        ends = {1: ends[1] + width.clip(min=0), -1: ends[-1] + width.clip(max=0)}
    for y, both in zip(at, rows[BOTH], strict=True):
        ax.text(high + 0.03, y, percent(both), va="center", fontsize=6.5, color=GREY)
    for x in (0, 1):
        ax.axvline(x, color=BLACK, linewidth=0.7)
    several = rows["model_name"].nunique() > 1
    ax.set_yticks(at, [f"{f} {v}" if several else v for f, v in zip(rows["model_name"], rows["model_variant"],
                                                                     strict=True)])
    ax.set_ylim(at.max() + 0.7, -0.7)
    ax.set_xticks([0, 0.5, 1])
    ax.grid(visible=False, axis="y")


def percent(share: float) -> str:
    """A share in per cent with its sign; a rounded nothing has none."""
    text = f"{100 * share:+.1f}"
    return f"{text.lstrip('+-') if float(text) == 0 else text}%"
