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
from canopy_stats.mixed.algebra import layout as layouts
from canopy_stats.mixed.algebra.blocks import Array, Blocks, Factorised, Layout
from canopy_stats.mixed.algebra.elimination import Elimination, make_elimination
from canopy_stats.mixed.formulas.grouping import Factor


@dataclass(frozen=True, eq=False)
class Products:
    """Cross products of one design: Z'Z in blocks, Z'[X y] by factor (L_k, q_k, p + 1), [X y]'[X y] (p + 1, p + 1)."""

    layout: Layout
    zz: Blocks
    zx: list[Array]
    xx: Array
    n: int
    links: Elimination

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
    """What theta leaves: gamma (p,), (X'V^-1X)^-1 (p, p), residual sum, log dets, K by factor, covariance roots.

    ``kept`` (L, q, q) are the inverses of I + T'G_l T of the head, ``rest`` (m, m) is the tail's G less what the head
    explains of it, in natural units, ``root`` (m, m) the Cholesky root of S = I + Lambda' rest Lambda.
    """

    products: Products
    gamma: Array
    unscaled: Array
    rss: float
    logdet_h: float
    logdet_x: float
    k: list[Array]
    roots: list[Array]
    kept: Array
    rest: Array
    root: Array

    @cached_property
    def h(self) -> Factorised:
        """H itself, for whoever solves with it."""
        found = blocks.factorise(blocks.relative(self.products.layout, self.products.zz, self.roots))
        assert found is not None
        return found

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
    def inverse(self) -> Array:
        """S^-1 (m, m)."""
        return blocks.symmetric_inverse(self.root)

    @cached_property
    def pull(self) -> Array:
        """B_l' Lambda S^-1 Lambda' B_l (L, q, q): what the tail's uncertainty adds at each level of the head."""
        layout, roots = self.products.layout, self.roots
        half = layouts.scale_tail(layout, self.inverse, roots, transpose=False)
        return self.products.links.pulled(layouts.scale_tail(layout, half.T, roots, transpose=False))

    @cached_property
    def inverse_blocks(self) -> list[Array]:
        """Diagonal blocks (L_k, q_k, q_k) of H^-1 for every factor."""
        layout = self.products.layout
        out = layouts.tail_blocks(layout, self.inverse)
        reach = self.kept @ self.roots[layout.head].T
        out[layout.head] = self.kept + reach @ self.pull @ np.swapaxes(reach, 1, 2)
        return out

    @cached_property
    def residual_slopes(self) -> list[Array]:
        """Derivative (q_k, q_k) of the residual sum in the entries of each T_k."""
        return [-2 * np.einsum("la,lb->ab", _residual(w, self.gamma), u) for w, u in zip(self.w, self.u, strict=True)]

    @cached_property
    def determinant_slopes(self) -> list[Array]:
        """Derivative (q_k, q_k) of log det H in the entries of each T_k.

        With M_l = T kept_l T', log det H = sum log det(I + T'G_l T) + log det S moves by 2 (G_l - (I - G_l M_l) pull_l)
        T kept_l in the head's T, and by the diagonal blocks of 2 rest Lambda S^-1 in the tail's.
        """
        layout = self.products.layout
        t, g = self.roots[layout.head], self.products.zz.head
        scaled = t @ self.kept
        bent = g - self.pull + g @ scaled @ (t.T @ self.pull)
        out = layouts.tail_products(layout, layouts.scale_tail(layout, self.rest, self.roots).T, self.inverse)
        out[layout.head] = np.tensordot(bent, scaled, axes=([0, 2], [0, 1]))
        return [2 * part for part in out]

    @cached_property
    def information_slopes(self) -> list[Array]:
        """Derivative (q_k, q_k, p, p) of X'V^-1X in the entries of each T_k."""
        out = []
        for w, k in zip(self.w, self.k, strict=True):
            half = np.tensordot(w[:, :, :-1], k[:, :, :-1], axes=(0, 0)).transpose(0, 2, 1, 3)
            out.append(-(half + half.transpose(0, 1, 3, 2)))
        return out


