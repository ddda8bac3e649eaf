"""New responses from a fitted model."""

from __future__ import annotations

import numpy as np

from canopy_stats.mixed.algebra import blocks
from canopy_stats.mixed.algebra.blocks import Array
from canopy_stats.mixed.estimates import Estimates


def simulate(fit: Estimates, rng: np.random.Generator) -> Array:
    """One response (rows,): new random effects, then new residuals."""
    fixed = fit.design.fixed.matrix @ fit.beta + fit.frame.offset_values
    return draw(fit, fixed + random_part(fit, rng), rng)


def draw(fit: Estimates, eta: Array, rng: np.random.Generator) -> Array:
    """One response (rows,) of the fit's family at linear predictors eta (rows,)."""
    return fit.frame.family.draw(eta, fit.others(), rng)


def random_part(fit: Estimates, rng: np.random.Generator) -> Array:
    """Contribution (rows,) of newly drawn random effects to the linear predictor."""
    total = np.zeros(fit.nobs)
    for factor, root in zip(fit.design.factors, fit.roots, strict=True):
        spherical = rng.standard_normal((len(factor.levels), len(factor.terms)))
        total += blocks.rows_of(factor, spherical @ root.T)
    return total
