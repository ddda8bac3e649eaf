"""Lengths of the rollouts: histograms, densities, and how length and rate vary within a prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from canopy_stats.figure_style import GREY, styled
from canopy_stats.report.figures.shared import distinct, left_label, need, of
from canopy_stats.report.figures.style import Look, facets, label, legend, looks
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
        figure, cells = facets(distinct(rollouts, by), sharey=False)
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
    for variant, look in styles.items():
        own = of(rows, "model_variant", variant)
        if own.empty:
            continue
        share = np.full(len(own), 1 / len(own))
        ax.hist(own["length"], edges, weights=share, color=look.colour, alpha=0.25)
        ax.hist(own["length"], edges, weights=share, color=look.colour, histtype="step", linestyle=look.dash,
                linewidth=1.2, label=variant)
    ax.set_ylim(bottom=0)
    _note(ax, _cap_shares(rows, styles))


def _cap_shares(rows: pd.DataFrame, styles: Mapping[str, Look]) -> str:
    """The share of each variant's rollouts that the cap ended, in words."""
    parts = {variant: of(rows, "model_variant", variant)["finish_reason"] for variant in styles}
    return "cap: " + ", ".join(f"{variant} {100 * reasons.eq(LENGTH).mean():.0f}%"
                               for variant, reasons in parts.items() if len(reasons))


def _note(ax: Axes, text: str) -> None:
    note = ax.text(0.5, 1.02, text, transform=ax.transAxes, ha="center", va="bottom", fontsize=6.5, color=GREY)
    note.set_in_layout(False)  # else a long note squeezes the axes


# --- densities --------------------------------------------------------------------------------------------------


def length_densities(rollouts: pd.DataFrame, *, by: str = "task") -> Figure:
    """Densities of the logarithm of length by variant, thin for each family and thick for all, a facet per ``by``.

    Only rollouts that drew an end token are smoothed, so the area under a line is their share; the share that the
    cap ended stands above. ``rollouts`` as for :func:`length_histograms`, with ``model_name``.
    """
    need(rollouts, [by, "model_name", *NEEDED])
    with styled():
        figure, cells = facets(distinct(rollouts, by), sharey=False)
        styles = looks(rollouts["model_variant"])
        grid = np.geomspace(max(1, rollouts["length"].min()) / 1.3, rollouts["length"].max() * 1.3, 200)
        for value, (ax,) in cells.items():
            rows = of(rollouts, by, value)
            _draw_densities(ax, rows, styles, grid)
            _note(ax, _cap_shares(rows, styles))
            ax.set_title(value, pad=13)
        left_label(cells, "density of log N")
        legend(figure, [axes[0] for axes in cells.values()],
               title="Lengths of the rollouts that ended by themselves, and the share that the cap ended")
    return figure


def density(lengths: np.ndarray, share: float, grid: np.ndarray) -> np.ndarray:
    """Gaussian kernel density of log length on a grid of lengths, scaled to the area ``share``.

    Scott's bandwidth, and at least half a token at the median: lengths are whole numbers. NaN for one length only.
    """
    from scipy.stats import gaussian_kde

    logs = np.log(lengths)
    if len(logs) < 2 or np.ptp(logs) == 0:
        return np.full(len(grid), np.nan)
    kde = gaussian_kde(logs)
    kde.set_bandwidth(max(kde.factor, 0.5 / np.median(lengths) / logs.std(ddof=1)))
    return np.asarray(share * kde(np.log(grid)))


def _draw_densities(ax: Axes, rows: pd.DataFrame, styles: Mapping[str, Look], grid: np.ndarray) -> None:
    for variant, look in styles.items():
        for part, width, text in _parts(of(rows, "model_variant", variant), variant):
            stopped = part.loc[~part["finish_reason"].eq(LENGTH), "length"].to_numpy(float)
            if len(stopped) > 1:
                ax.plot(grid, density(stopped, len(stopped) / len(part), grid), look.dash, color=look.colour,
                        linewidth=width, alpha=min(1, 0.3 + width), label=text)
    ax.set_xscale("log")
    ax.set_ylim(bottom=0)
    ax.set_xlabel(label("length"))
    _plain_log(ax, (1, 2, 5) if grid[-1] / grid[0] < 100 else (1,))


