"""A model's curve of mean diversity over the rates, from its fit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from canopy_stats.report.source import Fitter
from canopy_stats.schema import UserError

if TYPE_CHECKING:
    from canopy_stats.slope import SlopeChange

POINTS, MOST_ROWS = 30, 150
RATES = ("R_bar", "R_c", "R_sc", "x")
"""Names of the rate in the models' data: as it is, centred, standardised, and standardised without its error."""


def model_curve(change: SlopeChange, panel: pd.DataFrame, by: str, fitter: Fitter) -> pd.DataFrame:
    """A model's mean D over each variant's own rates, averaged over its own rows (at most 150, evenly chosen).

    Columns ``by``, ``model_variant``, ``R_bar``, ``D``. Rates are moved in the fit's own data, where they may be
    centred, standardised, or corrected for their error; rows that the model left out have no curve.
    """
    fit, rows = fit_and_rows(change, panel, fitter)
    data = fit.design.data.set_axis(rows.index)
    identity, rates = rows[[by, "model_variant"]].astype(str), rows["R_bar"]
    axis = next(name for name in RATES if name in data)
    slope, start = np.polyfit(data[axis], rates, 1)  # exact but for corrected rates, whose mean is that of the raw ones
    parts = []
    for value, variant in identity.drop_duplicates().itertuples(index=False, name=None):
        own = data[(identity[by] == value) & (identity["model_variant"] == variant)]
        grid = np.linspace(own[axis].min(), own[axis].max(), POINTS)
        chosen = own.iloc[np.linspace(0, len(own) - 1, min(len(own), MOST_ROWS)).astype(int)]
        parts.append(pd.DataFrame({by: value, "model_variant": variant, "R_bar": start + slope * grid,
                                   "D": _mean_over(fit, chosen, axis, grid, start / slope)}))
    return pd.concat(parts, ignore_index=True)


def fit_and_rows(change: SlopeChange, panel: pd.DataFrame, fitter: Fitter) -> tuple[Any, pd.DataFrame]:
    """A change's fit and the panel's rows that it was fitted to; fitted anew where a stored fit lost track of them."""
    if change.fit is not None:
        data = change.fit.design.data
        rows = panel.loc[data.index] if data.index.isin(panel.index).all() else panel
        if data["prompt_uid"].astype(str).tolist() == rows["prompt_uid"].astype(str).tolist():
            return change.fit, rows
    again = fitter.slope_change(panel, model=change.model)
    if again.fit is None:
        raise UserError(f"The {change.model} model has no curve to draw: {again.verdict}")
    return again.fit, panel.loc[again.fit.design.data.index]


def _mean_over(fit: Any, rows: pd.DataFrame, axis: str, grid: np.ndarray, zero: float) -> np.ndarray:
    """Predicted mean (points,) of the rows with the rate ``axis`` set to each point of the grid; the rate itself is
    proportional to axis + zero."""
    moved = [_moved(rows, axis, float(value), zero) for value in grid]
    copies: pd.DataFrame = pd.concat(moved, ignore_index=True)
    return np.asarray(fit.predict(copies), dtype=float).reshape(len(grid), len(rows)).mean(axis=1)


def _moved(rows: pd.DataFrame, axis: str, value: float, zero: float) -> pd.DataFrame:
    """The rows at another rate, with the columns that follow from it."""
    moved = rows.assign(**{axis: value})
    if "R_c2" in rows:
        return moved.assign(R_c2=value**2)
    if "log_R" not in rows:
        return moved
    factor = np.maximum(value + zero, 1e-6) / np.maximum(rows[axis] + zero, 1e-6)
    return moved.assign(x_tun=value * rows["tun"], log_R=rows["log_R"] + np.log(factor))
