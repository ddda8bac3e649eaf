"""The specification curve: estimates in order of size above, the choices that made each of them below."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import fill
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from canopy_stats.figure_style import BLACK, BLUE, GREY, ORANGE, PAGE, VERMILLION, styled
from canopy_stats.schema import UserError
from canopy_stats.slope.curve import SCALE, agreement
from canopy_stats.slope.specifications import DIMENSIONS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

KINDS = {"larger": ("significantly larger", BLUE), "smaller": ("significantly smaller", VERMILLION),
         "unclear": ("not significant", GREY), "failed": ("not usable", ORANGE)}
NAMES = {"rate": "curve of the rate", "length": "length term", "slopes": "slopes by task\nand family",
         "support": "rates used", "family": "family effects", "task": "task effects", "model": "model",
         "response": "response", "embedder": "embedder"}
OPTIONS = {("rate", "straight"): "straight line", ("rate", "smooth"): "shared smooth",
           ("length", "spline"): "spline of 1/N", ("length", "log"): "log N"}
_HEIGHT, GAP = 0.155, 0.7
"""Inches of one row of the choices, and rows between two choices."""


def specification_figure(table: pd.DataFrame, *, level: float = 0.95, title: str = "Specification curve") -> Figure:
    """The curve of ``SpecificationCurve.table``: estimates with intervals by size, and below the choices of each.

    Specifications without a usable fit stand at the right end, marked and counted. Beside each option are the median
    of its estimates and its share of significant ones. A diamond marks the paper's own models.
    """
    missing = [c for c in ("estimate", "conf_low", "conf_high", "p_value", "usable", "paper") if c not in table.columns]
    if missing:
        raise UserError(f"This figure needs the column{'s'[:len(missing) - 1]} {', '.join(missing)}; give it the table"
                        " of specification_curve().")
    if table.empty:
        raise UserError("This figure has no specifications to draw.")
    from canopy_stats.picture import NotebookFigure

    ordered = _ordered(table, level)
    rows = _choice_rows(ordered)
    below = _HEIGHT * (len(rows) + GAP * len({row.choice for row in rows}))
    with styled():
        figure = NotebookFigure(figsize=(PAGE, 3.1 + below), layout="constrained")
        above, *matrix = figure.subplots(2 if rows else 1, 1, sharex=True, squeeze=False,
                                         height_ratios=[2.1, below] if rows else None)[:, 0]
        _draw_estimates(above, ordered)
        for ax in matrix:
            _draw_choices(ax, ordered, rows, level)
        figure.suptitle(f"{title}\n{fill(headline(table, level), 105)}", x=0.01, ha="left")
        figure.draw_without_rendering()  # texts beside the axes settle at the second layout only
    return figure


def headline(table: pd.DataFrame, level: float = 0.95) -> str:
    """One line: how many specifications agree."""
    whole = agreement(table, level).iloc[0]
    text = (f"The slope is larger after fine-tuning in {whole['positive']} of {whole['usable']} specifications,"
            f" significantly in {whole['significant_positive']}; it is significantly smaller in"
            f" {whole['significant_negative']}")
    return text + (f". {whole['n'] - whole['usable']} more are not usable" if whole["usable"] < whole["n"] else "")


def _ordered(table: pd.DataFrame, level: float) -> pd.DataFrame:
    """Rows by size of the estimate with their place ``at`` and ``kind``; unusable ones last, after a gap."""
    good = table[table["usable"]].sort_values("estimate", kind="stable")
    ordered = pd.concat([good, table[~table["usable"]]], ignore_index=True)
    gap = max(1.0, 0.015 * len(ordered)) * (~ordered["usable"])
    clear = np.where(ordered["estimate"] > 0, "larger", "smaller")
    kind = np.where(ordered["p_value"] < 1 - level, clear, "unclear")
    return ordered.assign(at=np.arange(len(ordered)) + gap, kind=np.where(ordered["usable"], kind, "failed"))


def _draw_estimates(ax: Axes, ordered: pd.DataFrame) -> None:
    size = float(np.clip(240 / len(ordered), 0.5, 4))
    ax.axhline(0, color=BLACK, linewidth=0.8)
    for kind, (text, colour) in KINDS.items():
        rows = ordered[ordered["kind"] == kind]
        if rows.empty:
            continue
        where = ax.get_xaxis_transform() if kind == "failed" else ax.transData
        if kind != "failed":
            ax.vlines(rows["at"], rows["conf_low"], rows["conf_high"], color=colour, linewidth=0.6 * size, alpha=0.45)
        height = np.full(len(rows), 0.05) if kind == "failed" else rows["estimate"]
        ax.plot(rows["at"], height, linestyle="", marker="x" if kind == "failed" else "o", transform=where,
                markersize=max(2.0, size), color=colour, label=f"{text} ({len(rows)})")
    paper = ordered[ordered["paper"] & ordered["usable"]]
    if len(paper):
        ax.plot(paper["at"], paper["estimate"], linestyle="", marker="D", markersize=5, markerfacecolor="white",
                markeredgecolor=BLACK, label="the paper's own model", zorder=5)
    _name_papers(ax, paper)
    ax.set_ylim(*_limits(ordered))
    ax.set_ylabel(f"slope, tuned − base\n({SCALE})")
    ax.tick_params(axis="x", length=0, labelbottom=False)
    ax.grid(visible=False, axis="x")
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, handletextpad=0.3, columnspacing=1.2)


def _name_papers(ax: Axes, paper: pd.DataFrame) -> None:
    """Each diamond's response, in turn above and below: neighbours do not write over each other."""
    sides = [((-5, 5), "right", "bottom"), ((5, -5), "left", "top")]
    for i, (_, row) in enumerate(paper.iterrows()):
        offset, across, along = sides[i % 2]
        ax.annotate(str(row["response"]), (row["at"], row["estimate"]), xytext=offset, textcoords="offset points",
                    ha=across, va=along, fontsize=7, zorder=6)


