"""Starting values: a fit without random effects, moment estimates of the variances, and a first Hessian."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from canopy_stats.mixed.algebra import blocks
from canopy_stats.mixed.algebra.blocks import Array
from canopy_stats.mixed.algebra.covariance import expected_information
from canopy_stats.mixed.algebra.optimise import Limit, make_positive, minimise, newton_step
from canopy_stats.mixed.certificate import LAPLACE
from canopy_stats.mixed.fitting import laplace
from canopy_stats.mixed.fitting.laplace import Evaluation, Problem
from canopy_stats.mixed.formulas.grouping import Factor

SMALLEST = 0.05


def fixed_start(problem: Problem) -> Array:
    """Estimates (p + d + c,) of the model without random effects."""
    plain = replace(problem, factors=(), layout=None)

    def objective(omega: Array) -> tuple[float, Array] | None:
        found = laplace.evaluate(plain, omega)
        return None if found is None else (-found.value, -found.gradient)

    x = _crude(problem, plain)
    for _ in range(3):
        found = laplace.evaluate(plain, x)
        if found is None:
            break
        if newton_step(hessian := first_hessian(plain, x, found), -found.gradient)[1] < 1e-2:
            break
        x = minimise(objective, x, hessian, decrement=1e-2, limit=step_limit(plain)).x
    return x


def step_limit(problem: Problem) -> Limit:
    """Shortens steps that move eta by more than 5, kappa by more than 3, or theta by more than a half or itself."""

    def limit(omega: Array, step: Array) -> float:
        parts, moves = laplace.split(problem, omega), laplace.split(problem, step)
        unit = 5 * link_scale(problem, parts.delta)
        scaled = [np.abs(problem.x @ moves.beta) / unit, np.abs(problem.w @ moves.delta) / 3]
        scaled += [np.abs(problem.zero_design @ moves.zero) / 3, np.abs(moves.cutpoints) / 2]
        floor = np.maximum(smallest_theta(problem, parts.delta), 0.5 * np.abs(parts.theta).max(initial=0.0))
        scaled.append(np.abs(moves.theta) / np.maximum(np.abs(parts.theta), floor))
        return 1.0 / max(1.0, max(float(part.max(initial=0.0)) for part in scaled))

    return limit


def _crude(problem: Problem, plain: Problem) -> Array:
    """The family's guesses: least squares on the link scale, then one value each for everything else."""
    family, y, trials = problem.family, problem.y, problem.all_trials
    target = family.start(y, trials)
    known = np.isfinite(target)
    shift = np.zeros(len(y)) if problem.offset is None else problem.offset
    beta = _least_squares(problem.x[known], (target - shift)[known])
    residual = (target - shift - problem.x @ beta)[known]
    kappa = 0.0 if family.start_kappa is None else family.start_kappa(y[known], trials[known], residual)
    zeta = 0.0 if family.start_zeta is None else family.start_zeta(y)

    def joined(beta: Array) -> Array:
        cut = family.cuts.start(y, problem.x @ beta + shift)
        return np.concatenate([beta, _constant(problem.w, kappa), _constant(problem.zero_design, zeta), cut])

    first = joined(beta)
    if laplace.evaluate(plain, first) is not None:
        return first
    return joined(_least_squares(problem.x, np.full(len(y), np.mean(target[known])) - shift))


def _least_squares(design: Array, target: Array) -> Array:
    """Coefficients (p,) of least squares; none without columns."""
    return np.zeros(0) if design.shape[1] == 0 else np.linalg.lstsq(design, target, rcond=None)[0]


def _constant(design: Array, value: float) -> Array:
    """Coefficients (k,) that come nearest to one value in every row."""
    return _least_squares(design, np.full(len(design), value))


def random_start(problem: Problem, omega: Array) -> Array:
    """theta (t,) with diagonals from the spread of the levels' one-step estimates, at the plain fit ``omega``."""
    plain = replace(problem, factors=(), layout=None)
    found = laplace.evaluate(plain, omega)
    theta = np.zeros(problem.sizes.theta)
    for factor in problem.factors:
        at = found.mode.at if found is not None else None
        for a in range(len(factor.terms)):
            least = smallest_sd(problem, laplace.split(plain, omega).delta, factor, a)
            theta[factor.pattern[a, a]] = least if at is None else max(least, _moment_sd(factor, a, at.d1, -at.d2))
    return theta


