"""The figure of a trajectory: a panel a measure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from canopy_stats.figure_style import BLUE, GREY, PAGE, VERMILLION, styled
from canopy_stats.schema import UNITS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = 3


def course_figure(means: pd.DataFrame, bands: pd.DataFrame, measures: Sequence[str], at: float | None) -> Figure:
    """Means over prompts (points), fitted courses (lines) with their bands; ``at`` is where slopes are compared."""
    from canopy_stats.picture import NotebookFigure

    across = min(COLUMNS, len(measures))
    down = -(-len(measures) // across)
    with styled():
        figure = NotebookFigure(figsize=(PAGE * across / COLUMNS, 2.2 * down), layout="constrained")
        panels = np.atleast_1d(figure.subplots(down, across, squeeze=False)).ravel()
        for axes, measure in zip(panels, measures, strict=False):
            _panel(axes, means, bands[bands["measure"] == measure], measure, at)
        for axes in panels[len(measures):]:
            axes.set_visible(False)
    return figure


def _panel(axes: Axes, means: pd.DataFrame, band: pd.DataFrame, measure: str, at: float | None) -> None:
    axes.fill_between(band["step"], band["band_low"], band["band_high"], color=BLUE, alpha=0.18, linewidth=0)
    axes.plot(band["step"], band["estimate"], color=BLUE)
    axes.plot(means["step"], means[measure], "o", color=VERMILLION, markersize=3.5)
    if at is not None:
        axes.axvline(at, color=GREY, linewidth=0.7, linestyle=":")
    unit = UNITS.get(measure, "")
    axes.set(title=measure, xlabel="training step", ylabel=unit)
