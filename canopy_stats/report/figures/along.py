"""Entropy along the rollout: over all that still run, and over cohorts of rollouts that do not change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from canopy_stats.figure_style import GREY, styled
from canopy_stats.report.figures.shared import distinct, left_label, need, of
from canopy_stats.report.figures.style import Look, facets, legend, looks, shades

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


# --- all that still run -----------------------------------------------------------------------------------------


def entropy_profile(steps: pd.DataFrame, *, by: str = "model_name", fewest: int = 20) -> Figure:
    """Mean next-token entropy by position, over the rollouts still running, whose number stands below.

    ``steps`` has one row per step: ``by``, ``model_variant``, ``step``, ``entropy``. Positions that fewer than
    ``fewest`` rollouts of a variant reach are left out of the upper line: who is left there is chance.
    """
    need(steps, [by, "model_variant", "step", "entropy"])
    with styled():
        figure, cells = facets(distinct(steps, by), height=2.6, rows_each=2, ratios=(2.2, 1), sharey="row")
        table = active_profile(steps, [by, "model_variant"])
        for value, (above, below) in cells.items():
            _draw_profile(above, below, of(table, by, value), looks(steps["model_variant"]), fewest)
            above.set_title(value)
        for ax in (ax for axes in cells.values() for ax in axes):
            ax.set_ylim(bottom=0)  # after all facets are drawn: those of a row share this axis
        left_label(cells, "mean entropy\n(nats)", "rollouts\nrunning")
        legend(figure, [axes[0] for axes in cells.values()],
               title="Step profile: entropy of the next token along the rollout")
    return figure


def active_profile(steps: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """By ``keys`` and step: ``entropy``, the mean over the rollouts that reach the step, and ``active``, how many."""
    grouped = steps.groupby([*keys, "step"], observed=True, sort=True)["entropy"]
    return grouped.agg(entropy="mean", active="size").reset_index()


def _draw_profile(above: Axes, below: Axes, rows: pd.DataFrame, styles: Mapping[str, Look], fewest: int) -> None:
    for variant, look in styles.items():
        own = of(rows, "model_variant", variant)
        enough = own[own["active"] >= fewest]
        above.plot(enough["step"], enough["entropy"], look.dash, color=look.colour, linewidth=1.2, label=variant)
        below.plot(own["step"], own["active"], look.dash, color=look.colour, linewidth=1.2)
    above.sharex(below)
    above.tick_params(labelbottom=False)
    below.set_xlabel("position (tokens)")


# --- fixed cohorts ----------------------------------------------------------------------------------------------


def cohort_profile(steps: pd.DataFrame, *, by: str = "task", lengths: Sequence[int] | None = None, width: int = 5,
                   fewest: int = 20) -> Figure:
    """Mean entropy along rollouts of at least L tokens, up to L: each line is the same rollouts throughout.

    ``steps`` has one row per step: ``by``, ``model_variant``, ``step``, ``entropy`` and ``length``, that of its
    rollout. A panel per facet and variant, means over ``width`` positions; the grey line is over all that still run.
    Below, how many run, with each cohort's size marked at its L. Cohorts of fewer than ``fewest`` are left out.
    """
    need(steps, [by, "model_variant", "step", "entropy", "length"])
    longest = int(steps["length"].max())
    at = cohort_lengths(longest) if lengths is None else sorted(lengths)
    table = cohorts(steps, [by, "model_variant"], [*at, 0], width)
    table = table[table["rollouts"] >= fewest]
    active = active_profile(steps, [by, "model_variant"])
    styles, colours = looks(steps["model_variant"]), shades(at)
    with styled():
        n = len(styles)
        figure, cells = facets(distinct(steps, by), height=1.15 * n + 1.0, rows_each=n + 1, ratios=(*[1.4] * n, 1),
                               sharey=False)
        for value, axes in cells.items():
            for ax, variant in zip(axes, styles, strict=False):
                _draw_cohorts(ax, of(of(table, by, value), "model_variant", variant), colours)
                ax.tick_params(labelbottom=False)
            _draw_active(axes[-1], of(active, by, value), styles, colours, fewest)
            for ax in axes:
                ax.set_xlim(0, 1.02 * longest)
            axes[0].set_title(value)
        _share_scales(list(cells.values()))
        left_label(cells, *(f"{variant}\nentropy (nats)" for variant in styles), "rollouts\nrunning")
        legend(figure, [ax for axes in cells.values() for ax in (axes[-1], axes[0])],
               title="Entropy along fixed cohorts of rollouts")
    return figure


def cohort_lengths(longest: int) -> list[int]:
    """An eighth, a quarter, a half and all of the longest length."""
    return sorted({max(longest // part, 2) for part in (8, 4, 2, 1)})


def cohorts(steps: pd.DataFrame, keys: Sequence[str], lengths: Sequence[int], width: int) -> pd.DataFrame:
    """By ``keys``, ``cohort`` L and ``position``: mean ``entropy`` over ``width`` positions, and how many ``rollouts``.

    Cohort L > 0 has the first L steps of the rollouts of at least L tokens, whole bins only; cohort 0 has all steps.
    ``rollouts`` is the number at the bin's last position, which is the whole cohort's for L > 0.
    """
    parts = []
    for length in lengths:
        whole = (length // width) * width
        rows = steps[(steps["length"] >= length) & (steps["step"] < whole)] if length else steps
        rows = rows.assign(position=rows["step"] // width * width + (width - 1) / 2)
        means = rows.groupby([*keys, "position"], observed=True)["entropy"].mean().rename("entropy").to_frame()
        last = rows[rows["step"] % width == width - 1]
        means["rollouts"] = last.groupby([*keys, "position"], observed=True).size()
        parts.append(means.fillna({"rollouts": 0}).reset_index().assign(cohort=length))
    return pd.concat(parts, ignore_index=True)


def _draw_cohorts(ax: Axes, rows: pd.DataFrame, colours: Mapping[int, str]) -> None:
    everyone = rows[rows["cohort"] == 0]
    ax.plot(everyone["position"], everyone["entropy"], color=GREY, linewidth=0.9, linestyle=(0, (1, 1)),
            label="all that still run")
    for length, colour in colours.items():
        own = rows[rows["cohort"] == length]
        ax.plot(own["position"], own["entropy"], color=colour, linewidth=1.3, label=f"at least {length} tokens")


def _draw_active(ax: Axes, rows: pd.DataFrame, styles: Mapping[str, Look], colours: Mapping[int, str],
                 fewest: int) -> None:
    for variant, look in styles.items():
        own = of(rows, "model_variant", variant).set_index("step")["active"]
        ax.plot(own.index, own, look.dash, color=look.colour, linewidth=1.1, label=variant)
        for length, colour in colours.items():
            size = own.get(length - 1, 0)  # a rollout of at least L tokens runs at position L - 1
            if size >= fewest:
                ax.plot(length, size, look.marker, color=colour, markersize=4, markeredgecolor="white",
                        markeredgewidth=0.4, zorder=4)
    ax.set_xlabel("position (tokens)")


def _share_scales(columns: list[list[Axes]]) -> None:
    """All entropy panels on one scale, all panels of counts on another, both from zero."""
    entropies = [ax for axes in columns for ax in axes[:-1]]
    counts = [axes[-1] for axes in columns]
    for group in (entropies, counts):
        drawn = [np.asarray(line.get_ydata(), dtype=float) for ax in group for line in ax.lines]
        tops = [float(np.nanmax(y)) for y in drawn if len(y)]
        for ax in group:
            ax.set_ylim(0, 1.06 * max(tops, default=1.0))
            if ax not in columns[0]:
                ax.tick_params(labelleft=False)
