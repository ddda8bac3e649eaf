"""Kenward and Roger's covariance and degrees of freedom for fixed effects of linear mixed models (1997, 2009).

V = sum_r gamma_r G_r is linear in the variances and covariances gamma, the last of which is sigma^2 (G = I). With
S = Z'V^-1Z and W = Z'V^-1X every trace and product over a random term is a sum of blocks of S and W; those with sigma^2
follow from sum_r gamma_r V^-1 G_r V^-1 = V^-1. All is done in the model's own coordinates. As in R's pbkrtest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from canopy_stats.mixed import blocks
from canopy_stats.mixed.blocks import Array
from canopy_stats.mixed.fit import Fit
from canopy_stats.mixed.linear import Linear
from canopy_stats.mixed.pls import Solution
from canopy_stats.schema import UserError

LARGEST = 8_000
"""Random effects whose joint matrix Z'V^-1Z is still kept dense."""


@dataclass(frozen=True)
class FTest:
    """A test of k contrasts: scaled F statistic, its degrees of freedom, p-value, and the factor it was scaled by."""

    statistic: float
    num_df: int
    den_df: float
    p_value: float
    scale: float


@dataclass(frozen=True, eq=False)
class Adjusted:
    """Covariance of gamma (r, r), P_r (r, p, p), Phi (p, p) and adjusted Phi_A (p, p), in own coordinates; the way
    back (p, p) to the natural coefficients."""

    spread: Array
    p: Array
    phi: Array
    adjusted: Array
    back: Array

    @property
    def covariance(self) -> Array:
        """Adjusted covariance (p, p) of the natural coefficients."""
        return np.asarray(self.back @ self.adjusted @ self.back.T)


def kenward_roger(fit: Fit, contrasts: Any) -> FTest:
    """Kenward-Roger F test that contrasts L (k, p) of the independent coefficients ``fit.beta`` are all zero.

    A single row gives the t test: its statistic is t^2 and ``den_df`` the degrees of freedom. UserError for fits that
    are not linear models by REML.
    """
    known = adjustment(fit)
    rows = np.atleast_2d(np.asarray(contrasts, dtype=float))
    scale, df = _f_moments(known, rows @ known.back)
    estimate, k = rows @ fit.beta, len(rows)
    wald = float(estimate @ np.linalg.solve(rows @ known.covariance @ rows.T, estimate)) / k
    return FTest(scale * wald, k, df, float(stats.f.sf(scale * wald, k, df)), scale)


def kenward_roger_df(fit: Fit, contrasts: Array) -> tuple[Array, Array]:
    """Standard errors (k,) and degrees of freedom (k,) of contrasts (k, p), each on its own."""
    known, rows = adjustment(fit), np.atleast_2d(contrasts)
    errors = np.sqrt(np.einsum("ka,ab,kb->k", rows, known.covariance, rows))
    return errors, np.array([_f_moments(known, row[None] @ known.back)[1] for row in rows])


def adjustment(fit: Fit) -> Adjusted:
    """The adjusted covariance of a linear model's coefficients, and what tests need."""
    way = fit.way
    if not isinstance(way, Linear) or not fit.reml:
        raise UserError("Kenward-Roger needs a linear mixed model fitted by REML: cs.lmm(..., reml=True).")
    at, solution = way.coordinates, way.solution_of(fit)
    variance = solution.rss / way.products.df(True)
    s, w = _inner_products(solution)
    p, q, traces = _pieces(solution, s / variance, w / variance, variance)
    phi = variance * solution.unscaled
    information = 0.5 * (traces - 2 * np.einsum("ab,rsba->rs", phi, q)
                         + np.einsum("ab,rbc,cd,sda->rs", phi, p, phi, p, optimize=True))
    spread = np.linalg.pinv(information, hermitian=True)
    middle = np.einsum("rs,rsab->ab", spread, q) - np.einsum("rs,rab,bc,scd->ad", spread, p, phi, p, optimize=True)
    return Adjusted(spread, p, phi, phi + 2 * phi @ middle @ phi, at.scale * at.back)


def _inner_products(solution: Solution) -> tuple[Array, Array]:
    """Z'V^-1Z (Q, Q) and Z'V^-1X (Q, p) for sigma = 1, the effects of all factors stacked level by level."""
    layout, g = solution.products.layout, solution.products.zz
    sizes = [len(f.levels) * len(f.terms) for f in layout.factors]
    total = sum(sizes)
    if total > LARGEST:
        raise UserError(f"Kenward-Roger with {total} random effects asks for too much memory; use ddf='satterthwaite'.")
    split = np.cumsum(sizes)[:-1]
    unit = [part.reshape(len(f.levels), len(f.terms), total)
            for f, part in zip(layout.factors, np.split(np.eye(total), split), strict=True)]
    columns = blocks.multiply(layout, g, unit)
    right = [np.einsum("ab,lar->lbr", t, part) for t, part in zip(solution.roots, columns, strict=True)]
    solved = blocks.solve(layout, solution.h, right)
    inside = [np.einsum("ab,lbr->lar", t, part) for t, part in zip(solution.roots, solved, strict=True)]
    moved = blocks.multiply(layout, g, inside)
    s = np.concatenate([(a - b).reshape(-1, total) for a, b in zip(columns, moved, strict=True)])
    return s, np.concatenate([w[:, :, :-1].reshape(size, -1) for w, size in zip(solution.w, sizes, strict=True)])


