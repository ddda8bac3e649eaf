"""Second derivatives of a linear model's deviance, made once for the search's last steps, certificate and tests."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from canopy_stats.mixed.algebra.blocks import Array
from canopy_stats.mixed.fitting import pls
from canopy_stats.mixed.fitting.pls import Products, Solution

STEP = 1e-4


@dataclass(frozen=True, eq=False)
class Curvature:
    """At theta and the best sigma: gradient (t,) of the profiled deviance, Hessian (t + 1, t + 1) of the deviance in
    (theta, log sigma), and derivatives (t + 1, p, p) of sigma^2 (X'V^-1X)^-1 in them."""

    gradient: Array
    joint: Array
    slopes: Array
    covariance: Array

    @property
    def profiled(self) -> Array:
        """Hessian (t, t) of the deviance with sigma profiled out."""
        cross = self.joint[:-1, -1]
        return np.asarray(self.joint[:-1, :-1] - np.outer(cross, cross) / self.joint[-1, -1])


def make_curvature(
    products: Products, found: Solution, theta: Array, *, reml: bool, second: Array | None = None
) -> Curvature:
    """Differences of the exact gradient in theta, everything else in closed form.

    ``second`` (t, t) are those differences where they were made at this theta before.
    """
    factors, size, df = products.layout.factors, len(theta), products.df(reml)
    variance = found.rss / df
    joint = np.empty((size + 1, size + 1))
    joint[:-1, :-1] = _differences(products, theta, variance, reml=reml) if second is None else second
    joint[:-1, -1] = joint[-1, :-1] = -2 * pls.gather(factors, found.residual_slopes, size) / variance
    joint[-1, -1] = 4 * df
    information = pls.gather(factors, found.information_slopes, size)
    inner = -np.einsum("xa,tab,by->txy", found.unscaled, information, found.unscaled, optimize=True)
    slopes = variance * np.concatenate([inner, 2 * found.unscaled[None]])
    return Curvature(pls.gradient(found, reml=reml), joint, slopes, variance * found.unscaled)


def _differences(products: Products, theta: Array, variance: float, *, reml: bool) -> Array:
    """Second derivatives (t, t) in theta at fixed sigma, by central differences."""
    step = STEP * max(1e-1, float(np.abs(theta).max(initial=0.0)))
    columns = []
    for move in np.eye(len(theta)) * step:
        ahead, behind = (pls.solve_theta(products, theta + sign * move) for sign in (1, -1))
        if ahead is None or behind is None:
            raise np.linalg.LinAlgError("the fixed effects are not identified")
        up, down = (pls.gradient(side, reml=reml, variance=variance) for side in (ahead, behind))
        columns.append((up - down) / (2 * step))
    out = np.stack(columns, axis=1)
    symmetric: Array = (out + out.T) / 2
    return symmetric