def _limits(ordered: pd.DataFrame) -> tuple[float, float]:
    """Room for zero and for all but the widest hundredth of the intervals."""
    good = ordered[ordered["usable"]]
    if good.empty:
        return -1.0, 1.0
    low = min(0.0, float(good["conf_low"].quantile(0.01)), float(good["estimate"].min()))
    high = max(0.0, float(good["conf_high"].quantile(0.99)), float(good["estimate"].max()))
    return low - 0.06 * (high - low), high + 0.06 * (high - low)


# --- the choices ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _OptionRow:
    """One option of a choice, and where it is drawn."""

    choice: str
    option: str
    y: float


def _choice_rows(ordered: pd.DataFrame) -> list[_OptionRow]:
    """One row per option of each choice that has several, with a gap between choices."""
    several = [name for name in DIMENSIONS if name in ordered and ordered[name].nunique() > 1]
    pairs = [(name, option) for name in several for option in _options(ordered, name)]
    return [_OptionRow(name, option, i + GAP * several.index(name)) for i, (name, option) in enumerate(pairs)]


def _options(ordered: pd.DataFrame, name: str) -> list[str]:
    """Options in the order of the grid."""
    first = ordered.sort_values("spec") if "spec" in ordered else ordered
    return [str(option) for option in first[name].unique()]


def _draw_choices(ax: Axes, ordered: pd.DataFrame, rows: Sequence[_OptionRow], level: float) -> None:
    counts = agreement(ordered, level)
    width = float(np.clip(300 / len(ordered), 0.6, 3))
    for row in rows:
        own = ordered[ordered[row.choice].astype(str) == row.option]
        for kind, (_, colour) in KINDS.items():
            at = own.loc[own["kind"] == kind, "at"]
            ax.vlines(at, row.y - 0.36, row.y + 0.36, color=colour, linewidth=width)
    _name_choices(ax, rows)
    _tell_counts(ax, rows, counts)
    ax.set(ylim=(rows[-1].y + 0.7, -0.7), xlim=(-1, float(ordered["at"].max()) + 1))
    ax.set_xlabel("specifications, from the smallest estimate to the largest")
    ax.grid(visible=False)
    for side in ("left", "bottom"):
        ax.spines[side].set_visible(False)
    ax.tick_params(axis="both", length=0, labelbottom=False)


def _name_choices(ax: Axes, rows: Sequence[_OptionRow]) -> None:
    """Options as tick labels, and each choice's name to the left of its options."""
    names = [OPTIONS.get((row.choice, row.option), shortened(row.option)) for row in rows]
    ax.set_yticks([row.y for row in rows], names)
    for choice in dict.fromkeys(row.choice for row in rows):
        middle = float(np.mean([row.y for row in rows if row.choice == choice]))
        ax.annotate(NAMES.get(choice, choice), (0, middle), xytext=(-70, 0),
                    xycoords=("axes fraction", "data"), textcoords="offset points", ha="right", va="center",
                    fontsize=7, fontweight="bold", annotation_clip=False)


def shortened(text: str, most: int = 16) -> str:
    """A long name, such as an embedder's with its revision, without what follows an @ and at most so long."""
    text = text.split("@")[0]
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _tell_counts(ax: Axes, rows: Sequence[_OptionRow], counts: pd.DataFrame) -> None:
    """Median estimate and share of significant results of each option, to the right of its row."""
    found = {(str(c["choice"]), str(c["option"])): c for _, c in counts.iterrows()}
    heads = [(1.055, "median"), (1.125, "signif.")]
    for x, text in heads:
        ax.annotate(text, (x, 1), xycoords="axes fraction", ha="right", va="bottom", fontsize=6.5, color=GREY)
    for row in rows:
        own = found[(row.choice, row.option)]
        share = 1 - own["not_significant"] / own["usable"] if own["usable"] else float("nan")
        texts = [f"{own['median']:.2f}", f"{100 * share:.0f}%"] if own["usable"] else ["–", "–"]
        for (x, _), text in zip(heads, texts, strict=True):
            ax.annotate(text, (x, row.y), xycoords=("axes fraction", "data"), ha="right", va="center", fontsize=6.5,
                        annotation_clip=False)
