"""Kenward and Roger's F test for linear mixed models (Biometrics 1997; R's pbkrtest).

The covariance of y is linear in its parameters, V = sum_r theta_r G_r: the variances and covariances of the random
effects, with G_r = Z E_r Z', and the residual variance, with G_r = I (or the inverse weights). All that is needed are
A' V^-j A for A = [Z X] and j = 1, 2, 3, which Woodbury's identity gives without a matrix of n rows and columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from scipy import linalg, sparse

from canopy_stats.mixed.fit import Fit
from canopy_stats.mixed.fitting.linear import Linear
from canopy_stats.mixed.formulas.grouping import Factor
from canopy_stats.schema import UserError

Array = np.ndarray
LARGEST = 3000
"""More random effects than these need matrices that are too large; Satterthwaite's df are as good there."""


@dataclass(frozen=True)
class AdjustedCovariance:
    """What every test of one fit shares: covariances (p, p) of the coefficients, as estimated and adjusted, the
    derivatives P_r (r, p, p) of the first one's inverse, and the covariance W (r, r) of the variance parameters."""

    covariance: Array
    adjusted: Array
    derivatives: Array
    variance: Array


def kenward_roger(fit: Fit) -> AdjustedCovariance:
    """The adjusted covariance of a linear model's coefficients. UserError for other models and for too many effects."""
    way = _checked(fit)
    first, second, third, trace, structures, p = _products(way, fit)
    m = len(first) - p
    z, x = slice(0, m), slice(m, m + p)
    covariance = np.linalg.inv(first[x, x])
    sides = [e @ first[z, x] for e in structures]
    derivatives = np.stack([*(-first[x, z] @ side for side in sides), -second[x, x]])
    k = len(derivatives)
    pairs, squares = np.zeros((k, k)), np.zeros((k, k, p, p))
    inner = [np.asarray(e @ first[z, z]) for e in structures]
    for r, s in product(range(k), repeat=2):
        pairs[r, s], squares[r, s] = _pair(r, s, inner, sides, structures, second, third, trace, m, first)
    middle = np.einsum("ab,rbc->rac", covariance, derivatives)
    information = pairs - 2 * np.einsum("ab,rsba->rs", covariance, squares) + np.einsum("rab,sba->rs", middle, middle)
    variance = 2 * np.linalg.pinv(information)
    shift = np.einsum("rs,rsab->ab", variance, squares - np.einsum("rab,sbc->rsac", derivatives, middle))
    adjusted = covariance + 2 * covariance @ shift @ covariance
    return _natural(AdjustedCovariance(covariance, adjusted, derivatives, variance), way)


def _natural(own: AdjustedCovariance, way: Linear) -> AdjustedCovariance:
    """From the model's own coordinates, where no unit matters, to those of its coefficients."""
    back = way.coordinates.scale * way.coordinates.back
    ahead = np.linalg.inv(back)
    return AdjustedCovariance(back @ own.covariance @ back.T, back @ own.adjusted @ back.T,
                              np.einsum("ab,rac,cd->rbd", ahead, own.derivatives, ahead), own.variance)


def _checked(fit: Fit) -> Linear:
    if fit.errors:
        raise UserError("Clustered errors have degrees of freedom of their own; use ddf='satterthwaite'.")
    if not isinstance(fit.way, Linear) or not fit.reml:
        raise UserError("Kenward and Roger's degrees of freedom are for linear models fitted by REML; use"
                        " ddf='satterthwaite', or fit by lmm(..., reml=True).")
    size = sum(len(f.levels) * len(f.terms) for f in fit.design.factors)
    if size > LARGEST:
        raise UserError(f"Kenward and Roger's test needs matrices of all {size} random effects, more than {LARGEST};"
                        " use ddf='satterthwaite', which is as good for so many.")
    return fit.way


