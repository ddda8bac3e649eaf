"""Quasi-Newton minimisation that starts from a good Hessian."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy import linalg

Array = np.ndarray
Objective = Callable[[Array], "tuple[float, Array] | None"]
"""Point (k,) to value and gradient (k,), or None where the function is not defined."""
Limit = Callable[[Array, Array], float]
"""Point and step (k,) to the largest part of the step to try, at most 1."""

DECREMENT = 1e-9
ITERATIONS = 60
ROUNDS = 6
SMALLEST_STEP = 2.0**-30


@dataclass(frozen=True)
class Optimum:
    """Where the search ended: point, value, gradient, last Hessian approximation, evaluations, and why it stopped."""

    x: Array
    value: float
    gradient: Array
    hessian: Array
    evaluations: int
    message: str


def minimise(
    objective: Objective, x: Array, hessian: Array, *, decrement: float = DECREMENT, limit: Limit | None = None
) -> Optimum:
    """BFGS with backtracking from x (k,) and a first Hessian (k, k); stops when g' H^-1 g falls below ``decrement``.

    ``limit`` shortens steps that would move the model too far at once.
    """
    here = objective(x)
    if here is None:
        raise FloatingPointError("the objective is not finite at the start")
    value, gradient = here
    count, message = 1, "iteration limit"
    for _ in range(ITERATIONS):
        step, expected = newton_step(hessian, gradient)
        if expected < decrement:
            message = "gradient is zero"
            break
        found, used = _backtrack(objective, x, value, step, expected, 1.0 if limit is None else limit(x, step))
        count += used
        if found is None:
            message = "no further descent along the search direction"
            break
        size, (next_value, next_gradient) = found
        hessian = bfgs_update(hessian, size * step, next_gradient - gradient)
        x, value, gradient = x + size * step, next_value, next_gradient
    return Optimum(x, value, gradient, hessian, count, message)


def newton_step(hessian: Array, gradient: Array) -> tuple[Array, float]:
    """Step -H^-1 g and decrement g' H^-1 g, with H made positive definite where it is not."""
    try:
        factor = linalg.cho_factor(hessian, lower=True, check_finite=False)
    except linalg.LinAlgError:
        factor = linalg.cho_factor(make_positive(hessian), lower=True, check_finite=False)
    step = -linalg.cho_solve(factor, gradient, check_finite=False)
    return step, -float(step @ gradient)


def _backtrack(
    objective: Objective, x: Array, value: float, step: Array, expected: float, size: float
) -> tuple[tuple[float, tuple[float, Array]] | None, int]:
    """First of ``size`` and shorter ones that descends enough (Armijo), with the values there."""
    count = 0
    while size > SMALLEST_STEP:
        there = objective(x + size * step)
        count += 1
        if there is not None and there[0] <= value - 1e-4 * size * expected + 1e-13 * abs(value):
            return (size, there), count
        size = _shorter(size, value, expected, None if there is None else there[0])
    return None, count


def _shorter(size: float, value: float, expected: float, reached: float | None) -> float:
    """Minimiser of the parabola through both values and the slope, kept within a tenth and a half of ``size``."""
    if reached is None or not np.isfinite(reached):
        return 0.25 * size
    curvature = 2 * (reached - value + size * expected)
    best = size**2 * expected / curvature if curvature > 0 else 0.5 * size
    return float(np.clip(best, 0.1 * size, 0.5 * size))


def bfgs_update(hessian: Array, step: Array, change: Array) -> Array:
    """BFGS update, damped where the curvature along the step is not positive (Powell 1978)."""
    pushed = hessian @ step
    curvature, old = float(step @ change), float(step @ pushed)
    if curvature < 0.2 * old:
        mix = 0.8 * old / (old - curvature)
        change = mix * change + (1 - mix) * pushed
        curvature = 0.2 * old
    return hessian - np.outer(pushed, pushed) / old + np.outer(change, change) / curvature


def make_positive(hessian: Array, floor: float = 1e-4) -> Array:
    """Nearest usable Hessian (k, k): in units of its diagonal, eigenvalues by absolute value and at least ``floor``."""
    finite = np.isfinite(np.diag(hessian))
    if not np.all(np.isfinite(hessian)):
        hessian = np.where(np.outer(finite, finite), np.nan_to_num(hessian), 0.0) + np.diag(~finite * 1.0)
    scale = np.sqrt(np.maximum(np.abs(np.diag(hessian)), 1e-300))
    values, vectors = np.linalg.eigh(hessian / np.outer(scale, scale))
    if values[0] > floor:
        return hessian
    return np.asarray(np.outer(scale, scale) * ((vectors * np.maximum(np.abs(values), floor)) @ vectors.T))


def positive_inverse(matrix: Array, tolerance: float = 1e-8) -> Array:
    """Inverse (k, k) over the directions whose eigenvalue is positive, in units of the diagonal."""
    if len(matrix) == 0:
        return matrix
    scale = np.sqrt(np.maximum(np.abs(np.diag(matrix)), 1e-300))
    values, vectors = np.linalg.eigh(matrix / np.outer(scale, scale))
    good = values > tolerance * max(values.max(), tolerance)
    inverse: Array = (vectors[:, good] / values[good]) @ vectors[:, good].T / np.outer(scale, scale)
    return inverse


def leave_saddle(objective: Objective, optimum: Optimum) -> Array:
    """The optimum's point or, where its Hessian has a clearly negative direction, a lower point along it."""
    scale = np.sqrt(np.maximum(np.abs(np.diag(optimum.hessian)), 1e-300))
    if not np.all(np.isfinite(optimum.hessian)):
        return optimum.x
    values, vectors = np.linalg.eigh(optimum.hessian / np.outer(scale, scale))
    if values[0] > -1e-6:
        return optimum.x
    for size in (1.0, 0.3, 0.1, 0.03, -1.0, -0.3, -0.1, -0.03):
        there = objective(optimum.x + size * vectors[:, 0] / scale)
        if there is not None and there[0] < optimum.value - 1e-9:
            return optimum.x + size * vectors[:, 0] / scale
    return optimum.x


def polish(
    objective: Objective, optimum: Optimum, hessian_at: Callable[[Array], Array], *, decrement: float, moved: float,
    limit: Limit | None = None,
) -> Optimum:
    """Steps with the exact Hessian, made again until the way s from it was short (s'Hs up to ``moved``).

    Saddles are left downhill. The Hessian (k, k) of the answer was made within that way of its point.
    """
    optimum = replace(optimum, hessian=hessian_at(optimum.x))
    for _ in range(ROUNDS):
        positive = make_positive(optimum.hessian, 1e-6)
        start = leave_saddle(objective, optimum)
        found = minimise(objective, start, positive, decrement=decrement, limit=limit)
        way = found.x - optimum.x
        if way @ positive @ way <= moved:
            return replace(found, hessian=optimum.hessian, evaluations=optimum.evaluations + found.evaluations)
        optimum = replace(found, hessian=hessian_at(found.x), evaluations=optimum.evaluations + found.evaluations)
    return optimum
