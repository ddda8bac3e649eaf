"""A linear model in coordinates of its own: no unit and no origin of a column matters to what is computed there.

The fixed part becomes an orthogonal basis of the same space, y the least-squares residual in units of its size, and the
random columns that are correlated with one another an orthogonal basis of theirs (so a column is centred where they
span a constant; a column with a variance of its own is only scaled). Prior weights w multiply rows by sqrt(w).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import linalg

from canopy_stats.mixed.algebra.blocks import templates
from canopy_stats.mixed.formulas.grouping import Factor
from canopy_stats.mixed.model_frame import ModelFrame
from canopy_stats.schema import UserError

Array = np.ndarray
EXACT = 1e-13
"""A residual this small beside the response is rounding: the fixed part explains the response exactly."""


@dataclass(frozen=True, eq=False)
class Coordinates:
    """Columns and response in their own coordinates, and the ways back.

    x (n, p) is orthogonal with columns of mean square 1 and beta = origin + scale * back @ gamma; y (n,) has mean
    square 1; factors carry the random columns z A_k for the natural ones z, A_k (q, q) being ``outward[k]``, so that
    effects b = A_k b~ and covariance roots T = root(A_k T~).
    """

    x: Array
    y: Array
    back: Array
    origin: Array
    scale: float
    factors: tuple[Factor, ...]
    outward: tuple[Array, ...]
    half_log_weights: float
    row_scale: Array | None

    def with_response(self, frame: ModelFrame) -> Coordinates:
        """The same columns with another response."""
        y, origin, scale = _residual(self.x, self.back, _weighted(_response(frame), self.row_scale))
        return replace(self, y=y, origin=origin, scale=scale)

    def roots_outward(self, theta: Array) -> list[Array]:
        """Natural covariance roots A_k T~_k (q, q), lower triangular with a non-negative diagonal."""
        return [lower_root(a @ t) for a, t in zip(self.outward, templates(self.factors, theta), strict=True)]

    def theta_outward(self, theta: Array) -> Array:
        """theta of the natural columns."""
        return theta_of(self.factors, self.roots_outward(theta), len(theta))

    def theta_inward(self, theta: Array) -> Array:
        """theta of these coordinates from the natural one."""
        roots = [lower_root(np.linalg.solve(a, t))
                 for a, t in zip(self.outward, templates(self.factors, theta), strict=True)]
        return theta_of(self.factors, roots, len(theta))

    def log_likelihood(self, deviance: float, *, reml: bool) -> float:
        """Natural (restricted) log-likelihood from the deviance in these coordinates."""
        n, p = self.x.shape
        df: int = n - p if reml else n
        basis = float(np.linalg.slogdet(self.back)[1]) if reml else 0.0
        return -0.5 * deviance - df * float(np.log(self.scale)) + basis + self.half_log_weights


def make_coordinates(frame: ModelFrame) -> Coordinates:
    """Coordinates of a linear model's frame."""
    scale = None if frame.weights is None else np.sqrt(frame.weights)
    x, back = orthogonal(_weighted(frame.design.fixed.matrix, scale))
    y, origin, size = _residual(x, back, _weighted(_response(frame), scale))
    pairs = [own_columns(factor, scale) for factor in frame.factors]
    half = 0.0 if frame.weights is None else 0.5 * float(np.log(frame.weights).sum())
    factors, outward = tuple(f for f, _ in pairs), tuple(a for _, a in pairs)
    return Coordinates(x, y, back, origin, size, factors, outward, half, scale)


def _response(frame: ModelFrame) -> Array:
    return frame.y if frame.offset is None else frame.y - frame.offset


def _weighted(values: Array, row_scale: Array | None) -> Array:
    return values if row_scale is None else (values.T * row_scale).T


def orthogonal(columns: Array) -> tuple[Array, Array]:
    """A basis (n, p) of the columns with mean squares 1 and zero cross products, and B (p, p): basis = columns @ B.

    B is upper triangular with a positive diagonal: each basis column is what its column adds to those before it.
    """
    n, p = columns.shape
    if p == 0:
        return columns, np.zeros((0, 0))
    size = np.sqrt(np.mean(columns**2, axis=0))
    q, r = np.linalg.qr(columns / size)
    signs = np.where(np.diag(r) < 0, -1.0, 1.0)
    inverse = linalg.solve_triangular(r * signs[:, None], np.eye(p))
    return q * (signs * np.sqrt(n)), inverse * np.sqrt(n) / size[:, None]


def _residual(x: Array, back: Array, y: Array) -> tuple[Array, Array, float]:
    """Least-squares residual of mean square 1, natural coefficients of what was taken off, the residual's size."""
    size = float(np.sqrt(np.mean(y**2)))
    scaled = y / size if size > 0 else y
    gamma = x.T @ scaled / len(y)
    residual = scaled - x @ gamma
    left = float(np.sqrt(np.mean(residual**2)))
    if left < EXACT:
        raise UserError("The fit broke down: the fixed part explains the response exactly. Check the formula.")
    return residual / left, size * (back @ gamma), size * left


def own_columns(factor: Factor, row_scale: Array | None) -> tuple[Factor, Array]:
    """A factor with orthogonal columns in each block, and A (q, q): its columns are the natural ones times A."""
    columns, a = np.empty_like(factor.columns), np.zeros((len(factor.terms),) * 2)
    for block in factor.blocks:
        places = list(block)
        columns[:, places], a[np.ix_(places, places)] = orthogonal(_weighted(factor.columns[:, places], row_scale))
    return replace(factor, columns=columns), a


def theta_of(factors: Sequence[Factor], roots: Sequence[Array], size: int) -> Array:
    """theta (t,) of covariance roots (q_k, q_k)."""
    theta = np.zeros(size)
    for factor, root in zip(factors, roots, strict=True):
        used = factor.pattern >= 0
        theta[factor.pattern[used]] = root[used]
    return theta


def lower_root(root: Array) -> Array:
    """The lower-triangular root with a non-negative diagonal of the covariance ``root @ root.T`` (q, q)."""
    upper = np.linalg.qr(root.T, mode="r")
    signs = np.where(np.diag(upper) < 0, -1.0, 1.0)
    return np.asarray((signs[:, None] * upper).T)


def rotation(root: Array) -> Array:
    """The orthogonal Q (q, q) of ``root`` = ``lower_root(root)`` Q."""
    turn, upper = np.linalg.qr(root.T)
    return np.asarray(np.where(np.diag(upper) < 0, -1.0, 1.0)[:, None] * turn.T)
