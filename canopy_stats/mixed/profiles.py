"""Profile-likelihood intervals: where the likelihood-ratio test of one parameter just rejects."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from canopy_stats.mixed import evidence, laplace
from canopy_stats.mixed.blocks import Array
from canopy_stats.mixed.fit import Fit
from canopy_stats.mixed.generalised import Objective, search
from canopy_stats.mixed.modes import Problem
from canopy_stats.mixed.optimise import make_positive, minimise
from canopy_stats.schema import UserError

ROUNDS = 30


@dataclass(frozen=True)
class Likelihood:
    """A maximised likelihood: problem, estimates omega (k,), names, value, and Hessian of its negative (k, k)."""

    problem: Problem
    omega: Array
    names: list[str]
    value: float
    hessian: Array


def profile(fit: Fit, terms: list[str] | None = None, *, level: float = 0.95) -> pd.DataFrame:
    """Profile intervals, one row a parameter: term, estimate, conf_low, conf_high, wald_low, wald_high.

    ``terms`` are names as in ``params``; dispersion terms as 'dispersion x', zero parts as 'zero x', standard
    deviations of single random columns as 'random Intercept | group'. Default: all coefficients of the mean. Linear
    mixed models are profiled by maximum likelihood, as lme4 does.
    """
    found = likelihood(fit)
    asked = list(fit.design.fixed.names) if terms is None else terms
    unknown = [name for name in asked if name not in found.names]
    if unknown:
        raise UserError(f"Cannot profile {', '.join(unknown)}; the parameters are: {', '.join(found.names)}.")
    return pd.DataFrame([_profile_row(found, found.names.index(name), level) for name in asked])


def likelihood(fit: Fit) -> Likelihood:
    """The Laplace likelihood of a fit; of the maximum-likelihood gaussian model for a linear mixed model."""
    problem, start, frame = fit.way.marginal(fit)
    optimum, _ = search(problem, start)
    names = evidence.parameter_names(problem, frame)
    return Likelihood(problem, optimum.x, names, -optimum.value, optimum.hessian)


def _profile_row(found: Likelihood, j: int, level: float) -> dict[str, float | str]:
    z = float(stats.norm.ppf((1 + level) / 2))
    se = float(np.sqrt(np.linalg.inv(make_positive(found.hessian))[j, j]))
    lower, upper = (_endpoint(found, j, side * z * se, z) for side in (-1, 1))
    estimate = float(found.omega[j])
    return {
        "term": found.names[j], "estimate": estimate, "conf_low": lower, "conf_high": upper,
        "wald_low": estimate - z * se, "wald_high": estimate + z * se,
    }


def _endpoint(found: Likelihood, j: int, move: float, z: float) -> float:
    """Value of parameter j where twice the drop of the profile log-likelihood is z^2, by Newton's method.

    The profile's slope is the gradient's component (envelope theorem). A standard deviation stops at zero.
    """
    start, value = found.omega, float(found.omega[j] + move)
    deviation = j >= found.problem.sizes.fixed
    for _ in range(ROUNDS):
        if deviation and value <= 0:
            value = 0.0
        point = _constrained(found, j, value, start)
        if point is None:
            return float("nan")
        drop = found.value - point[1]
        if deviation and value == 0.0 and 2 * drop < z**2:
            return 0.0
        root = np.sqrt(max(2 * drop, 1e-12))
        slope = -point[2][j] / root
        step = (z - root) / slope if slope != 0 else np.sign(move) * abs(move) / 4
        value, start = value + float(np.clip(step, -abs(move), abs(move))), point[0]
        if abs(step) < 1e-6 * abs(move):
            break
    return value


def _constrained(found: Likelihood, j: int, value: float, start: Array) -> tuple[Array, float, Array] | None:
    """Maximum over the other parameters with parameter j held: omega, log-likelihood, gradient."""
    free = np.arange(len(start)) != j
    hessian = make_positive(found.hessian[np.ix_(free, free)])
    omega = start.copy()
    omega[free] -= np.linalg.solve(hessian, found.hessian[free, j]) * (value - start[j])
    omega[j] = value
    objective = Objective(found.problem)

    def part(x: Array) -> tuple[float, Array] | None:
        at = omega.copy()
        at[free] = x
        there = objective(at)
        return None if there is None else (there[0], there[1][free])

    if part(omega[free]) is None:
        omega[free] = start[free]
        if part(omega[free]) is None:
            return None
    best = minimise(part, omega[free], hessian, decrement=1e-9)
    omega[free] = best.x
    there = laplace.evaluate(found.problem, omega, objective.best.mode.u if objective.best else None)
    return None if there is None else (omega, there.value, there.gradient)
