"""New responses from a fitted model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from canopy_stats.mixed import blocks
from canopy_stats.mixed.blocks import Array

if TYPE_CHECKING:
    from canopy_stats.mixed.fit import Fit


def simulate(fit: Fit, n: int, rng: np.random.Generator) -> Array:
    """Responses (rows, n): new random effects, then new residuals."""
    mean = fit.predict(mode="population", scale="link")
    columns = [mean + random_part(fit, rng) for _ in range(n)]
    return np.stack([eta + fit.sigma * rng.standard_normal(len(mean)) for eta in columns], axis=1)


def random_part(fit: Fit, rng: np.random.Generator) -> Array:
    """Contribution (rows,) of newly drawn random effects to the linear predictor."""
    total = np.zeros(fit.nobs)
    for factor, t in zip(fit.design.factors, blocks.templates(fit.design.factors, fit.theta), strict=True):
        spherical = rng.standard_normal((len(factor.levels), len(factor.terms)))
        total += blocks.rows_of(factor, fit.sigma * spherical @ t.T)
    return total
