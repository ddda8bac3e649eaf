"""Quantile residuals of fitted models: do they look like uniform numbers, also along the mean and the rate?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from canopy_stats.figure_style import BLACK, GREY, PAGE, styled
from canopy_stats.report.figures.shared import need, of
from canopy_stats.report.figures.style import label, legend, looks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

QUARTILES = (0.25, 0.5, 0.75)
MOST_BINS, POINTS_A_BIN = 10, 60
LEVEL = 0.05
"""Up to this p-value the quartiles are said to bend."""
BENT = "quartiles, "
"""How the tests of quartiles along something begin."""


def residual_diagnostics(residuals: pd.DataFrame, tests: Mapping[str, pd.DataFrame]) -> Figure:
    """A row per model: quantile plot, residuals against the rank of the fitted mean, and against entropy rate.

    ``residuals`` has ``model``, ``residual`` (0 to 1, uniform under the model), ``fitted``, ``R_bar`` and
    ``model_variant``; ``tests`` is by model what ``quantile_residuals`` calls tests. Black lines are the quartiles
    of up to ten bins; under the model they lie on the dashed ones, and whether they do is tested.
    """
    need(residuals, ["model", "residual", "fitted", "R_bar", "model_variant"])
    from canopy_stats.picture import NotebookFigure

    models = list(dict.fromkeys(residuals["model"]))
    with styled():
        figure = NotebookFigure(figsize=(PAGE, 0.75 + 1.95 * len(models)), layout="constrained")
        grid = figure.subplots(len(models), 3, squeeze=False)
        for row, model in zip(grid, models, strict=True):
            _draw_row(row, of(residuals, "model", model), tests.get(model), model)
        for ax, text in zip(grid[-1], ("uniform quantile", "rank of the fitted mean", label("R_bar")), strict=True):
            ax.set_xlabel(text)
        legend(figure, [grid[0][1]], title="Quantile residuals")
    return figure


def _draw_row(axes: np.ndarray, rows: pd.DataFrame, tests: pd.DataFrame | None, model: str) -> None:
    u, n = rows["residual"].to_numpy(), len(rows)
    axes[0].plot([0, 1], [0, 1], color=GREY, linewidth=0.8)
    axes[0].plot((np.arange(n) + 0.5) / n, np.sort(u), ".", markersize=2, color=BLACK, rasterized=True)
    axes[0].set_ylabel(f"{model}\nresidual")
    if tests is not None:
        _say(axes[0], [f"{name}: {_p(p)}" for name, p in zip(tests["test"], tests["p_value"], strict=True)
                       if not name.startswith(BENT)])
        for ax, name in zip(axes[1:], ("fitted", "rate"), strict=True):
            for p in tests.loc[tests["test"] == f"{BENT}{name}", "p_value"]:
                _say(ax, [f"quartiles {'bend' if p <= LEVEL else 'level'}: {_p(p)}"])
    rank = np.argsort(np.argsort(rows["fitted"].to_numpy(), kind="stable")) / max(n - 1, 1)
    for ax, x in zip(axes[1:], (rank, rows["R_bar"].to_numpy()), strict=True):
        _draw_along(ax, x, u, rows["model_variant"])
    for ax in axes:
        ax.set(ylim=(0, 1), yticks=[0, *QUARTILES, 1])


def _say(ax: Axes, lines: list[str]) -> None:
    ax.text(0.04, 0.97, "\n".join(lines), transform=ax.transAxes, va="top", fontsize=6.5, color=BLACK, zorder=5,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 1})


def _p(p: float) -> str:
    return "p ≤ 0.01" if p <= 0.01 else f"p = {p:.2f}"


def _draw_along(ax: Axes, x: np.ndarray, u: np.ndarray, variants: pd.Series) -> None:
    for variant, look in looks(variants).items():
        own = (variants.astype(str) == variant).to_numpy()
        ax.plot(x[own], u[own], look.marker, markersize=1.8, markeredgewidth=0, alpha=0.35, color=look.colour,
                label=variant, rasterized=True)
    centres, quartiles = binned_quartiles(x, u)
    for q, line in zip(QUARTILES, quartiles, strict=True):
        ax.axhline(q, color=BLACK, linewidth=0.7, linestyle=(0, (3, 2)))
        ax.plot(centres, line, color=BLACK, linewidth=1.4, label="quartiles" if q == QUARTILES[0] else None)
    ax.grid(visible=False)


def binned_quartiles(x: np.ndarray, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Medians of x (b,) and quartiles of u (3, b) in up to ten bins of x that hold equally many points."""
    parts = np.array_split(np.argsort(x, kind="stable"), int(np.clip(len(x) // POINTS_A_BIN, 1, MOST_BINS)))
    return (np.array([np.median(x[part]) for part in parts]),
            np.array([np.quantile(u[part], QUARTILES) for part in parts]).T)