def _parts(own: pd.DataFrame, variant: str) -> list[tuple[pd.DataFrame, float, str]]:
    """A variant's rows by family, to be drawn thin, and all of them, to be drawn thick; with line widths and names."""
    families = distinct(own, "model_name")
    if len(families) < 2:
        return [(own, 1.5, variant)]
    return [*((of(own, "model_name", family), 0.5, f"{variant}, each family") for family in families),
            (own, 1.6, f"{variant}, all families")]


def _plain_log(ax: Axes, steps: Sequence[int]) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    ax.xaxis.set_major_locator(LogLocator(10, subs=steps))
    ax.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())


# --- within prompts ---------------------------------------------------------------------------------------------

WITHIN = {"var_N": "variance of N (tokens²)", "var_r": "variance of r (nats²/token²)"}


def within_variances(rollouts: pd.DataFrame) -> pd.DataFrame:
    """A row per run and prompt: ``var_N`` and ``var_r``, sample variances of length and rate over its rollouts.

    ``rollouts`` has ``task``, ``model_name``, ``model_variant``, ``prompt_uid``, ``length`` and ``entropy_rate``.
    """
    keys = ["task", "model_name", "model_variant", "prompt_uid"]
    grouped = rollouts.groupby(keys, observed=True)
    return grouped.agg(var_N=("length", "var"), var_r=("entropy_rate", "var")).reset_index()


def within_prompt(variances: pd.DataFrame, *, base: str = "base") -> Figure:
    """Variance of length and of rate over a prompt's rollouts: distribution over prompts, a facet per task.

    ``variances`` is what :func:`within_variances` gives. Thin lines are families, the thick one all of them; a line
    starts at the share of prompts without any variance. Above stands the share of prompts that vary less than under
    the base of the same family.
    """
    need(variances, ["task", "model_name", "model_variant", "prompt_uid", *WITHIN])
    with styled():
        figure, cells = facets(distinct(variances, "task"), height=3.6, rows_each=2, ratios=(1, 1), sharey=True)
        styles = looks(variances["model_variant"])
        for value, axes in cells.items():
            for ax, column in zip(axes, WITHIN, strict=True):
                rows = of(variances, "task", value)
                _draw_distributions(ax, rows, column, styles)
                _note(ax, _smaller(rows, column, styles, base))
                ax.set(xscale="log", xlabel=WITHIN[column], xlim=_limits(variances[column]))
            axes[0].set_title(value, pad=13)
            axes[1].set_title(" ", fontsize=6.5)  # room for the note
        left_label(cells, "share of prompts", "share of prompts")
        legend(figure, [axes[0] for axes in cells.values()], title="Variance over the rollouts of a prompt")
    return figure


def _limits(values: pd.Series) -> tuple[float, float]:
    positive = values[values > 0]
    return (float(positive.min()) / 1.5, float(positive.max()) * 1.5) if len(positive) else (0.1, 10.0)


def _draw_distributions(ax: Axes, rows: pd.DataFrame, column: str, styles: Mapping[str, Look]) -> None:
    for variant, look in styles.items():
        for part, width, text in _parts(of(rows, "model_variant", variant), variant):
            values = np.sort(part[column].dropna().to_numpy())
            if len(values):
                at = np.maximum(np.append(values[0], values), np.finfo(float).tiny)  # zero is left of the axis
                ax.step(at, np.arange(len(at)) / len(values), look.dash, where="post", color=look.colour,
                        linewidth=width, alpha=min(1, 0.3 + width), label=text)


def _smaller(rows: pd.DataFrame, column: str, styles: Mapping[str, Look], base: str) -> str:
    """The share of prompts that vary less than under the base of their family, for each tuned variant."""
    wide = rows.astype({"model_variant": str, "model_name": str}).pivot(
        index=["model_name", "prompt_uid"], columns="model_variant", values=column)
    shares = {variant: wide[[base, variant]].dropna() for variant in styles
              if variant != base and {base, variant} <= set(wide)}
    return "smaller: " + ", ".join(f"{variant} {100 * (pairs[variant] < pairs[base]).mean():.0f}%"
                                   for variant, pairs in shares.items()) if shares else ""