def _moment_sd(factor: Factor, a: int, score: Array, weight: Array) -> float:
    """SD of one random column: squared scores by level beyond their information, over squared information."""
    size, z = len(factor.levels), factor.columns[:, a]
    top = np.bincount(factor.codes, z * score, size)
    info = np.bincount(factor.codes, z * z * np.maximum(weight, 0.0), size)
    variance = float(np.sum(top**2 - info) / max(np.sum(info**2), 1e-300))
    return float(np.sqrt(max(variance, 0.0)))


def link_scale(problem: Problem, delta: Array) -> float:
    """What counts as one on the scale of eta: 1 for logit and log, the residual standard deviation for gaussian."""
    return problem.family.unit(problem.w @ delta, problem.y)


def smallest_theta(problem: Problem, delta: Array) -> Array:
    """Scale (t,) of every theta: the smallest standard deviation to start from, in its row's column."""
    out = np.empty(problem.sizes.theta)
    for factor in problem.factors:
        for a, b in np.argwhere(factor.pattern >= 0):
            out[factor.pattern[a, b]] = smallest_sd(problem, delta, factor, int(a))
    return out


def zero_theta(problem: Problem, delta: Array) -> Array:
    """What counts as zero (t,) in every theta."""
    return LAPLACE.zero * smallest_theta(problem, delta)


def smallest_sd(problem: Problem, delta: Array, factor: Factor, a: int) -> float:
    """Smallest standard deviation to start from, for column a of a factor."""
    size = float(np.sqrt(np.mean(factor.columns[:, a] ** 2)))
    return SMALLEST * link_scale(problem, delta) / max(size, 1e-300)


def first_hessian(problem: Problem, omega: Array, found: Evaluation) -> Array:
    """Approximate Hessian (k, k) of the negative log-likelihood, positive definite.

    Mean and dispersion: the joint curvature with the random effects eliminated; theta: expected information of the
    working model; zero part and cutpoints: differences of the exact gradient.
    """
    sizes = problem.sizes
    first, inside = sizes.beta + sizes.delta, sizes.fixed
    out = np.eye(len(omega))
    out[:first, :first] = _joint(problem, found)
    rest = np.arange(first, inside)
    if len(rest):
        columns = -laplace.hessian(problem, omega, found, np.full(len(omega), 1e-6), rest)
        out[:inside, rest] = columns[:inside]
        out[rest, :inside] = columns[:inside].T
    out[inside:, inside:] = _theta_information(problem, found)
    return make_positive(out)


def _theta_information(problem: Problem, found: Evaluation) -> Array:
    """Expected information (t, t) on theta of the working model, kept away from zero."""
    weights = np.maximum(-found.mode.at.d2, 0.0)
    grams = [blocks.own_gram(factor, weights) for factor in problem.factors]
    out = expected_information(problem.factors, grams, found.mode.factors, problem.sizes.theta)
    return out + np.diag(np.maximum(1e-3 * np.diag(out).max(initial=0.0), 1e-6) * np.ones(len(out)))


def _joint(problem: Problem, found: Evaluation) -> Array:
    """Curvature (p + d, p + d) of mean and dispersion coefficients, random effects eliminated."""
    at, mode = found.mode.at, found.mode
    x, w = problem.x, problem.w
    left = x * -at.d2[:, None]
    out = x.T @ left
    if w.shape[1]:
        assert at.dk is not None and at.kk is not None
        left = np.hstack([left, w * -at.dk[:, None]])
        lower = np.hstack([x * -at.dk[:, None], w * np.maximum(-at.kk, 0.0)[:, None]])
        out = np.vstack([x.T @ left, w.T @ lower])
    if mode.h is not None and problem.layout is not None:
        right = [
            np.einsum("ab,lar->lbr", t, blocks.sum_by_group(f, left))
            for f, t in zip(problem.factors, mode.factors, strict=True)
        ]
        pulled = blocks.solve(problem.layout, mode.h, right)
        out -= sum(np.tensordot(r, s, axes=([0, 1], [0, 1])) for r, s in zip(right, pulled, strict=True))
    symmetric: Array = (out + out.T) / 2
    return symmetric
