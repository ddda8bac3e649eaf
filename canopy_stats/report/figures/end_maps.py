"""Where the end token stands at every step: a row a rollout, the longest at the bottom."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from canopy_stats.figure_style import BLUE, styled
from canopy_stats.report.figures.shared import left_label
from canopy_stats.report.figures.style import facets, family_marks, in_order, legend, looks
from canopy_stats.schema import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

EMPTY = "#E3E3E3"
OUT_OF_K = "#F4F1E6"
FLOOR = -14.0
"""Smaller log-probabilities (nats) look like this one."""
Singles = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class EndMap:
    """One run's map: ``values`` (rows, longest), NaN after a rollout's last token, rows by length, the shortest first;
    ``lengths`` (R,) of all rollouts of the run, of which the rows are some."""

    task: str
    model_name: str
    model_variant: str
    values: Singles
    lengths: NDArray[np.int64]


def end_logprob_map(maps: Sequence[EndMap]) -> Figure:
    """Log-probability of an end token, a facet per task, a map per family and variant; ``values`` in nats."""
    def draw(ax: Axes, one: EndMap) -> Any:
        return ax.imshow(one.values, vmin=FLOOR, vmax=0.0, cmap=_cividis(), **_extent(one))

    figure = _maps(maps, draw, "Log-probability of an end token, before any filter" + _rows_shown(maps))
    return figure


def end_top_k_map(maps: Sequence[EndMap], k: int) -> Figure:
    """Whether an end token is among the k most likely tokens: ``values`` 1 or 0."""
    from matplotlib.colors import ListedColormap

    colours = ListedColormap([OUT_OF_K, BLUE]).with_extremes(bad=EMPTY)

    def draw(ax: Axes, one: EndMap) -> None:
        ax.imshow(one.values, vmin=0, vmax=1, cmap=colours, **_extent(one))

    title = f"Steps at which an end token is among the {k} most likely (blue; grey: the rollout has ended)"
    return _maps(maps, draw, title + _rows_shown(maps))


def active(lengths: NDArray[np.int64], positions: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many rollouts of these lengths still run at each position: that have a token there."""
    return len(lengths) - np.searchsorted(np.sort(lengths), positions, side="right")


def _maps(maps: Sequence[EndMap], draw: Any, title: str) -> Figure:
    if not maps:
        raise UserError("This figure has no rollouts to draw: was the study drawn?")
    families = in_order(m.model_name for m in maps)
    order = [(f, v) for f in families for v in looks(m.model_variant for m in maps)
             if any((m.model_name, m.model_variant) == (f, v) for m in maps)]
    n, tasks = len(order), sorted({m.task for m in maps})
    found = {(m.task, m.model_name, m.model_variant): m for m in maps}
    with styled():
        figure, cells = facets(tasks, height=0.72 * n + 1.1, rows_each=n + 1, ratios=(*[1.0] * n, 1.1), sharey=False)
        image = None
        for task, axes in cells.items():
            longest = max(m.values.shape[1] for m in maps if m.task == task)
            for ax, cell in zip(axes, order, strict=False):
                one = found.get((task, *cell))
                _bare(ax, longest)
                if one is not None:
                    image = draw(ax, one) or image
                    ax.set_xlim(0, longest)
            _draw_active(axes[-1], [m for m in maps if m.task == task], longest)
            axes[0].set_title(task)
        several = len(families) > 1
        left_label(cells, *(f"{f}\n{v}" if several else v for f, v in order), "rollouts\nrunning")
        for ax in (ax for axes in cells.values() for ax in axes[:-1]):
            ax.yaxis.label.set(rotation=0, ha="right", va="center")  # upright, long names of neighbours overlap
        legend(figure, [axes[-1] for axes in cells.values()], title=title)
        if image is not None:
            bar = figure.colorbar(image, ax=[ax for axes in cells.values() for ax in axes[:-1]], aspect=40, pad=0.02,
                                  extend="min")
            bar.set_label("log-probability (nats)")
            bar.outline.set_visible(False)
    return figure


def _bare(ax: Axes, longest: int) -> None:
    ax.set_facecolor(EMPTY)
    ax.grid(visible=False)
    ax.set(xlim=(0, longest), yticks=[])
    ax.tick_params(labelbottom=False, length=0)


def _draw_active(ax: Axes, maps: Sequence[EndMap], longest: int) -> None:
    styles: Mapping[str, Any] = looks(m.model_variant for m in maps)
    marks = family_marks(in_order(m.model_name for m in maps))
    at = np.unique(np.linspace(0, longest - 1, min(longest, 400)).astype(np.int64))
    several = len(marks) > 1
    for one in maps:
        look = styles[one.model_variant]
        text = f"{one.model_name} {one.model_variant}" if several else one.model_variant
        ax.plot(at + 1, active(one.lengths, at), look.dash, marker=marks[one.model_name] if several else None,
                markersize=3, markevery=max(1, len(at) // 5), color=look.colour, linewidth=0.9, label=text)
    ax.set(xlim=(0, longest), xlabel="position (tokens)")
    ax.set_ylim(bottom=0)


def _extent(one: EndMap) -> dict[str, Any]:
    rows, longest = one.values.shape
    return {"extent": (0, longest, rows, 0), "aspect": "auto", "interpolation": "none", "rasterized": True}


def _rows_shown(maps: Sequence[EndMap]) -> str:
    fewer = [len(m.values) for m in maps if len(m.values) < len(m.lengths)]
    return f"; {max(fewer)} rollouts of each run, evenly over its lengths" if fewer else "; every rollout by length"


def _cividis() -> Any:
    import matplotlib as mpl

    return mpl.colormaps["cividis"].with_extremes(bad=EMPTY)
