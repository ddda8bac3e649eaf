"""Combining cells with a weakly informative prior on how much families, tasks and cells vary.

Each standard deviation has a half-Cauchy prior (Gelman 2006, Bayesian Analysis 1:515), the mean a flat one. Given the
standard deviations the mean is normal; they are integrated out over nodes of equal prior weight.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.stats import norm

from canopy_stats.slope.combine import CellGrid
from canopy_stats.slope.estimates import LEVEL, Estimate, Interval

Array = np.ndarray
SCALE = 0.1
"""Of the half-Cauchy priors: log-odds per standard deviation of the rate."""
NODES = 14


@dataclass(frozen=True)
class Mixture:
    """A posterior as a mixture of normals: weights, means and standard deviations (J,)."""

    weights: Array
    means: Array
    sds: Array

    def below(self, value: float) -> float:
        """Probability of less than a value."""
        return float(self.weights @ norm.cdf(value, self.means, self.sds))

    def quantile(self, share: float) -> float:
        low, high = ((self.means + sign * 12 * self.sds) for sign in (-1, 1))
        return float(brentq(lambda x: self.below(x) - share, low.min(), high.max(), xtol=1e-9))


def with_prior(values: Array, sampling: Array, grid: CellGrid, scale: float = SCALE) -> Estimate:
    """Mean of cell estimates (K,) with sampling covariance (K, K): posterior mean and standard deviation, equal-tailed
    interval, and twice the smaller probability of either sign as its p-value."""
    found = posterior(values, sampling, grid, scale)
    mean = float(found.weights @ found.means)
    sd = float(np.sqrt(found.weights @ (found.sds**2 + (found.means - mean) ** 2)))
    tail, below = (1 - LEVEL) / 2, found.below(0.0)
    interval = Interval(found.quantile(tail), found.quantile(1 - tail))
    return Estimate(mean, sd, interval, 2 * min(below, 1 - below), float("inf"))


def posterior(values: Array, sampling: Array, grid: CellGrid, scale: float = SCALE) -> Mixture:
    """The mean's posterior."""
    nodes = scale * np.tan(np.pi / 2 * (np.arange(NODES) + 0.5) / NODES)
    patterns = list(grid.sources.values())
    squares = np.stack(np.meshgrid(*[nodes**2] * len(patterns), indexing="ij")).reshape(len(patterns), -1).T
    totals = sampling + np.einsum("jm,mkl->jkl", squares, np.stack(patterns))
    inverse = np.linalg.inv(totals)
    precision = inverse.sum(axis=(1, 2))
    means = inverse.sum(axis=1) @ values / precision
    rest = values - means[:, None]
    deviance = np.linalg.slogdet(totals)[1] + np.log(precision) + np.einsum("jk,jkl,jl->j", rest, inverse, rest)
    weights = np.exp(-0.5 * (deviance - deviance.min()))
    return Mixture(weights / weights.sum(), means, precision**-0.5)
