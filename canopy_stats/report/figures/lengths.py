"""Lengths of the rollouts: histograms, densities, and how length and rate vary within a prompt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from canopy_stats.report.figures.shared import left_label, need, of
from canopy_stats.report.style import GREY, Look, facets, family_marks, in_order, label, legend, looks, styled
from canopy_stats.schema import LENGTH

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NEEDED = ["model_variant", "length", "finish_reason"]


# --- histograms -------------------------------------------------------------------------------------------------


def length_histograms(rollouts: pd.DataFrame, *, by: str = "task", bins: int = 30) -> Figure:
    """Lengths by variant as shares, one facet per ``by``, with the share of rollouts that the cap ended.

    ``rollouts`` has one row per rollout: ``by``, ``model_variant``, ``length``, ``finish_reason``.
    """
    need(rollouts, [by, *NEEDED])
    with styled():
        figure, cells = facets(in_order(rollouts[by]), sharey=False)
        edges = length_edges(rollouts["length"].to_numpy(), bins)
        for value, (ax,) in cells.items():
            _draw_lengths(ax, of(rollouts, by, value), looks(rollouts["model_variant"]), edges)
            ax.set_title(value, pad=13)
            ax.set_xlabel(label("length"))
        left_label(cells, "share of rollouts")
        legend(figure, [axes[0] for axes in cells.values()],
               title="Lengths of the rollouts, and the share that the cap ended")
    return figure


def length_edges(lengths: np.ndarray, bins: int) -> list[float]:
    """Bin edges midway between whole lengths, of one whole width; the longest length ends the last bin."""
    low, high = int(lengths.min()), int(lengths.max())
    width = max(1, -(-(high - low + 1) // bins))
    count = -(-(high - low + 1) // width)
    return [max(high + 0.5 - width * k, low - 0.5) for k in range(count, -1, -1)]


def _draw_lengths(ax: Axes, rows: pd.DataFrame, styles: Mapping[str, Look], edges: list[float]) -> None:
    notes = []
    for variant, look in styles.items():
        own = of(rows, "model_variant", variant)
        if own.empty:
            continue
        share = np.full(len(own), 1 / len(own))
        ax.hist(own["length"], edges, weights=share, color=look.colour, alpha=0.25)
        ax.hist(own["length"], edges, weights=share, color=look.colour, histtype="step", linestyle=look.dash,
                linewidth=1.2, label=variant)
        notes.append(f"{variant} {100 * own['finish_reason'].eq(LENGTH).mean():.0f}%")
    ax.set_ylim(bottom=0)
    _note(ax, "cap: " + ", ".join(notes))


def _note(ax: Axes, text: str) -> None:
    note = ax.text(0.5, 1.02, text, transform=ax.transAxes, ha="center", va="bottom", fontsize=6.5, color=GREY)
    note.set_in_layout(False)  # else a long note squeezes the axes


# --- densities --------------------------------------------------------------------------------------------------


def length_densities(rollouts: pd.DataFrame, *, by: str = "task") -> Figure:
    """Densities of the logarithm of length by variant, thin for each family and thick for all, a facet per ``by``.

    Only rollouts that drew an end token are smoothed: the area under a line is their share, and the bar at the right
    edge of the axis is the share that the cap ended. ``rollouts`` as for :func:`length_histograms`, with
    ``model_name``.
    """
    need(rollouts, [by, "model_name", *NEEDED])
    with styled():
        figure, cells = facets(in_order(rollouts[by]), rows_each=2, ratios=(1, 0.22), height=2.5, sharey="row")
        styles = looks(rollouts["model_variant"])
        grid = np.geomspace(max(1, rollouts["length"].min()) / 1.3, rollouts["length"].max() * 1.3, 200)
        for value, (above, below) in cells.items():
            rows = of(rollouts, by, value)
            _draw_densities(above, rows, styles, grid)
            _draw_shares(below, rows, styles)
            above.set_title(value)
        left_label(cells, "density of log N", "ended by\nthe cap")
        legend(figure, [axes[0] for axes in cells.values()], title="Lengths of the rollouts that ended by themselves")
    return figure


def density(lengths: np.ndarray, share: float, grid: np.ndarray) -> np.ndarray:
    """Gaussian kernel density of log length on a grid of lengths, scaled to the area ``share`` (Scott's bandwidth).

    Lengths are whole numbers, so the bandwidth is at least half the gap between the median and its neighbour.
    """
    from scipy.stats import gaussian_kde

    logs = np.log(lengths)
    if len(logs) < 2 or np.ptp(logs) == 0:
        return np.full(len(grid), np.nan)
    least = 0.5 / max(float(np.median(lengths)), 1.0)
    kde = gaussian_kde(logs)
    factor = max(kde.factor, least / logs.std(ddof=1))
    return np.asarray(share * gaussian_kde(logs, factor)(np.log(grid)))


def _draw_densities(ax: Axes, rows: pd.DataFrame, styles: Mapping[str, Look], grid: np.ndarray) -> None:
    for variant, look in styles.items():
        own = of(rows, "model_variant", variant)
        families = [of(own, "model_name", f) for f in in_order(own["model_name"])]
        for part, thick in [*((f, False) for f in families if len(families) > 1), (own, True)]:
            stopped = part.loc[~part["finish_reason"].eq(LENGTH), "length"].to_numpy(float)
            if len(stopped) > 1:
                ax.plot(grid, density(stopped, len(stopped) / len(part), grid), look.dash, color=look.colour,
                        linewidth=1.5 if thick else 0.6, alpha=1 if thick else 0.6,
                        label=(f"{variant}, all families" if len(families) > 1 else variant) if thick else
                        f"{variant}, each family")
    ax.set_xscale("log")
    ax.set_ylim(bottom=0)
    ax.set_xlabel(label("length"))
    _plain_log(ax)


def _plain_log(ax: Axes) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    ax.xaxis.set_major_locator(LogLocator(10, subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())


def _draw_shares(ax: Axes, rows: pd.DataFrame, styles: Mapping[str, Look]) -> None:
    for place, (variant, look) in enumerate(styles.items()):
        own = of(rows, "model_variant", variant)
        share = float(own["finish_reason"].eq(LENGTH).mean()) if len(own) else np.nan
        ax.barh(place, share, color=look.colour, alpha=0.75)
        ax.text(share, place, f" {100 * share:.0f}%", va="center", fontsize=6.5, color=GREY)
    ax.set(xlim=(0, 1), yticks=[], ylim=(len(styles) - 0.4, -0.6), xticks=[])
    ax.spines["left"].set_visible(False)
    ax.spines["bottom"].set_visible(False)
    ax.grid(visible=False)


# --- within prompts ---------------------------------------------------------------------------------------------

WITHIN = {"var_N": "variance of N\n(tokens²)", "var_r": "variance of r\n(nats²/token²)"}


def within_variances(rollouts: pd.DataFrame) -> pd.DataFrame:
    """A row per run and prompt: ``var_N`` and ``var_r``, sample variances of length and rate over its rollouts.

    ``rollouts`` has ``task``, ``model_name``, ``model_variant``, ``prompt_uid``, ``length`` and ``entropy_rate``.
    """
    keys = ["task", "model_name", "model_variant", "prompt_uid"]
    grouped = rollouts.groupby(keys, observed=True)
    return grouped.agg(var_N=("length", "var"), var_r=("entropy_rate", "var")).reset_index()


def within_prompt(variances: pd.DataFrame, *, base: str = "base") -> Figure:
    """Variance of length and of rate over a prompt's rollouts: tuned against base, a point per family and prompt.

    ``variances`` is what :func:`within_variances` gives. Below the diagonal a prompt varies less after tuning. A
    variance of zero has no place on a logarithmic axis; such pairs are counted in the panel.
    """
    need(variances, ["task", "model_name", "model_variant", "prompt_uid", *WITHIN])
    with styled():
        figure, cells = facets(in_order(variances["task"]), height=3.3, rows_each=2, ratios=(1, 1), sharey="row")
        marks = family_marks(in_order(variances["model_name"]))
        for value, axes in cells.items():
            for ax, column in zip(axes, WITHIN, strict=True):
                _draw_pairs(ax, of(variances, "task", value), column, marks, looks(variances["model_variant"]), base)
            axes[0].set_title(value, pad=13)
        for row, column in enumerate(WITHIN):
            _square([axes[row] for axes in cells.values()], variances[column])
            for axes in cells.values():
                axes[row].set_xlabel(f"{base}: {WITHIN[column].splitlines()[0]}")
        left_label(cells, *(f"tuned: {text}" for text in WITHIN.values()))
        legend(figure, [axes[0] for axes in cells.values()], title="Variance over the rollouts of a prompt")
    return figure


def _draw_pairs(ax: Axes, rows: pd.DataFrame, column: str, marks: Mapping[str, str], styles: Mapping[str, Look],
                base: str) -> None:
    wide = rows.astype({"model_variant": str, "model_name": str}).pivot(
        index=["model_name", "prompt_uid"], columns="model_variant", values=column)
    tuned = [variant for variant in styles if variant != base and variant in wide and base in wide]
    notes = []
    for variant in tuned:
        pairs, alone = wide[[base, variant]].dropna(), len(tuned) == 1
        shown = pairs[(pairs > 0).all(axis=1)]
        for (family, mark), colour in zip(marks.items(), _FAMILY_COLOURS * len(marks), strict=False):
            own = shown[shown.index.get_level_values("model_name") == family]
            ax.scatter(own[base], own[variant], s=10, marker=mark, alpha=0.55, linewidths=0,
                       color=colour if alone else styles[variant].colour,
                       label=family if alone else f"{family} {variant}")
        notes.append(_smaller(pairs, base, variant, alone))
    _note(ax, "; ".join(notes))


def _smaller(pairs: pd.DataFrame, base: str, variant: str, alone: bool) -> str:
    """The share of pairs whose tuned value is the smaller one, and how many have no place on the axes."""
    zeros = int((pairs <= 0).any(axis=1).sum())
    share = f"smaller: {100 * (pairs[variant] < pairs[base]).mean():.0f}%" + f", {zeros} at zero" * (zeros > 0)
    return share if alone else f"{variant} {share}"


_FAMILY_COLOURS = tuple(look.colour for look in looks(("base", "a", "b", "c")).values())


def _square(axes: list[Axes], values: pd.Series) -> None:
    """One logarithmic scale for both axes of all panels, with the diagonal."""
    positive = values[values > 0]
    low, high = (float(positive.min()) / 1.5, float(positive.max()) * 1.5) if len(positive) else (0.1, 10)
    for ax in axes:
        ax.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high), box_aspect=1)
        ax.plot([low, high], [low, high], color=GREY, linewidth=0.8, zorder=0)
