"""The figures. Each function takes data frames and returns a matplotlib Figure; none of them fits anything.

Variants come in the order in which they appear, with ``base`` first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from canopy_stats.report.style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    SKY,
    VERMILLION,
    Cells,
    facets,
    in_order,
    label,
    legend,
    looks,
    name,
    save,
    styled,
    unit,
)
from canopy_stats.schema import LENGTH, UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["cap_curves", "decomposition_bars", "diversity_against_rate", "entropy_profile", "length_histograms",
           "save", "slope_forest"]

TERMS = {"product": ("mean N · mean r", SKY), "cov_within": ("Cov within prompts", VERMILLION),
         "cov_between": ("Cov between prompts", GREEN)}
"""The three terms of pooled CE*, by column."""


# --- diversity against entropy rate -----------------------------------------------------------------------------


def diversity_against_rate(panel: pd.DataFrame, fit: Any = None, *, by: str = "model_name") -> Figure:
    """D against R_bar with every prompt of both variants, one facet per ``by``; common rates are shaded.

    ``fit`` is a fitted model with ``predict(frame)``, such as the interaction LMM: its lines are drawn over each
    variant's own rates, averaged over the variant's own rows (their lengths and tasks).
    """
    _need(panel, ["D", "R_bar", "model_variant", by])
    with styled():
        figure, cells = facets(in_order(panel[by]))
        for value, (ax,) in cells.items():
            _draw_cloud(ax, panel[panel[by].astype(str) == value], looks(panel["model_variant"]), fit)
            ax.set(title=value, xlabel=label("R_bar").replace(" (", "\n("))
        _left_label(cells, label("D"))
        averaged = fit is not None and by != "task" and "task" in panel and panel["task"].nunique() > 1
        legend(figure, [axes[0] for axes in cells.values()],
               title="Semantic diversity against entropy rate" + "; lines average over tasks" * averaged)
    return figure


def _draw_cloud(ax: Axes, rows: pd.DataFrame, styles: dict, fit: Any) -> None:
    shared = common_support(rows)
    if shared is not None:
        ax.axvspan(*shared, color="#F3EFE0", zorder=0, label="shared rates")
    for variant, look in styles.items():
        own = rows[rows["model_variant"].astype(str) == variant]
        ax.scatter(own["R_bar"], own["D"], s=9, marker=look.marker, color=look.colour, alpha=_alpha(len(own)),
                   linewidths=0, label=variant)
        if fit is not None and len(own):
            line = fitted_line(fit, own)
            ax.plot(line["R_bar"], line["D"], look.dash, color=look.colour, label=f"{variant}, fitted")


def _alpha(points: int) -> float:
    return float(np.clip(8 / np.sqrt(max(points, 1)), 0.25, 0.75))


def common_support(rows: pd.DataFrame) -> tuple[float, float] | None:
    """The range of R_bar that every variant reaches, or None when there is none."""
    ranges = rows.groupby("model_variant", observed=True)["R_bar"].agg(["min", "max"])
    low, high = float(ranges["min"].max()), float(ranges["max"].min())
    return (low, high) if len(ranges) > 1 and low < high else None


def fitted_line(fit: Any, rows: pd.DataFrame, points: int = 25) -> pd.DataFrame:
    """Predicted D over the rows' range of R_bar, averaged over the rows' other columns. Columns R_bar, D."""
    grid = np.linspace(rows["R_bar"].min(), rows["R_bar"].max(), points)
    copies = pd.concat([rows.assign(R_bar=rate) for rate in grid], ignore_index=True)
    predicted = np.asarray(fit.predict(copies), dtype=float).reshape(points, len(rows))
    return pd.DataFrame({"R_bar": grid, "D": predicted.mean(axis=1)})


# --- canopy entropy in three terms ------------------------------------------------------------------------------


def decomposition_bars(levels: pd.DataFrame, *, by: str = "task") -> Figure:
    """Pooled CE* = mean N · mean r + mean within-prompt Cov + between-prompt Cov, a bar per family and variant.

    ``levels`` has one row per cell: ``model_name``, ``model_variant``, ``by``, ``CE``, ``product``, ``cov_within``
    and ``cov_between``. Negative terms hang below zero; the black mark is CE*, their sum.
    """
    _need(levels, ["model_name", "model_variant", by, "CE", *TERMS])
    with styled():
        figure, cells = facets(in_order(levels[by]), height=2.3)
        order = in_order(levels["model_variant"])
        for value, (ax,) in cells.items():
            rows = levels[levels[by].astype(str) == value]
            _draw_stacks(ax, rows.sort_values("model_variant", key=lambda v: v.map(order.index), kind="stable")
                         .sort_values("model_name", kind="stable"))
            ax.set_title(value)
        _left_label(cells, label("CE"))
        families = in_order(levels["model_name"])
        legend(figure, [axes[0] for axes in cells.values()],
               title="Canopy entropy and its three terms" + (f": {families[0]}" if len(families) == 1 else ""))
    return figure


def _draw_stacks(ax: Axes, rows: pd.DataFrame) -> None:
    families = rows["model_name"].ne(rows["model_name"].shift()).cumsum().to_numpy() - 1
    at = np.arange(len(rows)) + 0.6 * families
    ends = {1: np.zeros(len(rows)), -1: np.zeros(len(rows))}
    for term, (text, colour) in TERMS.items():
        height = rows[term].to_numpy(float)
        bottom = np.where(height >= 0, ends[1], ends[-1])
        ax.bar(at, height, 0.8, bottom=bottom, color=colour, label=text)
        ends = {1: ends[1] + height.clip(min=0), -1: ends[-1] + height.clip(max=0)}
    ax.plot(at, rows["CE"], linestyle="", marker="_", markersize=9, markeredgewidth=1.6, color=BLACK,
            label="CE* (their sum)")
    ax.axhline(0, color=GREY, linewidth=0.7)
    ax.use_sticky_edges = False  # else a tall bar's mark is cut by the frame
    ax.margins(y=0.06)
    ax.grid(visible=False, axis="x")
    several = rows["model_name"].nunique() > 1
    names = [f"{family} {variant}" if several else str(variant)
             for family, variant in zip(rows["model_name"], rows["model_variant"], strict=True)]
    ax.set_xticks(at, names, rotation=60, ha="right", rotation_mode="anchor")


# --- lengths ----------------------------------------------------------------------------------------------------


def length_histograms(rollouts: pd.DataFrame, *, by: str = "task", bins: int = 30) -> Figure:
    """Lengths by variant as densities, one facet per ``by``, with the share of rollouts that the cap ended.

    ``rollouts`` has one row per rollout: ``by``, ``model_variant``, ``length``, ``finish_reason``.
    """
    _need(rollouts, [by, "model_variant", "length", "finish_reason"])
    with styled():
        figure, cells = facets(in_order(rollouts[by]), sharey=False)
        edges = length_edges(rollouts["length"].to_numpy(), bins)
        for value, (ax,) in cells.items():
            _draw_lengths(ax, rollouts[rollouts[by].astype(str) == value], looks(rollouts["model_variant"]), edges)
            ax.set_title(value, pad=13)
            ax.set_xlabel(label("length"))
        _left_label(cells, "share of rollouts")
        legend(figure, [axes[0] for axes in cells.values()],
               title="Lengths of the rollouts, and the share that the cap ended")
    return figure


def length_edges(lengths: np.ndarray, bins: int) -> list[float]:
    """Bin edges midway between whole lengths, of one whole width; the longest length ends the last bin."""
    low, high = int(lengths.min()), int(lengths.max())
    width = max(1, -(-(high - low + 1) // bins))
    count = -(-(high - low + 1) // width)
    return [max(high + 0.5 - width * k, low - 0.5) for k in range(count, -1, -1)]


def _draw_lengths(ax: Axes, rows: pd.DataFrame, styles: dict, edges: list[float]) -> None:
    notes = []
    for variant, look in styles.items():
        own = rows[rows["model_variant"].astype(str) == variant]
        if own.empty:
            continue
        share = np.full(len(own), 1 / len(own))
        ax.hist(own["length"], edges, weights=share, color=look.colour, alpha=0.25)
        ax.hist(own["length"], edges, weights=share, color=look.colour, histtype="step", linestyle=look.dash,
                linewidth=1.2, label=variant)
        notes.append(f"{variant} {100 * own['finish_reason'].eq(LENGTH).mean():.0f}%")
    ax.set_ylim(bottom=0)
    note = ax.text(0.5, 1.02, "cap: " + ", ".join(notes), transform=ax.transAxes, ha="center", va="bottom",
                   fontsize=6.5, color=GREY)
    note.set_in_layout(False)  # else a long note squeezes the axes


# --- entropy along the rollout ----------------------------------------------------------------------------------


def entropy_profile(steps: pd.DataFrame, *, by: str = "model_name", fewest: int = 20) -> Figure:
    """Mean next-token entropy by position, over the rollouts still running, whose number stands below.

    ``steps`` has one row per step: ``by``, ``model_variant``, ``step``, ``entropy``. Positions that fewer than
    ``fewest`` rollouts of a variant reach are left out of the upper line: who is left there is chance.
    """
    _need(steps, [by, "model_variant", "step", "entropy"])
    with styled():
        figure, cells = facets(in_order(steps[by]), height=2.6, rows_each=2, ratios=(2.2, 1), sharey="row")
        table = active_profile(steps, [by, "model_variant"])
        for value, (above, below) in cells.items():
            rows = table[table[by].astype(str) == value]
            _draw_profile(above, below, rows, looks(steps["model_variant"]), fewest)
            above.set_title(value)
        for ax in next(iter(cells.values())):
            ax.set_ylim(bottom=0)  # after all facets are drawn: they share this axis
        _left_label(cells, "mean entropy\n(nats)", "rollouts\nrunning")
        legend(figure, [axes[0] for axes in cells.values()], title="Entropy rate along the rollout")
    return figure


def active_profile(steps: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """By ``keys`` and step: ``entropy``, the mean over the rollouts that reach the step, and ``active``, how many."""
    grouped = steps.groupby([*keys, "step"], observed=True, sort=True)["entropy"]
    return grouped.agg(entropy="mean", active="size").reset_index()


def _draw_profile(above: Axes, below: Axes, rows: pd.DataFrame, styles: dict, fewest: int) -> None:
    for variant, look in styles.items():
        own = rows[rows["model_variant"].astype(str) == variant]
        enough = own[own["active"] >= fewest]
        above.plot(enough["step"], enough["entropy"], look.dash, color=look.colour, linewidth=1.2, label=variant)
        below.plot(own["step"], own["active"], look.dash, color=look.colour, linewidth=1.2)
    above.sharex(below)
    above.tick_params(labelbottom=False)
    below.set_xlabel("position (tokens)")


# --- sensitivity to the cap -------------------------------------------------------------------------------------

CURVES = ("CE", "N_bar", "R_bar", "truncation_rate")


def cap_curves(curves: pd.DataFrame, *, columns: Sequence[str] = CURVES) -> Figure:
    """Pooled quantities as the cap grows, a facet per quantity, a line per family and variant.

    ``curves`` has one row per cap and checkpoint: ``model_name``, ``model_variant``, ``cap`` and the quantities.
    """
    _need(curves, ["model_name", "model_variant", "cap", *columns])
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


_FAMILY_MARKS = ("o", "s", "D", "v", "P", "X")


def _draw_curves(ax: Axes, curves: pd.DataFrame, column: str) -> None:
    styles = looks(curves["model_variant"])
    marks = dict(zip(in_order(curves["model_name"]), _FAMILY_MARKS * len(curves), strict=False))
    for (family, variant), rows in curves.groupby(["model_name", "model_variant"], observed=True, sort=False):
        look, line = styles[str(variant)], rows.sort_values("cap")
        ax.plot(line["cap"], line[column], look.dash, marker=marks[str(family)], markersize=3, color=look.colour,
                linewidth=1, label=f"{family} {variant}")


# --- slopes -----------------------------------------------------------------------------------------------------

SLOPES = {"base": ("base slope", BLUE, "o"), "tuned": ("tuned slope", VERMILLION, "^"),
          "difference": ("difference", ORANGE, "D")}


def slope_forest(slopes: pd.DataFrame, *, level: float = 0.95, scale: str = "D per nat/token") -> Figure:
    """Base slope, tuned slope and their difference with intervals, one group of three per row of ``slopes``.

    ``slopes`` has ``model`` and, for each of base, tuned and difference, the estimate under that name with
    ``_low`` and ``_high`` for its interval; ``ratio`` (text or number), when there, is printed beside the model.
    """
    _need(slopes, ["model", *(f"{which}{end}" for which in SLOPES for end in ("", "_low", "_high"))])
    from matplotlib.figure import Figure

    with styled():
        figure = Figure(figsize=(5.2, 0.9 + 0.62 * len(slopes)), layout="constrained")
        ax = figure.subplots()
        for row, (_, entry) in enumerate(slopes.iterrows()):
            _draw_slopes(ax, entry, row)
        ax.axvline(0, color=GREY, linewidth=0.8)
        ax.set_yticks(range(len(slopes)), [_forest_name(entry) for _, entry in slopes.iterrows()])
        ax.set(xlabel=f"slope of diversity on entropy rate ({scale})", ylim=(len(slopes) - 0.5, -0.5))
        ax.grid(visible=False, axis="y")
        legend(figure, [ax], title=f"Slope of diversity on entropy rate, {100 * level:g}% intervals")
    return figure


def _draw_slopes(ax: Axes, entry: pd.Series, row: int) -> None:
    for place, (which, (text, colour, marker)) in enumerate(SLOPES.items()):
        at = row + 0.22 * (place - 1)
        ax.plot([entry[f"{which}_low"], entry[f"{which}_high"]], [at, at], color=colour, linewidth=1.4)
        ax.plot(entry[which], at, marker=marker, markersize=4.5, color=colour, linestyle="", label=text)


def _forest_name(entry: pd.Series) -> str:
    ratio = entry.get("ratio")
    if ratio is None or pd.isna(ratio):
        return str(entry["model"])
    return f"{entry['model']}\nratio {ratio if isinstance(ratio, str) else f'{ratio:.2f}'}"


# --- shared -----------------------------------------------------------------------------------------------------


def _left_label(cells: Cells, *texts: str) -> None:
    """Label the y axes of the leftmost facets alone: the others share them."""
    for axes in cells.values():
        for ax, text in zip(axes, texts, strict=True):
            spec = ax.get_subplotspec()
            if spec is not None and spec.colspan.start == 0:
                ax.set_ylabel(text)


def _need(frame: pd.DataFrame, columns: Sequence[str]) -> None:
    missing = [c for c in columns if c not in frame.columns]
    if missing:
        raise UserError(f"This figure needs the column{'s'[:len(missing) - 1]} {', '.join(missing)}; "
                        f"the frame has {', '.join(map(str, frame.columns))}.")
    if frame.empty:
        raise UserError("This figure has no rows to draw: was the panel filtered to nothing?")
