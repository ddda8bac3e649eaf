"""Power of planned studies against the number of prompts, a line for each number of rollouts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from canopy_stats.figure_style import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILLION, styled
from canopy_stats.report.figures.style import facets, legend
from canopy_stats.schema import UserError
from canopy_stats.slope.estimates import ALPHA
from canopy_stats.slope.split import power_curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LOOKS = ((BLUE, "o", "-"), (VERMILLION, "^", "--"), (GREEN, "s", ":"), (PURPLE, "D", "-."), (SKY, "v", "-"),
          (ORANGE, "P", "--"))
USUAL = 0.8
"""The power that studies are usually planned for; drawn as a thin line."""


def power_figure(table: pd.DataFrame, *, title: str = "Power") -> Figure:
    """``SlopePower.table`` drawn: points with their Monte-Carlo standard errors and the smooth curve through them, a
    facet for each effect and number of families. Crosses are the rates of rejection at effect zero."""
    needed = ["prompts", "rollouts", "families", "effect", "power", "mc_error"]
    missing = [name for name in needed if name not in table.columns]
    if missing:
        raise UserError(f"This figure needs the column{'s'[:len(missing) - 1]} {', '.join(missing)}; give it the table"
                        " of slope_power().")
    real = table[table["effect"] != 0]
    if real.empty:
        raise UserError("This figure needs an effect other than zero.")
    panels = {_name(effect, families, real): (effect, families)
              for effect, families in real[["effect", "families"]].drop_duplicates().itertuples(index=False)}
    with styled():
        wide = real["families"].nunique() if real["effect"].nunique() > 1 else 3
        figure, cells = facets(list(panels), height=2.3, columns=min(3, max(wide, 2)))
        for text, (ax,) in cells.items():
            effect, families = panels[text]
            _draw(ax, real, effect, families)
            _draw_null(ax, table[(table["effect"] == 0) & (table["families"] == families)])
            _dress(ax, sorted(set(real["prompts"])), text if len(panels) > 1 else "")
        legend(figure, [axes[0] for axes in cells.values()], title=title + _subtitle(real))
    return figure


def _name(effect: float, families: int, real: pd.DataFrame) -> str:
    parts = [f"difference {effect:g}"] * (real["effect"].nunique() > 1)
    return ", ".join([*parts, f"{families} families"])


def _subtitle(real: pd.DataFrame) -> str:
    effects = real["effect"].unique()
    unit = "logit per SD of the rate"
    return f" to find a difference of {effects[0]:g} {unit}" if len(effects) == 1 else f" (differences: {unit})"


def _draw(ax: Axes, real: pd.DataFrame, effect: float, families: int) -> None:
    rows = real[(real["effect"] == effect) & (real["families"] == families)]
    curve = power_curve(real, effect)
    prompts = np.geomspace(rows["prompts"].min(), rows["prompts"].max(), 60)
    for place, (rollouts, own) in enumerate(rows.groupby("rollouts")):
        colour, marker, dash = _LOOKS[place % len(_LOOKS)]
        line = own.sort_values("prompts")
        ax.errorbar(line["prompts"], line["power"], yerr=line["mc_error"], linestyle="", marker=marker, markersize=4,
                    color=colour, elinewidth=0.8, alpha=0.8)
        smooth = curve(prompts, np.full(60, float(str(rollouts))), np.full(60, float(families)))
        ax.plot(prompts, smooth, dash, color=colour, marker=marker, markevery=[], markersize=4,
                label=f"{rollouts} rollouts")


def _draw_null(ax: Axes, null: pd.DataFrame) -> None:
    ax.axhline(ALPHA, color=GREY, linewidth=0.8, linestyle=(0, (1, 2)))
    if len(null):
        ax.errorbar(null["prompts"], null["power"], yerr=null["mc_error"], linestyle="", marker="x", markersize=5,
                    color=GREY, elinewidth=0.8, label="no effect (level 5%)")


def _dress(ax: Axes, prompts: list[int], title: str) -> None:
    ax.axhline(USUAL, color=GREY, linewidth=0.6)
    ax.set_xscale("log")
    ax.set_xticks(prompts, map(str, prompts))
    ax.set_xticks([], minor=True)
    ax.set(title=title, xlabel="prompts of each task", ylim=(-0.04, 1.02))
    spec = ax.get_subplotspec()
    if spec is not None and spec.colspan.start == 0:
        ax.set_ylabel("power")
