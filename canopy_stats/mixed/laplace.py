"""Laplace approximation to the marginal log-likelihood of a mixed model, with its exact gradient.

Parameters omega = (beta, delta, cutpoints, theta): eta = X beta + Z Lambda u + offset, kappa = W delta, u ~ N(0, I).
With h(u) = sum l_i - u'u / 2, its maximiser u and H = Lambda' Z' diag(-l'') Z Lambda + I:
log L = h(u) - log det(H) / 2. The gradient differentiates u by the implicit function theorem (as TMB does by automatic
differentiation: Kristensen, Nielsen, Berg, Skaug & Bell 2016).

A diagonal entry of Lambda and its column may change sign without changing the likelihood, so no bounds are needed: a
variance at zero is a smooth stationary point, and signs are normalised at the end.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from canopy_stats.mixed import blocks
from canopy_stats.mixed.blocks import Array, Factorised, Layout
from canopy_stats.mixed.family import Density, Derivatives, Family
from canopy_stats.mixed.formula import Factor

NEWTON_TOLERANCE = 1e-18
NEARLY = 1e-5
NEWTON_STEPS = 40
HALVINGS = 12


@dataclass(frozen=True)
class Problem:
    """Data of one marginal likelihood: response (n,), designs of mean (n, p) and dispersion (n, d), factors."""

    family: Family
    y: Array
    x: Array
    w: Array
    factors: tuple[Factor, ...]
    layout: Layout | None
    offset: Array | None = None
    weights: Array | None = None

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """Numbers of coefficients: mean, dispersion, cutpoints, theta."""
        n_theta = 1 + max((int(f.pattern.max()) for f in self.factors), default=-1)
        return self.x.shape[1], self.w.shape[1], self.family.n_cut, n_theta


@dataclass(frozen=True)
class Parts:
    """omega split into its four parts."""

    beta: Array
    delta: Array
    cutpoints: Array
    theta: Array


@dataclass(frozen=True)
class Mode:
    """The inner maximum: spherical modes u_k (L_k, q_k), derivatives of the density there, factorised H, h(u)."""

    u: list[Array]
    at: Derivatives
    h: Factorised | None
    value: float
    factors: list[Array]
    steps: int


@dataclass(frozen=True)
class Evaluation:
    """Laplace log-likelihood at omega, its gradient (k,), and the inner maximum."""

    value: float
    gradient: Array
    mode: Mode


def split(problem: Problem, omega: Array) -> Parts:
    """omega (k,) into mean, dispersion, cutpoints and theta."""
    ends = np.cumsum(problem.sizes)[:-1]
    return Parts(*np.split(omega, ends))


def evaluate(problem: Problem, omega: Array, start: list[Array] | None = None) -> Evaluation | None:
    """Log-likelihood and gradient at omega; None where the inner maximum is not found."""
    parts = split(problem, omega)
    mode = find_mode(problem, parts, start)
    if mode is None:
        return None
    if mode.h is None or problem.layout is None:
        return Evaluation(mode.value, _plain_gradient(problem, mode.at), mode)
    value = mode.value - 0.5 * mode.h.logdet
    return Evaluation(value, _gradient(problem, mode, problem.layout, mode.h), mode)


def evaluate_at(problem: Problem, omega: Array, u: list[Array]) -> Evaluation | None:
    """The formulas of ``evaluate`` at given random effects, which are taken as the mode without being improved."""
    parts = split(problem, omega)
    if problem.layout is None:
        return evaluate(problem, omega)
    t = blocks.templates(problem.factors, parts.theta)
    at, value = _at(problem, weighted(problem, parts), fixed_eta(problem, parts), t, u, 3)
    mode = _accept(problem.layout, u, at, value, t, 0)
    if mode is None or mode.h is None:
        return None
    return Evaluation(value - 0.5 * mode.h.logdet, _gradient(problem, mode, problem.layout, mode.h), mode)


def fixed_eta(problem: Problem, parts: Parts) -> Array:
    """X beta + offset (n,)."""
    eta = problem.x @ parts.beta
    return eta if problem.offset is None else eta + problem.offset


def find_mode(problem: Problem, parts: Parts, start: list[Array] | None = None) -> Mode | None:
    """Newton's method for the random effects, halving steps that do not climb."""
    density = weighted(problem, parts)
    fixed = fixed_eta(problem, parts)
    if problem.layout is None:
        at = density(fixed, 3)
        return Mode([], at, None, float(at.value.sum()), [], 0) if np.all(np.isfinite(at.value)) else None
    t = blocks.templates(problem.factors, parts.theta)
    u = start if start is not None else [np.zeros((len(f.levels), len(f.terms))) for f in problem.factors]
    return _newton(problem, problem.layout, density, fixed, t, u)