def _residual(values: Array, gamma: Array) -> Array:
    """Of columns [X y] (L, q, p + 1) what is left of y: values_y - values_X gamma (L, q)."""
    return np.asarray(values[:, :, -1] - values[:, :, :-1] @ gamma)


def make_products(factors: Sequence[Factor], x: Array, y: Array) -> Products:
    """Cross products of fixed columns x (n, p), grouping factors and response y (n,)."""
    xy = np.column_stack([x, y])
    layout = layouts.make_layout(factors, layouts.THIN_FIXED)
    zz = blocks.gram(layout)
    links = make_elimination(zz.border, *zz.head.shape[:2])
    return Products(layout, zz, [blocks.sum_by_group(f, xy) for f in factors], xy.T @ xy, len(y), links)


@dataclass(frozen=True, eq=False)
class Eliminated:
    """Without the head: its T, kept_l and M_l (L, q, q), summed log determinants, and what is left of the tail's Z'Z
    (m, m), of its Z'[X y] (m, p + 1) and of [X y]'[X y]."""

    t: Array
    kept: Array
    logdet: float
    rest: Array
    right: Array
    xx: Array


def _eliminate(products: Products, t: Array) -> Eliminated | None:
    """Take the head out at its covariance root t (q, q)."""
    layout, zx = products.layout, products.zx[products.layout.head]
    kept, logdet = blocks.invert_blocks(np.eye(len(t)) + t.T @ products.zz.head @ t)
    if not np.isfinite(logdet):
        return None
    moved = t @ kept @ t.T
    explained = moved @ zx
    rest = products.zz.tail.minus(products.links.sums(moved))
    right = np.zeros((0, zx.shape[2]))
    if products.zz.border is not None:
        right = layouts.pack_tail(layout, products.zx) - products.zz.border.head_sums(explained)
    xx = products.xx - np.tensordot(zx, explained, axes=([0, 1], [0, 1]))
    return Eliminated(t, kept, logdet, rest, right, xx)


def solve_theta(products: Products, theta: Array) -> Solution | None:
    """Profile the fixed effects and modes at theta; None when the fixed part is not identified there."""
    layout = products.layout
    roots = blocks.templates(layout.factors, theta)
    found = _eliminate(products, roots[layout.head])
    if found is None:
        return None
    scaled = layouts.scale_tail(layout, layouts.scale_tail(layout, found.rest, roots).T, roots)
    right = layouts.scale_tail(layout, found.right, roots)
    scaled[np.diag_indices(layout.m)] += 1.0
    root = blocks.cholesky(scaled)
    if root is None:
        return None
    try:
        low = linalg.cho_solve((root, True), right, check_finite=False)
        reduced = found.xx - right.T @ low
        lower = linalg.cholesky(reduced[:-1, :-1], lower=True)
    except linalg.LinAlgError:
        return None
    unscaled = linalg.cho_solve((lower, True), np.eye(len(lower)))
    gamma = unscaled @ reduced[:-1, -1]
    rss = float(reduced[-1, -1] - gamma @ reduced[:-1, -1])
    if not rss > 0:
        return None
    logdet_h = found.logdet + 2 * float(np.log(np.diag(root)).sum())
    logdet_x = 2 * float(np.log(np.diag(lower)).sum())
    k = _effects(products, roots, found, low)
    return Solution(products, gamma, unscaled, rss, logdet_h, logdet_x, k, roots, found.kept, found.rest, root)


def _effects(products: Products, roots: list[Array], found: Eliminated, low: Array) -> list[Array]:
    """K by factor, from the tail's part (m, p + 1)."""
    layout = products.layout
    left, out = products.zx[layout.head], [np.empty(0)] * len(roots)
    if products.zz.border is not None:
        left = left - products.zz.border.tail_sums(layouts.scale_tail(layout, low, roots, transpose=False))
        for place, part in layouts.unpack_tail(layout, low).items():
            out[place] = part
    out[layout.head] = found.kept @ found.t.T @ left
    return out


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
