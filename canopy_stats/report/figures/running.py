"""The running entropy rate: what a rollout's rate would be if it ended here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd

from canopy_stats.figure_style import styled
from canopy_stats.report.figures.shared import distinct, left_label, need, of
from canopy_stats.report.figures.style import Look, facets, legend, looks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

EVERY = 5
"""Tokens between two points of a line."""


def running_rate(steps: pd.DataFrame, *, by: str = "task", every: int = EVERY, fewest: int = 20) -> Figure:
    """Mean of H_t / t over the rollouts that reach t, every few tokens, and below how many these are.

    H_t is a rollout's entropy summed over its first t tokens. ``steps`` has one row per step, rollout after rollout:
    ``by``, ``model_name``, ``model_variant``, ``step``, ``entropy``. Each facet ends where one of its lines has fewer
    than ``fewest`` rollouts left. Thin lines are families, the thick one all of them.
    """
    need(steps, [by, "model_name", "model_variant", "step", "entropy"])
    several = steps["model_name"].nunique() > 1
    whole = running_rates(steps, [by, "model_variant"], every)
    parts = running_rates(steps, [by, "model_name", "model_variant"], every) if several else whole.assign(model_name="")
    with styled():
        figure, cells = facets(distinct(steps, by), height=2.6, rows_each=2, ratios=(2.2, 1), sharey="row")
        styles = looks(steps["model_variant"])
        for value, (above, below) in cells.items():
            own = of(parts, by, value)
            last = trimmed_at(own, ["model_name", "model_variant"], fewest)
            for variant, look in styles.items():
                if several:
                    for family in distinct(own, "model_name"):
                        rows = of(of(own, "model_name", family), "model_variant", variant)
                        _draw(above, below, rows[rows["t"] <= last], look, 0.5, f"{variant}, each family")
                rows = of(of(whole, by, value), "model_variant", variant)
                text = f"{variant}, all families" if several else variant
                _draw(above, below, rows[rows["t"] <= last], look, 1.6, text)
            above.set_title(value)
            above.sharex(below)
            above.tick_params(labelbottom=False)
            below.set_xlabel("tokens t")
        for ax in (ax for axes in cells.values() for ax in axes):
            ax.set_ylim(bottom=0)  # after all facets are drawn: those of a row share this axis
        left_label(cells, "mean of H_t / t\n(nats/token)", "rollouts of\nat least t")
        legend(figure, [axes[0] for axes in cells.values()], title="Running entropy rate H_t / t")
    return figure


def running_rates(steps: pd.DataFrame, keys: Sequence[str], every: int = EVERY) -> pd.DataFrame:
    """By ``keys`` and ``t`` = every, 2 every, ...: ``rate``, the mean of H_t / t over the rollouts of at least t
    tokens, and ``active``, how many these are. The steps come rollout after rollout, each from step 0."""
    rollout = steps["step"].eq(0).cumsum()
    summed = steps["entropy"].astype("float64").groupby(rollout).cumsum()
    t = steps["step"] + 1
    there = t % every == 0
    rates = steps.loc[there, list(keys)].assign(t=t[there], rate=summed[there] / t[there])
    grouped = rates.groupby([*keys, "t"], observed=True, sort=True)["rate"]
    return grouped.agg(rate="mean", active="size").reset_index()


def trimmed_at(rates: pd.DataFrame, keys: Sequence[str], fewest: int) -> int:
    """The largest t at which every line (by ``keys``) still has ``fewest`` rollouts; 0 where one never has."""
    enough = rates.assign(t=rates["t"].where(rates["active"] >= fewest, 0))
    return int(enough.groupby(list(keys), observed=True)["t"].max().min()) if len(rates) else 0


def _draw(above: Axes, below: Axes, rows: pd.DataFrame, look: Look, width: float, text: str) -> None:
    thin = min(1.0, 0.35 + width)
    above.plot(rows["t"], rows["rate"], look.dash, color=look.colour, linewidth=width, alpha=thin, label=text)
    below.plot(rows["t"], rows["active"], look.dash, color=look.colour, linewidth=width, alpha=thin)