def weighted(problem: Problem, parts: Parts) -> Density:
    """The family's density at the parts' dispersion and cutpoints, times the prior weights."""
    plain = problem.family.bind(problem.y, problem.w @ parts.delta, parts.cutpoints)
    weights = problem.weights
    if weights is None:
        return plain
    return lambda eta, order: plain(eta, order).times(weights)


def _newton(
    problem: Problem, layout: Layout, density: Density, fixed: Array, t: list[Array], u: list[Array]
) -> Mode | None:
    order = 2
    at, value = _at(problem, density, fixed, t, u, order)
    if not np.isfinite(value):
        u = [np.zeros_like(part) for part in u]
        at, value = _at(problem, density, fixed, t, u, order)
    for count in range(NEWTON_STEPS):
        h, observed = _curvature(layout, at, t)
        if h is None or not np.isfinite(value):
            return None
        score = _score(problem, at, t, u)
        step = blocks.solve(layout, h, score)
        decrement = sum(float(np.vdot(s, g)) for s, g in zip(step, score, strict=True))
        done = decrement < NEWTON_TOLERANCE * (1 + abs(value))
        if done and at.d3 is not None:
            return Mode(u, at, h, value, t, count) if observed else None
        order = 3 if decrement < NEARLY else 2
        moved = _climb(problem, density, fixed, t, u, step, value, order)
        if moved is None:
            at, value = _at(problem, density, fixed, t, u, 3)
            return _accept(layout, u, at, value, t, count) if decrement < 1e-8 else None
        u, at, value = moved
    return None


def _accept(layout: Layout, u: list[Array], at: Derivatives, value: float, t: list[Array], steps: int) -> Mode | None:
    """The mode, provided that the observed curvature is positive definite there."""
    h, observed = _curvature(layout, at, t)
    return Mode(u, at, h, value, t, steps) if observed else None


def _at(
    problem: Problem, density: Density, fixed: Array, t: list[Array], u: list[Array], order: int
) -> tuple[Derivatives, float]:
    at = density(fixed + random_rows(problem.factors, t, u), order)
    return at, float(at.value.sum()) - 0.5 * sum(float(np.vdot(part, part)) for part in u)


def _climb(
    problem: Problem, density: Density, fixed: Array, t: list[Array], u: list[Array], step: list[Array], value: float,
    order: int,
) -> tuple[list[Array], Derivatives, float] | None:
    """The first of the full step, half of it, ... that does not descend."""
    for halving in range(HALVINGS):
        there = [a + b * 0.5**halving for a, b in zip(u, step, strict=True)]
        at, reached = _at(problem, density, fixed, t, there, order)
        if reached >= value - 1e-12 * (1 + abs(value)):
            return there, at, reached
    return None


def _curvature(layout: Layout, at: Derivatives, t: list[Array]) -> tuple[Factorised | None, bool]:
    """H from the observed curvature and True; from the expected one and False where that is not positive definite."""
    h = blocks.factorise(blocks.relative(layout, blocks.gram(layout, -at.d2), t))
    if h is not None:
        return h, True
    return blocks.factorise(blocks.relative(layout, blocks.gram(layout, at.fisher), t)), False


def _score(problem: Problem, at: Derivatives, t: list[Array], u: list[Array]) -> list[Array]:
    """dh/du = Lambda' Z' l' - u, by factor."""
    return [blocks.sum_by_group(f, at.d1) @ s - part for f, s, part in zip(problem.factors, t, u, strict=True)]


def random_rows(factors: tuple[Factor, ...], t: list[Array], u: list[Array]) -> Array:
    """Z Lambda u (n,)."""
    total = blocks.rows_of(factors[0], u[0] @ t[0].T)
    for factor, template, part in zip(factors[1:], t[1:], u[1:], strict=True):
        total = total + blocks.rows_of(factor, part @ template.T)
    return total


def _plain_gradient(problem: Problem, at: Derivatives) -> Array:
    """Gradient without random effects."""
    assert at.k1 is not None and at.cut1 is not None
    return np.concatenate([at.d1 @ problem.x, at.k1 @ problem.w, at.cut1.sum(axis=0)])


