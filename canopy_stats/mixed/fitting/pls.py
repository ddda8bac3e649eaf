"""Penalised least squares of a linear mixed model: estimates as functions of theta (Bates et al. 2015, section 3).

V = I + Z Lambda Lambda' Z' in units of sigma^2; all functions work on cross products, so their cost does not grow with
the number of rows. With K = H^-1 Lambda' Z' [X y] and W = Z' V^-1 [X y] = Z'[X y] - Z'Z Lambda K every derivative in
theta is a sum over levels: d V^-1 = -V^-1 Z (dLambda Lambda' + Lambda dLambda') Z' V^-1, and Lambda' W = K.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy import linalg

from canopy_stats.mixed.algebra import blocks
from canopy_stats.mixed.algebra.blocks import Array, Blocks, Factorised, Layout
from canopy_stats.mixed.formulas.grouping import Factor


@dataclass(frozen=True, eq=False)
class Products:
    """Cross products of one design: Z'Z in blocks, Z'[X y] by factor (L_k, q_k, p + 1), [X y]'[X y] (p + 1, p + 1)."""

    layout: Layout
    zz: Blocks
    zx: list[Array]
    xx: Array
    n: int

    @property
    def n_theta(self) -> int:
        return 1 + max(int(f.pattern.max()) for f in self.layout.factors)

    def df(self, reml: bool) -> int:
        """What the residual sum is divided by."""
        return self.n - len(self.xx) + 1 if reml else self.n

    def with_response(self, x: Array, y: Array) -> Products:
        """The same columns with another response (n,)."""
        zx = [np.concatenate([old[:, :, :-1], blocks.sum_by_group(f, y)[:, :, None]], axis=2)
              for f, old in zip(self.layout.factors, self.zx, strict=True)]
        xx = self.xx.copy()
        xx[-1, :-1] = xx[:-1, -1] = x.T @ y
        xx[-1, -1] = y @ y
        return replace(self, zx=zx, xx=xx)


@dataclass(frozen=True, eq=False)
class Solution:
    """What theta leaves: gamma (p,), (X'V^-1X)^-1 (p, p), residual sum, log dets, K by factor, H, covariance roots."""

    products: Products
    gamma: Array
    unscaled: Array
    rss: float
    logdet_h: float
    logdet_x: float
    k: list[Array]
    h: Factorised
    roots: list[Array]

    @cached_property
    def u(self) -> list[Array]:
        """Spherical random effects (L_k, q_k)."""
        return [_residual(k, self.gamma) for k in self.k]

    @cached_property
    def w(self) -> list[Array]:
        """Z' V^-1 [X y] by factor (L_k, q_k, p + 1)."""
        effects = [np.einsum("ab,lbr->lar", t, k) for t, k in zip(self.roots, self.k, strict=True)]
        moved = blocks.multiply(self.products.layout, self.products.zz, effects)
        return [zx - part for zx, part in zip(self.products.zx, moved, strict=True)]

    @cached_property
    def residual_slopes(self) -> list[Array]:
        """Derivative (q_k, q_k) of the residual sum in the entries of each T_k."""
        return [-2 * np.einsum("la,lb->ab", _residual(w, self.gamma), u) for w, u in zip(self.w, self.u, strict=True)]

    @cached_property
    def determinant_slopes(self) -> list[Array]:
        """Derivative (q_k, q_k) of log det H in the entries of each T_k."""
        layout = self.products.layout
        return [2 * part for part in blocks.inverse_products(layout, self.products.zz, self.roots, self.h)]

    @cached_property
    def information_slopes(self) -> list[Array]:
        """Derivative (q_k, q_k, p, p) of X'V^-1X in the entries of each T_k."""
        out = []
        for w, k in zip(self.w, self.k, strict=True):
            half = np.einsum("lax,lby->abxy", w[:, :, :-1], k[:, :, :-1], optimize=True)
            out.append(-(half + half.transpose(0, 1, 3, 2)))
        return out


def _residual(values: Array, gamma: Array) -> Array:
    """Of columns [X y] (L, q, p + 1) what is left of y: values_y - values_X gamma (L, q)."""
    return np.asarray(values[:, :, -1] - values[:, :, :-1] @ gamma)


def make_products(factors: Sequence[Factor], x: Array, y: Array) -> Products:
    """Cross products of fixed columns x (n, p), grouping factors and response y (n,)."""
    xy = np.column_stack([x, y])
    layout = blocks.make_layout(factors)
    return Products(layout, blocks.gram(layout), [blocks.sum_by_group(f, xy) for f in factors], xy.T @ xy, len(y))


def solve_theta(products: Products, theta: Array) -> Solution | None:
    """Profile the fixed effects and modes at theta; None when the fixed part is not identified there."""
    t = blocks.templates(products.layout.factors, theta)
    h = blocks.factorise(blocks.relative(products.layout, products.zz, t))
    if h is None:
        return None
    right = [np.einsum("ab,lar->lbr", t[k], zx) for k, zx in enumerate(products.zx)]
    k_xy = blocks.solve(products.layout, h, right)
    reduced = products.xx - sum(np.tensordot(r, k, axes=([0, 1], [0, 1])) for r, k in zip(right, k_xy, strict=True))
    try:
        lower = linalg.cholesky(reduced[:-1, :-1], lower=True)
    except linalg.LinAlgError:
        return None
    unscaled = linalg.cho_solve((lower, True), np.eye(len(lower)))
    gamma = unscaled @ reduced[:-1, -1]
    rss = float(reduced[-1, -1] - gamma @ reduced[:-1, -1])
    logdet_x = 2 * float(np.log(np.diag(lower)).sum())
    return Solution(products, gamma, unscaled, rss, h.logdet, logdet_x, k_xy, h, t) if rss > 0 else None


def deviance(found: Solution, *, reml: bool, variance: float | None = None) -> float:
    """Minus twice the (restricted) log-likelihood at sigma^2 ``variance``, by default the best one."""
    df = found.products.df(reml)
    variance = found.rss / df if variance is None else variance
    penalty = found.logdet_x if reml else 0.0
    return float(found.logdet_h + penalty + df * np.log(2 * np.pi * variance) + found.rss / variance)


def gradient(found: Solution, *, reml: bool, variance: float | None = None) -> Array:
    """Derivative (t,) of the deviance in theta at sigma^2 ``variance``, by default the best one (then profiled too)."""
    variance = found.rss / found.products.df(reml) if variance is None else variance
    parts = [d + r / variance for d, r in zip(found.determinant_slopes, found.residual_slopes, strict=True)]
    if reml:
        parts = [part + np.einsum("abxy,xy->ab", s, found.unscaled)
                 for part, s in zip(parts, found.information_slopes, strict=True)]
    return gather(found.products.layout.factors, parts, found.products.n_theta)


def gather(factors: Sequence[Factor], parts: Sequence[Array], size: int) -> Array:
    """Entries of one array (q_k, q_k, ...) a factor, in the order of theta: (t, ...)."""
    out = np.zeros((size, *parts[0].shape[2:]))
    for factor, part in zip(factors, parts, strict=True):
        used = factor.pattern >= 0
        out[factor.pattern[used]] = part[used]
    return out
