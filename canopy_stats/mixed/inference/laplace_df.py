"""Satterthwaite's degrees of freedom for fits by Laplace's approximation: few groups that vary give few degrees."""

from __future__ import annotations

import numpy as np

from canopy_stats.mixed.algebra.blocks import Array
from canopy_stats.mixed.algebra.optimise import positive_inverse
from canopy_stats.mixed.fit import Fit
from canopy_stats.mixed.fitting import laplace
from canopy_stats.mixed.fitting.start import first_hessian, smallest_theta


def laplace_df(fit: Fit, contrasts: Array) -> Array:
    """Degrees of freedom (k,) of contrasts (k, p) of the mean's coefficients: 2 v^2 / (g' A g).

    v is the contrast's variance with the random effects eliminated at given theta, g its gradient in theta and A
    theta's covariance, as for linear models (Kuznetsova et al. 2017). Components at zero add nothing, since v depends
    on their squares; dispersion coefficients count as known.
    """
    first = len(fit.omega) - len(fit.theta)
    spread = fit.full_covariance[first:, first:]
    known = np.isfinite(np.diag(spread))
    variance = _variances(fit, fit.omega, contrasts)
    steps = 1e-3 * np.maximum(np.abs(fit.theta), smallest_theta(fit.way.marginal(fit)[0], fit.delta))
    slopes = [_slope(fit, contrasts, first + int(i), steps[i]) for i in np.flatnonzero(known)]
    gradient = np.stack(slopes, axis=1) if slopes else np.zeros((len(contrasts), 0))
    moved = np.einsum("ki,ij,kj->k", gradient, spread[np.ix_(known, known)], gradient)
    with np.errstate(divide="ignore"):
        return np.asarray(2 * variance**2 / np.maximum(moved, 0.0))


def _slope(fit: Fit, contrasts: Array, place: int, step: float) -> Array:
    """Derivative (k,) of the contrasts' variances in one entry of omega."""
    move = np.zeros(len(fit.omega))
    move[place] = step
    above, below = (_variances(fit, fit.omega + way * move, contrasts) for way in (1, -1))
    slope: Array = (above - below) / (2 * step)
    return slope


def _variances(fit: Fit, omega: Array, contrasts: Array) -> Array:
    """Variances (k,) of the contrasts at parameters omega, from the curvature in mean and dispersion."""
    problem = fit.way.marginal(fit)[0]
    found = laplace.evaluate(problem, omega, laplace.spherical(problem, fit.omega, fit.modes))
    if found is None:
        return np.full(len(contrasts), np.nan)
    p, d = len(fit.beta), len(fit.delta)
    covariance = positive_inverse(first_hessian(problem, omega, found)[: p + d, : p + d], 1e-14)[:p, :p]
    variances: Array = np.einsum("ka,ab,kb->k", contrasts, covariance, contrasts)
    return variances
