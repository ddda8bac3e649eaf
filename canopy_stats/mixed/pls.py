"""Penalised least squares of a linear mixed model: estimates as functions of theta (Bates et al. 2015, section 3).

V = I + Z Lambda Lambda' Z' in units of sigma^2; all functions work on cross products, so their cost does not grow with
the number of rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import linalg

from canopy_stats.mixed import blocks
from canopy_stats.mixed.blocks import Array, Blocks, Factorised, Layout
from canopy_stats.mixed.formula import Design

ILL_CONDITIONED = 1e-6


@dataclass(frozen=True)
class Products:
    """Cross products of one design: Z'Z in blocks, Z'[X y] by factor (L_k, q_k, p + 1), [X y]'[X y] (p + 1, p + 1).

    Nearly dependent columns of X are made orthogonal first; ``back`` (p, p) turns those coefficients into X's.
    """

    layout: Layout
    zz: Blocks
    zx: list[Array]
    xx: Array
    n: int
    back: Array | None = None


@dataclass(frozen=True)
class Profile:
    """Solution for one theta: beta (p,), its unscaled covariance (p, p), y'V^-1 y residual sum, log dets, modes u."""

    beta: Array
    unscaled: Array
    rss: float
    logdet_h: float
    logdet_x: float
    u: list[Array]
    h: Factorised
    factors: list[Array]


def make_products(design: Design, y: Array | None = None) -> Products:
    """Cross products of a design, with another response (n,) if given."""
    x, back = well_conditioned(design.fixed.matrix)
    xy = np.column_stack([x, design.y if y is None else y])
    layout = blocks.make_layout(design.factors)
    zx = [blocks.sum_by_group(f, xy) for f in design.factors]
    return Products(layout, blocks.gram(layout), zx, xy.T @ xy, len(xy), back)


def well_conditioned(x: Array) -> tuple[Array, Array | None]:
    """x (n, p) itself and None or, where its columns are nearly dependent, an orthogonal basis and the way back."""
    gram = x.T @ x
    scale = np.sqrt(np.diag(gram))
    if len(gram) == 0 or np.linalg.eigvalsh(gram / np.outer(scale, scale))[0] > ILL_CONDITIONED:
        return x, None
    q, r = np.linalg.qr(x / scale)
    return q, np.linalg.inv(r) / scale[:, None]


def solve_theta(products: Products, theta: Array) -> Profile | None:
    """Profile the fixed effects and modes at theta; None when the fixed part is not identified there."""
    t = blocks.templates(products.layout.factors, theta)
    h = blocks.factorise(blocks.relative(products.layout, products.zz, t))
    if h is None:
        return None
    right = [np.einsum("ab,lar->lbr", t[k], zx) for k, zx in enumerate(products.zx)]
    k_xy = blocks.solve(products.layout, h, right)
    reduced = products.xx - sum(np.tensordot(r, k, axes=([0, 1], [0, 1])) for r, k in zip(right, k_xy, strict=True))
    return _profile(reduced, h, k_xy, t, products.back)


def _profile(
    reduced: Array, h: Factorised, k_xy: list[Array], t: list[Array], back: Array | None
) -> Profile | None:
    """Split [X y]'V^-1[X y] (p + 1, p + 1) into the least-squares solution and the modes."""
    try:
        lower = linalg.cholesky(reduced[:-1, :-1], lower=True)
    except linalg.LinAlgError:
        return None
    unscaled = linalg.cho_solve((lower, True), np.eye(len(lower)))
    beta = unscaled @ reduced[:-1, -1]
    rss = float(reduced[-1, -1] - beta @ reduced[:-1, -1])
    u = [k[:, :, -1] - k[:, :, :-1] @ beta for k in k_xy]
    logdet_x = 2 * float(np.log(np.diag(lower)).sum())
    if back is not None:
        beta, unscaled = back @ beta, back @ unscaled @ back.T
        logdet_x -= 2 * float(np.linalg.slogdet(back)[1])
    return Profile(beta, unscaled, rss, h.logdet, logdet_x, u, h, t)


def deviance(products: Products, theta: Array, log_sigma: float | None = None, *, reml: bool) -> float:
    """Minus twice the (restricted) log-likelihood at theta and log sigma; sigma is profiled out when it is None."""
    p = solve_theta(products, theta)
    if p is None or p.rss <= 0:
        return float("inf")
    df = products.n - len(p.beta) if reml else products.n
    log_sigma = 0.5 * np.log(p.rss / df) if log_sigma is None else log_sigma
    penalty = p.logdet_x if reml else 0.0
    return float(p.logdet_h + penalty + df * (np.log(2 * np.pi) + 2 * log_sigma) + p.rss * np.exp(-2 * log_sigma))