def _pieces(solution: Solution, s: Array, w: Array, variance: float) -> tuple[Array, Array, Array]:
    """P_r (r, p, p), Q_rs (r, r, p, p) and tr(V^-1 G_r V^-1 G_s) (r, r), sigma^2 last."""
    parts, gamma = _parameters(solution, variance)
    size, p = len(parts) + 1, w.shape[1]
    ps, qs, traces = np.zeros((size, p, p)), np.zeros((size, size, p, p)), np.zeros((size, size))
    first = np.zeros(size)
    moved = [_swap(part, w) for part in parts]
    for r, part in enumerate(parts):
        ps[r] = -w.T @ moved[r]
        first[r] = float(np.sum(_swap(part, s).diagonal()))
        left = _swap(part, s)
        for c, other in enumerate(parts[: r + 1]):
            qs[r, c] = moved[r].T @ s @ moved[c]
            qs[c, r] = qs[r, c].T
            traces[r, c] = traces[c, r] = float(np.sum(left * _swap(other, s).T))
    return _with_residual(ps, qs, traces, first, gamma, solution)


def _with_residual(
    ps: Array, qs: Array, traces: Array, first: Array, gamma: Array, solution: Solution
) -> tuple[Array, Array, Array]:
    """The entries of sigma^2 from sum_r gamma_r V^-1 G_r V^-1 = V^-1; ``first`` (r,) are tr(V^-1 G_r)."""
    inner, variance = gamma[:-1], gamma[-1]
    information = np.linalg.inv(solution.unscaled) / variance
    ps[-1] = (-information - np.einsum("r,rab->ab", inner, ps[:-1])) / variance
    first[-1] = (solution.products.n - inner @ first[:-1]) / variance
    for r in range(len(inner)):
        traces[r, -1] = traces[-1, r] = (first[r] - inner @ traces[:-1, r]) / variance
        qs[r, -1] = (-ps[r] - np.einsum("s,sab->ab", inner, qs[r, :-1])) / variance
        qs[-1, r] = qs[r, -1].T
    traces[-1, -1] = (first[-1] - inner @ traces[:-1, -1]) / variance
    qs[-1, -1] = (-ps[-1] - np.einsum("s,sab->ab", inner, qs[-1, :-1])) / variance
    return ps, qs, traces


@dataclass(frozen=True)
class _Entry:
    """One variance or covariance: rows of its two columns among the stacked effects, level by level."""

    a: Array
    b: Array


def _parameters(solution: Solution, variance: float) -> tuple[list[_Entry], Array]:
    """The entries of the covariances and their values gamma (r,), sigma^2 last."""
    parts, gamma, start = [], [], 0
    for factor, t in zip(solution.products.layout.factors, solution.roots, strict=True):
        levels, q = len(factor.levels), len(factor.terms)
        covariance = variance * t @ t.T
        for a, b in np.argwhere(factor.pattern >= 0):
            rows = start + np.arange(levels) * q
            parts.append(_Entry(rows + a, rows + b))
            gamma.append(covariance[a, b])
        start += levels * q
    return parts, np.array([*gamma, variance])


def _swap(entry: _Entry, values: Array) -> Array:
    """E values: rows b of ``values`` in place of rows a, and the other way round where a and b differ."""
    out = np.zeros_like(values)
    out[entry.a] += values[entry.b]
    if entry.a[0] != entry.b[0]:
        out[entry.b] += values[entry.a]
    return out


def _f_moments(known: Adjusted, rows: Array) -> tuple[float, float]:
    """Factor lambda and denominator degrees of freedom of the scaled F (Kenward & Roger 1997, section 4)."""
    k = len(rows)
    theta = rows.T @ np.linalg.solve(rows @ known.phi @ rows.T, rows)
    pieces = np.einsum("ab,bc,rcd,de->rae", theta, known.phi, known.p, known.phi, optimize=True)
    single = np.einsum("raa->r", pieces)
    a1 = float(single @ known.spread @ single)
    a2 = float(np.einsum("rs,rab,sba->", known.spread, pieces, pieces, optimize=True))
    b = (a1 + 6 * a2) / (2 * k)
    g = ((k + 1) * a1 - (k + 4) * a2) / ((k + 2) * a2) if a2 else 0.0
    c = 3 * k + 2 * (1 - g)
    c1, c2, c3 = g / c, (k - g) / c, (k + 2 - g) / c
    expectation = 1 / (1 - a2 / k)
    v0, v1, v2 = 1 + c1 * b, 1 - c2 * b, 1 - c3 * b
    relative = (1 - a2 / k) ** 2 * v0 / (v1**2 * v2) / k  # variance over twice the squared expectation
    df = 4 + (k + 2) / (k * relative - 1)
    return float(df / (expectation * (df - 2))), float(df)

