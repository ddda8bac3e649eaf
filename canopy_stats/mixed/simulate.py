"""New responses from a fitted model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from canopy_stats.mixed import blocks
from canopy_stats.mixed.blocks import Array
from canopy_stats.mixed.family import get_family

if TYPE_CHECKING:
    from canopy_stats.mixed.fit import Fit


def simulate(fit: Fit, rng: np.random.Generator) -> Array:
    """One response (rows,): new random effects, then new residuals."""
    return draw(fit, fit.predict(mode="population", scale="link") + random_part(fit, rng), rng)


def draw(fit: Fit, eta: Array, rng: np.random.Generator) -> Array:
    """One response (rows,) of the fit's family at linear predictors eta (rows,)."""
    if fit.family == "lmm" or fit.dispersion is None:
        return np.asarray(eta + fit.sigma * rng.standard_normal(len(eta)))
    kappa = fit.dispersion.matrix @ fit.delta
    return get_family(fit.family).draw(eta, kappa, fit.cutpoints, rng)


def random_part(fit: Fit, rng: np.random.Generator) -> Array:
    """Contribution (rows,) of newly drawn random effects to the linear predictor."""
    total = np.zeros(fit.nobs)
    for factor, t in zip(fit.design.factors, blocks.templates(fit.design.factors, fit.theta), strict=True):
        spherical = rng.standard_normal((len(factor.levels), len(factor.terms)))
        total += blocks.rows_of(factor, fit.sigma * spherical @ t.T)
    return total