def _products(way: Linear, fit: Fit) -> tuple[Array, Array, Array, float, list[sparse.csr_matrix], int]:
    """A' V^-j A (m + p, m + p) for j = 1, 2, 3, the trace of V^-2, and the E_r (m, m)."""
    at, solution = way.coordinates, way.solution_of(fit)
    z, x = sparse.hstack([_columns(factor) for factor in at.factors]).tocsr(), at.x
    roots = [sparse.kron(sparse.identity(len(f.levels)), root)
             for f, root in zip(at.factors, solution.roots, strict=True)]
    k = (z @ sparse.block_diag(roots)).tocsr()
    zx, kx = z.T @ x, k.T @ x
    gram = np.block([[(z.T @ z).toarray(), zx], [zx.T, x.T @ x]])
    across = np.hstack([(k.T @ z).toarray(), kx])
    inside = (k.T @ k).toarray()
    factor = linalg.cho_factor(inside + np.eye(len(inside)))
    once = linalg.cho_solve(factor, across)
    twice = linalg.cho_solve(factor, inside @ once)
    thrice = linalg.cho_solve(factor, inside @ twice)
    shrunk, variance = linalg.cho_solve(factor, inside), (fit.sigma / at.scale) ** 2
    powers = (gram - across.T @ once, gram - across.T @ (2 * once - twice),
              gram - across.T @ (3 * once - 3 * twice + thrice))
    first, second, third = (part / variance ** (j + 1) for j, part in enumerate(powers))
    trace = float(fit.nobs - 2 * np.trace(shrunk) + np.sum(shrunk * shrunk.T)) / variance**2
    return first, second, third, trace, _structures(fit.design.factors), x.shape[1]


def _columns(factor: Factor) -> sparse.csr_matrix:
    """Z (n, levels x q) of one factor, the columns of a level side by side."""
    n, q = factor.columns.shape
    places = factor.codes[:, None] * q + np.arange(q)
    shape = (n, len(factor.levels) * q)
    return sparse.csr_matrix((factor.columns.ravel(), places.ravel(), np.arange(0, n * q + 1, q)), shape=shape)


def _structures(factors: tuple[Factor, ...]) -> list[sparse.csr_matrix]:
    """E_r (m, m): where each variance or covariance of the random effects stands."""
    sizes = [len(f.levels) * len(f.terms) for f in factors]
    found = []
    for i, factor in enumerate(factors):
        for a, b in np.argwhere(factor.pattern >= 0):
            unit = np.zeros((len(factor.terms), len(factor.terms)))
            unit[a, b] = unit[b, a] = 1.0
            parts = [sparse.csr_matrix((size, size)) for size in sizes]
            parts[i] = sparse.kron(sparse.identity(len(factor.levels)), unit).tocsr()
            found.append(sparse.block_diag(parts).tocsr())
    return found


def _pair(r: int, s: int, inner: list[Array], sides: list[Array], structures: list[sparse.csr_matrix], second: Array,
          third: Array, trace: float, m: int, first: Array) -> tuple[float, Array]:
    """tr(V^-1 G_r V^-1 G_s) and Q_rs = X' V^-1 G_r V^-1 G_s V^-1 X (p, p); the last parameter is the residual's."""
    last = len(structures)
    if r < last and s < last:
        return float(np.sum(inner[r] * inner[s].T)), sides[r].T @ first[:m, :m] @ sides[s]
    if r == last and s == last:
        return trace, third[m:, m:]
    one = min(r, s)
    value, square = float(structures[one].multiply(second[:m, :m]).sum()), sides[one].T @ second[:m, m:]
    return value, square if r == one else square.T


def test_of(shared: AdjustedCovariance, beta: Array, contrasts: Array, values: Array | float = 0.0
            ) -> tuple[int, float, float]:
    """Number of contrasts (q, p), denominator degrees of freedom and F for contrasts times beta equal to ``values``."""
    phi, q = shared.covariance, len(contrasts)
    theta = contrasts.T @ np.linalg.solve(contrasts @ phi @ contrasts.T, contrasts)
    moves = np.einsum("ab,bc,rcd,de->rae", theta, phi, shared.derivatives, phi)
    traces = np.trace(moves, axis1=1, axis2=2)
    a1 = float(traces @ shared.variance @ traces)
    a2 = float(np.einsum("rs,rab,sba->", shared.variance, moves, moves))
    scale, df = _moments(q, a1, a2)
    distance = contrasts @ beta - values
    return q, df, float(scale / q * distance @ np.linalg.solve(contrasts @ shared.adjusted @ contrasts.T, distance))


def _moments(q: int, a1: float, a2: float) -> tuple[float, float]:
    """Scale of F and its denominator degrees of freedom, from the first two moments (Kenward & Roger, section 3)."""
    b = (a1 + 6 * a2) / (2 * q)
    g = ((q + 1) * a1 - (q + 4) * a2) / ((q + 2) * a2)
    below = 3 * q + 2 * (1 - g)
    c1, c2, c3 = g / below, (q - g) / below, (q + 2 - g) / below
    mean = 1 / (1 - a2 / q)
    spread = 2 / q * (1 + c1 * b) / ((1 - c2 * b) ** 2 * (1 - c3 * b))
    ratio = spread / (2 * mean**2)
    df = 4 + (q + 2) / (q * ratio - 1)
    return df / (mean * (df - 2)), df
