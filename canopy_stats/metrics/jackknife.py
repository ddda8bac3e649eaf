"""Delete-one jackknife over the rollouts of one prompt: how uncertain D, mean r and mean N are, and how together."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from canopy_stats.metrics.diversity import dispersion_without_each

Floats = NDArray[np.float64]


def covariance(without_each: Floats) -> Floats:
    """Jackknife covariance (k, k) of k statistics from their delete-one values (M, k).

    (M − 1)/M · Σ_i (θ_(i) − θ_(·)) (θ_(i) − θ_(·))ᵀ (Efron & Stein 1981).
    """
    m = len(without_each)
    centred = without_each - without_each.mean(axis=0)
    found: Floats = (m - 1) / m * centred.T @ centred
    return found


def with_error(statistic: Callable[[NDArray[np.intp]], float], n: int) -> tuple[float, float]:
    """A statistic of the rows (n,) that it is given, over all of them, and its jackknife standard error from what it is
    without each; the error is NaN for n < 3, and where the statistic without some row is."""
    rows = np.arange(n)
    if n < 3:
        return statistic(rows), float("nan")
    without = np.array([[statistic(np.delete(rows, i))] for i in rows])
    with np.errstate(invalid="ignore"):
        return statistic(rows), float(np.sqrt(covariance(without)[0, 0]))


def mean_without_each(x: Floats) -> Floats:
    """The mean of x (M,) without element i, for every i."""
    means: Floats = (x.sum() - x) / (len(x) - 1)
    return means


def uncertainty(length: Floats, rate: Floats, unit: Floats | None = None) -> dict[str, float]:
    """``se_D se_R se_N cov_DR cov_DN cov_RN`` of a prompt with lengths N (M,), rates r (M,), unit embeddings (M, d).

    For the two means this is the textbook s/√M. What involves D is NaN without embeddings, and for M = 2, where
    D without one rollout does not exist.
    """
    known = unit is not None and len(unit) > 2
    d = dispersion_without_each(unit) if unit is not None and known else np.full(len(length), np.nan)
    with np.errstate(invalid="ignore"):
        c = covariance(np.column_stack([d, mean_without_each(rate), mean_without_each(length)]))
    se = np.sqrt(np.diag(c))
    return {"se_D": float(se[0]), "se_R": float(se[1]), "se_N": float(se[2]),
            "cov_DR": float(c[0, 1]), "cov_DN": float(c[0, 2]), "cov_RN": float(c[1, 2])}
