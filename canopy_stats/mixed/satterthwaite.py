"""Satterthwaite's degrees of freedom for t tests of fixed effects (as in R's lmerTest, Kuznetsova et al. 2017)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from canopy_stats.mixed import pls
from canopy_stats.mixed.blocks import Array
from canopy_stats.mixed.pls import Products


def satterthwaite(products: Products, theta: Array, sigma: float, contrasts: Array, *, reml: bool) -> Array:
    """Degrees of freedom (k,) of contrasts (k, p) of the fixed effects: 2 v^2 / (g' A g).

    v is the contrast's variance, g its gradient in (theta, sigma) and A their asymptotic covariance, from the Hessian
    of the deviance. Directions without positive curvature (variances at zero) are left out, as lmerTest does.
    """
    point = np.append(theta, sigma)
    steps = np.append(np.full(len(theta), 1e-3 * max(1e-2, float(np.abs(theta).max(initial=0.0)))), 1e-3 * sigma)
    curvature = hessian(lambda x: pls.deviance(products, x[:-1], float(np.log(x[-1])), reml=reml), point, steps)
    slopes = [_slope(products, point, steps, i) for i in range(len(point))]
    gradient = np.stack([np.einsum("ka,ab,kb->k", contrasts, s, contrasts) for s in slopes], axis=1)
    variance = np.einsum("ka,ab,kb->k", contrasts, _covariance(products, point), contrasts)
    spread = np.einsum("ki,ij,kj->k", gradient, 2 * positive_inverse(curvature), gradient)
    with np.errstate(divide="ignore"):
        return np.asarray(2 * variance**2 / spread)


def _covariance(products: Products, point: Array) -> Array:
    profile = pls.solve_theta(products, point[:-1])
    if profile is None:
        raise np.linalg.LinAlgError("the fixed effects are not identified")
    return point[-1] ** 2 * profile.unscaled


def _slope(products: Products, point: Array, steps: Array, i: int) -> Array:
    """Derivative (p, p) of the fixed effects' covariance in coordinate i, by central differences of fourth order."""
    move = np.zeros(len(point))
    move[i] = steps[i]
    near = _covariance(products, point + move) - _covariance(products, point - move)
    far = _covariance(products, point + 2 * move) - _covariance(products, point - 2 * move)
    return np.asarray((8 * near - far) / (12 * steps[i]))


def hessian(function: Callable[[Array], float], point: Array, steps: Array) -> Array:
    """Second derivatives (k, k) by central differences, extrapolated over two step sizes (fourth order)."""
    return np.asarray((4 * _central(function, point, steps) - _central(function, point, 2 * steps)) / 3)


def _central(function: Callable[[Array], float], point: Array, steps: Array) -> Array:
    k = len(point)
    out, here, moves = np.empty((k, k)), function(point), np.diag(steps)
    for i in range(k):
        ahead, behind = function(point + moves[i]), function(point - moves[i])
        out[i, i] = (ahead - 2 * here + behind) / steps[i] ** 2
        for j in range(i):
            corners = [function(point + a * moves[i] + b * moves[j]) * a * b for a in (1, -1) for b in (1, -1)]
            out[i, j] = out[j, i] = sum(corners) / (4 * steps[i] * steps[j])
    return out


def positive_inverse(matrix: Array, tolerance: float = 1e-8) -> Array:
    """Inverse (k, k) over the directions whose eigenvalue is positive."""
    if len(matrix) == 0:
        return matrix
    values, vectors = np.linalg.eigh(matrix)
    good = values > tolerance * max(values.max(), tolerance)
    return np.asarray((vectors[:, good] / values[good]) @ vectors[:, good].T)
