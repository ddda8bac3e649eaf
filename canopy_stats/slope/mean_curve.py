"""A fitted slope model's curve of mean diversity over the rates."""

from __future__ import annotations

import numpy as np
import pandas as pd

from canopy_stats.mixed import Fit
from canopy_stats.schema import UserError
from canopy_stats.slope.columns import BASE

POINTS, MOST_ROWS = 30, 150
RATES = ("R_bar", "R_c", "R_sc", "x")
"""Names of the rate in the models' data: as it is, centred, standardised, and standardised without its error."""


def mean_curve(fit: Fit | None, panel: pd.DataFrame | None, by: str, verdict: str = "") -> pd.DataFrame:
    """See :meth:`canopy_stats.slope.SlopeChange.curve`.

    At most 150 rows of each variant are averaged over, evenly chosen. Rates are moved in the fit's own data, where
    they may be centred, standardised, or corrected for their error.
    """
    if fit is None:
        raise UserError(f"This model has no curve to draw: {verdict}")
    if panel is None:
        raise UserError("A slope change that was read from a file has lost its panel: give curve(by, panel) the rows "
                        "that the model was fitted to.")
    data = fit.design.data.reset_index(drop=True)
    rows = rows_of(data, panel)
    axis = next(name for name in RATES if name in data)
    # Exact but for corrected rates, whose mean is that of the raw ones.
    slope, start = np.polyfit(data[axis], rows["R_bar"], 1)
    parts = []
    for (level, variant), own in data.groupby([rows[by].astype(str), rows["model_variant"].astype(str)], sort=False):
        grid = np.linspace(own[axis].min(), own[axis].max(), POINTS)
        chosen = own.iloc[np.linspace(0, len(own) - 1, min(len(own), MOST_ROWS)).astype(int)]
        parts.append(pd.DataFrame({by: level, "model_variant": variant, "R_bar": start + slope * grid,
                                   "D": _mean_over(fit, chosen, axis, grid, start / slope)}))
    return pd.concat(parts, ignore_index=True)


def rows_of(data: pd.DataFrame, panel: pd.DataFrame) -> pd.DataFrame:
    """The panel's row of each row of the fit's data, found by prompt and by what the data have of task, family and
    variant."""
    tuned = panel["model_variant"].astype(str) != BASE
    named = panel.assign(tun=tuned.astype(float), cell=panel["task"].astype(str) + " / " + panel["model_name"].astype(
        str))
    keys = [name for name in ("prompt_uid", "task", "model_name", "model_variant", "cell", "tun") if name in data]
    places = pd.Series(np.arange(len(named)), _key(named, keys))
    if places.index.has_duplicates:
        keys = [name for name in keys if name != "prompt_uid"]
        raise UserError(f"The panel has several rows for one prompt and {', '.join(keys)}: give the rows that the "
                        "model was fitted to.")
    found = places.reindex(_key(data, keys))
    if found.isna().any():
        raise UserError(f"{int(found.isna().sum())} of the fit's {len(data)} rows are not in this panel; give the rows "
                        "that the model was fitted to.")
    return named.iloc[found.to_numpy(dtype=int)].reset_index(drop=True)


def _key(frame: pd.DataFrame, names: list[str]) -> pd.MultiIndex:
    return pd.MultiIndex.from_arrays([frame[name].astype(float if name == "tun" else str) for name in names])


def _mean_over(fit: Fit, rows: pd.DataFrame, axis: str, grid: np.ndarray, zero: float) -> np.ndarray:
    """Predicted mean (points,) of the rows with the rate ``axis`` set to each point of the grid; the rate itself is
    proportional to axis + zero."""
    moved = [_moved(rows, axis, float(value), zero) for value in grid]
    copies: pd.DataFrame = pd.concat(moved, ignore_index=True)
    means: np.ndarray = np.asarray(fit.predict(copies), dtype=float).reshape(len(grid), len(rows)).mean(axis=1)
    return means


def _moved(rows: pd.DataFrame, axis: str, value: float, zero: float) -> pd.DataFrame:
    """The rows at another rate, with the columns that follow from it."""
    moved = rows.assign(**{axis: value})
    if "R_c2" in rows:
        return moved.assign(R_c2=value**2)
    if "log_R" not in rows:
        return moved
    factor = np.maximum(value + zero, 1e-6) / np.maximum(rows[axis] + zero, 1e-6)
    return moved.assign(x_tun=value * rows["tun"], log_R=rows["log_R"] + np.log(factor))
