"""What the estimated reliabilities add to the errors of the cells' slopes, which are divided by them."""

from __future__ import annotations

import numpy as np
import pandas as pd

from canopy_stats.mixed import Fit
from canopy_stats.slope.cells import CellSlopes, own_interactions

Array = np.ndarray


def with_correction_errors(link: CellSlopes, response: CellSlopes, fit: Fit, rows: pd.DataFrame,
                           reliabilities: pd.DataFrame) -> tuple[CellSlopes, CellSlopes]:
    """Both scales' slopes of K cells with the errors of the correction, from the ``rows`` that are compared.

    A slope errs with the reliability of the rate in proportion. Where a cell's variants share no lengths, what takes
    one to the length of the other is divided by the reliability of the length: the difference errs with that too.
    """
    if reliabilities.empty:
        return link, response
    rate = relative_errors(link.names, reliabilities, "R")
    length = length_errors(link.names, fit, rows, relative_errors(link.names, reliabilities, "N"))
    scale = np.sqrt(np.diag(response.covariance) / np.diag(link.covariance))
    return (link.plus(np.hypot(rate * np.abs(link.values), length)),
            response.plus(np.hypot(rate * np.abs(response.values), scale * length)))


def relative_errors(names: pd.DataFrame, reliabilities: pd.DataFrame, of: str) -> Array:
    """Relative standard errors (2K,) of the cells' reliabilities of rate (R) or length (N), base's then tuned's."""
    relative = reliabilities[f"reliability_{of}_std_error"] / reliabilities[f"reliability_{of}"]
    is_base = reliabilities["model_variant"] == "base"
    cells = pd.MultiIndex.from_frame(names[["task", "model_name"]])
    parts = [pd.Series(relative[mask].to_numpy(), pd.MultiIndex.from_frame(
        reliabilities.loc[mask, ["task", "model_name"]])).reindex(cells).to_numpy() for mask in (is_base, ~is_base)]
    return np.concatenate(parts)


def length_errors(names: pd.DataFrame, fit: Fit, rows: pd.DataFrame, relative: Array) -> Array:
    """Errors (2K,) of the slopes from those of the lengths' reliabilities, ``relative`` (2K,); all of a cell's error
    is given to the variant whose lengths are less reliable."""
    cell = names["task"] + " / " + names["model_name"]
    mean = rows.groupby(["cell", "tun"])["log_N"].mean().unstack()
    gap = (mean[1.0] - mean[0.0]).reindex(cell).to_numpy()
    base, tuned = np.split(relative, 2)
    moved = np.abs(own_interactions(fit, cell) * gap) * np.maximum(base, tuned)
    return np.concatenate([np.where(base >= tuned, moved, 0.0), np.where(base < tuned, moved, 0.0)])