def _gradient(problem: Problem, mode: Mode, layout: Layout, h: Factorised) -> Array:
    """Gradient of the Laplace log-likelihood.

    With s_i = a_i' H^-1 a_i (a_i the row of Z Lambda), v = H^-1 Lambda' Z' (s l''') and q = -s l''' - l'' Z Lambda v,
    d logL = dh - (1/2) d logdet(H) reduces to sums over rows; M = sum_i -l''_i z_i (H^-1 a_i)' is the explicit
    dependence of H on Lambda.
    """
    at = mode.at
    assert at.d3 is not None and at.k1 is not None and at.dk is not None and at.ddk is not None
    assert at.cut1 is not None and at.dcut is not None and at.ddcut is not None
    rows = [f.columns @ t for f, t in zip(problem.factors, mode.factors, strict=True)]
    solved = blocks.solve_rows(layout, h, rows)
    s = sum(np.einsum("na,na->n", a, c) for a, c in zip(rows, solved, strict=True))
    r = -s * at.d3
    pulled = [blocks.sum_by_group(f, r) @ t for f, t in zip(problem.factors, mode.factors, strict=True)]
    v = blocks.solve(layout, h, pulled)
    zv = random_rows(problem.factors, mode.factors, v)
    q = r + at.d2 * zv
    beta = (at.d1 - 0.5 * q) @ problem.x
    delta = (at.k1 - 0.5 * (zv * at.dk - s * at.ddk)) @ problem.w
    cut = at.cut1.sum(axis=0) - 0.5 * (zv @ at.dcut - s @ at.ddcut)
    theta = np.zeros(problem.sizes[3])
    for f, u_k, v_k, c_k in zip(problem.factors, mode.u, v, solved, strict=True):
        matrix = blocks.sum_by_group(f, at.d1).T @ (u_k - 0.5 * v_k) - 0.5 * blocks.sum_by_group(f, q).T @ u_k
        matrix += (f.columns * at.d2[:, None]).T @ c_k
        used = f.pattern >= 0
        theta[f.pattern[used]] = matrix[used]
    return np.concatenate([beta, delta, cut, theta])


def tangent(problem: Problem, mode: Mode) -> list[Array]:
    """Derivatives du/domega (L_k, q_k, k) of the mode in every parameter, by the implicit function theorem."""
    at = mode.at
    assert problem.layout is not None and mode.h is not None and at.dk is not None and at.dcut is not None
    pulls = np.hstack([problem.x * at.d2[:, None], problem.w * at.dk[:, None], at.dcut])
    moves, right = _theta_moves(problem, mode), []
    scored = [blocks.sum_by_group(f, at.d1) for f in problem.factors]
    moved = np.stack([at.d2 * e for _, _, _, e in moves], axis=1)
    for k, (f, t) in enumerate(zip(problem.factors, mode.factors, strict=True)):
        own = np.einsum("ab,lar->lbr", t, blocks.sum_by_group(f, np.hstack([pulls, moved])))
        for place, (factor, a, b, _) in enumerate(moves):
            if factor == k:
                own[:, b, pulls.shape[1] + place] += scored[k][:, a]
        right.append(own)
    return blocks.solve(problem.layout, mode.h, right)


def _theta_moves(problem: Problem, mode: Mode) -> list[tuple[int, int, int, Array]]:
    """For each theta: its factor, row and column in the covariance factor, and deta/dtheta (n,)."""
    moves: list[tuple[int, int, int, Array]] = [(0, 0, 0, np.empty(0))] * problem.sizes[3]
    for k, f in enumerate(problem.factors):
        for a, b in np.argwhere(f.pattern >= 0):
            moves[f.pattern[a, b]] = (k, int(a), int(b), f.columns[:, a] * mode.u[k][f.codes, b])
    return moves


def hessian(problem: Problem, omega: Array, found: Evaluation, steps: Array, columns: Array | None = None) -> Array:
    """Columns (k, j) of the log-likelihood's Hessian: the gradient's formula differenced along (omega, u) together.

    The mode moves along its tangent, so no inner iterations are needed and forward differences suffice; ``steps`` (k,)
    are a small part of the parameters' standard errors. NaN where the curvature is not positive.
    """
    columns = np.arange(len(omega)) if columns is None else columns
    slopes = tangent(problem, found.mode) if problem.layout is not None else []
    out = np.full((len(omega), len(columns)), np.nan)
    for j, i in enumerate(columns):
        moved = omega.copy()
        moved[i] += steps[i]
        u = [part + steps[i] * slope[:, :, i] for part, slope in zip(found.mode.u, slopes, strict=True)]
        ahead = evaluate_at(problem, moved, u)
        if ahead is not None:
            out[:, j] = (ahead.gradient - found.gradient) / steps[i]
    return out
