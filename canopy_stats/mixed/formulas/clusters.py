"""Clusters of rows: a column of the fitted data, or values beside it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from canopy_stats.mixed.formulas.frames import aligned
from canopy_stats.mixed.formulas.levels import nearest, shown
from canopy_stats.schema import UserError

Array = np.ndarray


def cluster_codes(cluster: Any, data: pd.DataFrame) -> tuple[Array, tuple[str, ...], str]:
    """Codes (n,), labels of the clusters, and a name, from a column's name, a Series (by index) or values in row order.

    UserError where the column is unknown, the length does not fit, or a value is missing.
    """
    name = cluster if isinstance(cluster, str) else str(getattr(cluster, "name", None) or "cluster")
    if isinstance(cluster, str):
        if cluster not in data.columns:
            raise UserError(f"{cluster} is not among the fitted columns ({shown([str(c) for c in data.columns])})."
                            f"{nearest(cluster, list(data.columns))} Pass its values, as in data[{cluster!r}].")
        cluster = data[cluster]
    values = aligned(cluster, data, name) if isinstance(cluster, pd.Series) else pd.Series(np.asarray(cluster).ravel())
    if len(values) != len(data) or values.isna().any():
        raise UserError(f"{name} must have a value for each of the {len(data)} rows of the fit, none of them missing.")
    codes, levels = pd.factorize(values, sort=True)
    return codes.astype(np.intp), tuple(str(level) for level in levels), name
