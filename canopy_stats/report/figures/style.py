"""One look for every figure of a report: markers, axis labels, facets and saving, on the shared style.

Variants differ by marker and line as well as by colour. Figures are made without pyplot, so no display and no global
state is needed.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from io import BytesIO
from math import ceil
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Literal

from canopy_stats import files
from canopy_stats.figure_style import BLUE, COLUMN, GREEN, PAGE, PURPLE, VERMILLION, styled
from canopy_stats.schema import UNITS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_NAMES = {
    "D": "semantic diversity D", "log_VS": "log Vendi score", "VS": "Vendi score", "R_bar": "mean entropy rate",
    "N_bar": "mean length", "CE": "canopy entropy CE*", "cov_NR": "Cov(N, r)", "rho_pearson": "Pearson ρ(N, r)",
    "rho_spearman": "Spearman ρ(N, r)", "rho_kendall": "Kendall τ(N, r)", "BF": "branching factor",
    "GenPPL": "generation perplexity", "truncation_rate": "ended by the cap", "length": "length N",
    "entropy": "entropy of the next token", "entropy_rate": "entropy rate r", "M": "rollouts per prompt",
    "RSE": "semantic entropy RSE", "RSE_cs": "RSE adjusted for coverage", "rse_m": "rollouts judged per prompt",
}


def name(column: str) -> str:
    """A column in words."""
    return _NAMES.get(column, column.replace("_", " "))


def unit(column: str) -> str:
    """A column's unit, as the schema has it."""
    return UNITS.get(column, "")


def label(column: str) -> str:
    """A column's axis label: its name and unit, such as ``mean entropy rate (nats/token)``."""
    return f"{name(column)} ({unit(column)})" if unit(column) else name(column)


@dataclass(frozen=True, slots=True)
class Look:
    """How one variant is drawn."""

    colour: str
    marker: str
    dash: str


_LOOKS = (Look(BLUE, "o", "-"), Look(VERMILLION, "^", "--"), Look(GREEN, "s", ":"), Look(PURPLE, "D", "-."))


def in_order(values: Iterable[Hashable], first: str = "base") -> list[str]:
    """Distinct values as they appear, the base variant first."""
    distinct = dict.fromkeys(str(v) for v in values)
    return sorted(distinct, key=lambda v: v != first)


def looks(variants: Iterable[Hashable]) -> dict[str, Look]:
    """Each variant's look: the base is always blue, round and solid; the others follow by name, so that a variant
    looks the same in every figure, whatever the order of its rows."""
    return {v: _LOOKS[i % len(_LOOKS)] for i, v in enumerate(in_order(sorted(map(str, set(variants)))))}


def shades(values: Sequence[int]) -> dict[int, str]:
    """A colour from dark to light for each of a few ordered values (viridis, without its pale end)."""
    import matplotlib as mpl
    from matplotlib.colors import to_hex

    places = [0.85 * i / max(len(values) - 1, 1) for i in range(len(values))]
    return {value: to_hex(mpl.colormaps["viridis"](at)) for value, at in zip(values, places, strict=True)}


_FAMILY_MARKS = ("o", "s", "D", "v", "P", "X")


def family_marks(families: Sequence[str]) -> dict[str, str]:
    """A marker for each family."""
    return {family: _FAMILY_MARKS[i % len(_FAMILY_MARKS)] for i, family in enumerate(families)}


Facets = dict[str, "list[Axes]"]
"""Each facet's axes, from top to bottom."""


def facets(values: Sequence[str], *, height: float = 2.1, columns: int = 4, rows_each: int = 1,
           ratios: Sequence[float] = (1,), sharey: Literal["row"] | bool = True,
           width: float | None = None) -> tuple[Figure, Facets]:
    """A figure with one column of ``rows_each`` axes per value, in a grid; spare cells stay blank.

    It is as wide as a page, or as a column when the grid has one column, unless ``width`` says otherwise.
    """
    from canopy_stats.picture import NotebookFigure

    wide = min(columns, len(values))
    deep = ceil(len(values) / wide)
    across = width or (PAGE if wide > 1 else COLUMN)
    figure = NotebookFigure(figsize=(across, 0.55 + height * deep), layout="constrained")
    grid = figure.subplots(deep * rows_each, wide, squeeze=False, sharey=sharey,
                           height_ratios=list(ratios) * deep)
    cells = {v: [grid[(i // wide) * rows_each + k][i % wide] for k in range(rows_each)] for i, v in enumerate(values)}
    used = {id(ax) for axes in cells.values() for ax in axes}
    for ax in grid.flat:
        ax.set_visible(id(ax) in used)
    return figure, cells


def legend(figure: Figure, axes: Sequence[Axes], *, title: str) -> None:
    """The figure's title, and below its panels one legend of the distinct entries of all its axes."""
    entries = {text: handle for ax in axes for handle, text in zip(*ax.get_legend_handles_labels(), strict=True)}
    width = figure.get_figwidth()
    figure.suptitle(fill(title, int(12 * width)))
    if entries:
        most = 5 if width > 6 else 3
        columns = len(entries) if len(entries) <= most else min(most, ceil(len(entries) / 2))
        shown = figure.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=columns,
                              columnspacing=1.4, handletextpad=0.5)
        for handle in shown.legend_handles:
            if handle is not None:
                handle.set_alpha(1)  # points are drawn faint, their key is not


def save(figure: Figure, stem: str | Path) -> tuple[Path, Path]:
    """Write ``stem.svg`` and ``stem.png``, each whole or not at all; the same figure gives the same bytes."""
    svg, png = (Path(f"{stem}.{kind}") for kind in ("svg", "png"))
    files.make_folder(svg.parent)
    with styled():
        files.write_atomic(svg, _rendered(figure, "svg", {"Date": None}))
        files.write_atomic(png, _rendered(figure, "png", {"Software": None}))
    return svg, png


def _rendered(figure: Figure, kind: str, metadata: dict[str, None]) -> bytes:
    sink = BytesIO()
    figure.savefig(sink, format=kind, metadata=metadata)
    return sink.getvalue()
