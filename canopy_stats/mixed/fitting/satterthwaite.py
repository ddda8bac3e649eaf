"""Satterthwaite's degrees of freedom for t tests of fixed effects (as in R's lmerTest, Kuznetsova et al. 2017)."""

from __future__ import annotations

import numpy as np

from canopy_stats.mixed.algebra.blocks import Array
from canopy_stats.mixed.algebra.optimise import positive_inverse
from canopy_stats.mixed.fitting.curvature import Curvature


def satterthwaite(curvature: Curvature, contrasts: Array) -> Array:
    """Degrees of freedom (k,) of contrasts (k, p): 2 v^2 / (g' A g) (Kuznetsova et al. 2017, R's lmerTest).

    v is the contrast's variance, g its gradient in (theta, log sigma) and A their asymptotic covariance, twice the
    inverse Hessian of the deviance. Directions without positive curvature (variances at zero) are left out.
    """
    gradient = np.einsum("ka,tab,kb->kt", contrasts, curvature.slopes, contrasts, optimize=True)
    variance = np.einsum("ka,ab,kb->k", contrasts, curvature.covariance, contrasts)
    spread = np.einsum("ki,ij,kj->k", gradient, 2 * positive_inverse(curvature.joint), gradient)
    with np.errstate(divide="ignore"):
        return np.asarray(2 * variance**2 / spread)
