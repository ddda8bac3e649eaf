"""The inner problem of a mixed model: the random effects that maximise the joint log-likelihood at given parameters.

Parameters omega = (beta, delta, zero, cutpoints, theta): eta = X beta + Z Lambda u + offset, kappa = W delta,
zeta = G zero, u ~ N(0, I). The mode maximises h(u) = sum l_i - u'u / 2, by Newton's method with H = -h''.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from canopy_stats.mixed.algebra import blocks
from canopy_stats.mixed.algebra.blocks import Array, Factorised, Layout
from canopy_stats.mixed.families import Density, Derivatives, Family, Others
from canopy_stats.mixed.formulas.grouping import Factor

NEWTON_TOLERANCE = 1e-18
NEARLY = 1e-5
NEWTON_STEPS = 40
HALVINGS = 12
LARGE_TAIL = 200
"""Tail coefficients from which on a step with an old factor of H is cheaper than a new one."""
QUICK = 0.1
"""By how much a step with an old factor has to lower the decrement."""


class Sizes(NamedTuple):
    """Numbers of coefficients: mean, dispersion, zero part, cutpoint parameters, theta."""

    beta: int
    delta: int
    zero: int
    cut: int
    theta: int

    @property
    def fixed(self) -> int:
        """All but theta."""
        return sum(self) - self.theta


@dataclass(frozen=True)
class Problem:
    """Data of one marginal likelihood.

    Response (n,), designs of mean (n, p), dispersion (n, d) and zero part (n, g), factors, trials (n,); ``quadrature``
    is the number of adaptive Gauss-Hermite nodes (1: Laplace's approximation).
    """

    family: Family
    y: Array
    x: Array
    w: Array
    factors: tuple[Factor, ...]
    layout: Layout | None
    offset: Array | None = None
    weights: Array | None = None
    trials: Array | None = None
    g: Array | None = None
    quadrature: int = 1

    @property
    def zero_design(self) -> Array:
        """Columns (n, g) of the zero part, none where there is none."""
        return np.zeros((len(self.y), 0)) if self.g is None else self.g

    @property
    def all_trials(self) -> Array:
        return np.ones(len(self.y)) if self.trials is None else self.trials

    @property
    def sizes(self) -> Sizes:
        n_theta = 1 + max((int(f.pattern.max()) for f in self.factors), default=-1)
        return Sizes(self.x.shape[1], self.w.shape[1], self.zero_design.shape[1], self.family.n_cut, n_theta)


@dataclass(frozen=True)
class Parts:
    """omega split into its five parts."""

    beta: Array
    delta: Array
    zero: Array
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


def split(problem: Problem, omega: Array) -> Parts:
    """omega (k,) into mean, dispersion, zero part, cutpoints and theta."""
    ends = np.cumsum(problem.sizes)[:-1]
    return Parts(*np.split(omega, ends))


def fixed_eta(problem: Problem, parts: Parts) -> Array:
    """X beta + offset (n,)."""
    eta = problem.x @ parts.beta
    total: Array = eta if problem.offset is None else eta + problem.offset
    return total


def find_mode(
    problem: Problem, parts: Parts, start: list[Array] | None = None, near: Factorised | None = None
) -> Mode | None:
    """Newton's method for the random effects, halving steps that do not climb.

    Where factorising H is the larger part of a step, those from ``start`` take the H of parameters nearby, ``near``, as
    long as it brings them quickly to the mode.
    """
    density = weighted(problem, parts)
    fixed = fixed_eta(problem, parts)
    if problem.layout is None:
        at = density(fixed, 3)
        return Mode([], at, None, float(at.value.sum()), [], 0) if np.all(np.isfinite(at.value)) else None
    t = blocks.templates(problem.factors, parts.theta)
    u = start if start is not None else [np.zeros((len(f.levels), len(f.terms))) for f in problem.factors]
    near = near if problem.layout.m >= LARGE_TAIL else None
    return _newton(problem, problem.layout, density, fixed, t, u, near)


def weighted(problem: Problem, parts: Parts) -> Density:
    """The family's density at the parts' dispersion, zero part and cutpoints, times the prior weights."""
    zeta = problem.zero_design @ parts.zero
    others = Others(problem.w @ parts.delta, zeta, parts.cutpoints, problem.all_trials)
    plain = problem.family.bind(problem.y, others)
    weights = problem.weights
    if weights is None:
        return plain
    return lambda eta, order: plain(eta, order).times(weights)


def _newton(
    problem: Problem, layout: Layout, density: Density, fixed: Array, t: list[Array], u: list[Array],
    near: Factorised | None,
) -> Mode | None:
    order, last = 2, np.inf
    at, value = joint_at(problem, density, fixed, t, u, order)
    if not np.isfinite(value):
        u = [np.zeros_like(part) for part in u]
        at, value = joint_at(problem, density, fixed, t, u, order)
    for count in range(NEWTON_STEPS):
        h, observed = (near, True) if near is not None else _curvature(layout, at, t)
        if h is None or not np.isfinite(value):
            return None
        score = _score(problem, at, t, u)
        step = blocks.solve(layout, h, score)
        decrement = sum(float(np.vdot(s, g)) for s, g in zip(step, score, strict=True))
        if near is not None and not decrement < QUICK * last:
            near = None
            continue
        tolerance = NEWTON_TOLERANCE * (1 + abs(value))
        if decrement < tolerance and at.d3 is not None:
            if near is not None:
                return accept(layout, u, at, value, t, count)
            return Mode(u, at, h, value, t, count) if observed else None
        soon = tolerance * last if near is not None and np.isfinite(last) else NEARLY * decrement
        order = 3 if decrement**2 <= soon else 2
        last = decrement
        moved = _climb(problem, density, fixed, t, u, step, value, order)
        if moved is None:
            at, value = joint_at(problem, density, fixed, t, u, 3)
            return accept(layout, u, at, value, t, count) if decrement < 1e-8 else None
        u, at, value = moved
    return None


def accept(layout: Layout, u: list[Array], at: Derivatives, value: float, t: list[Array], steps: int) -> Mode | None:
    """The mode, provided that the observed curvature is positive definite there."""
    h, observed = _curvature(layout, at, t)
    return Mode(u, at, h, value, t, steps) if observed else None


def joint_at(
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
        at, reached = joint_at(problem, density, fixed, t, there, order)
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


def column_sums(design: Array, values: Array | None) -> Array:
    """design' values (k,); zeros where the family has no such derivative."""
    return np.zeros(design.shape[1]) if values is None or design.shape[1] == 0 else values @ design


def other_gradients(problem: Problem, first: Derivatives, at: Derivatives, moved: Array, bent: Array) -> Array:
    """Gradient in the coefficients of dispersion and zero part and the cutpoint parameters, one after another.

    ``first`` holds the first derivatives; ``moved`` (n,) multiplies the derivatives mixed once with eta, ``bent`` (n,)
    minus those mixed twice, both at the mode.
    """
    rows = ((problem.w, first.k1, at.dk, at.ddk), (problem.zero_design, first.z1, at.dz, at.ddz))
    out = [
        np.zeros(design.shape[1]) if a is None or b is None or c is None or design.shape[1] == 0
        else (a + moved * b - bent * c) @ design
        for design, a, b, c in rows
    ]
    if first.cut1 is not None and at.dcut is not None and at.ddcut is not None:
        out.append(first.cut1.sum(axis=0) + moved @ at.dcut - bent @ at.ddcut)
    return np.concatenate(out)
