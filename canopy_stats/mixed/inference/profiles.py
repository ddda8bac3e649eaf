"""Profile-likelihood intervals: where the likelihood-ratio test of one parameter just rejects."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy import stats

from canopy_stats.mixed.algebra.blocks import Array, make_layout, templates
from canopy_stats.mixed.algebra.coordinates import lower_root
from canopy_stats.mixed.algebra.optimise import make_positive, minimise
from canopy_stats.mixed.fit import Fit
from canopy_stats.mixed.fitting import evidence, laplace
from canopy_stats.mixed.fitting.generalised import LaplaceObjective, search
from canopy_stats.mixed.fitting.modes import Problem
from canopy_stats.mixed.fitting.standard import Standard, standardise
from canopy_stats.mixed.fitting.start import smallest_theta
from canopy_stats.mixed.formulas.grouping import Factor
from canopy_stats.mixed.inference.quantities import Combination, Correlation, Quantity, foremost, linear
from canopy_stats.schema import UserError

ROUNDS = 30


@dataclass(frozen=True)
class Likelihood:
    """A maximised likelihood in columns without units: estimates omega (k,), value, Hessian of its negative (k, k).

    ``names`` are those of the natural parameters, ``natural`` the grouping factors with the natural columns.
    """

    own: Standard
    omega: Array
    names: list[str]
    value: float
    hessian: Array
    natural: tuple[Factor, ...]

    @property
    def problem(self) -> Problem:
        return self.own.problem


def profile(fit: Fit, terms: list[str] | None = None, *, level: float = 0.95) -> pd.DataFrame:
    """Profile intervals, one row a parameter: term, estimate, conf_low, conf_high, wald_low, wald_high.

    ``terms`` are names as in ``params``; dispersion terms as 'dispersion x', zero parts as 'zero x', standard
    deviations of random columns as 'sd x | group' and their correlations as 'cor a, b | group' (or both with 'random'
    in the place of the first word). Default: all coefficients of the mean. Linear mixed models are profiled by maximum
    likelihood, as lme4 does.
    """
    found = likelihood(fit)
    asked = list(fit.design.fixed.names) if terms is None else list(terms)
    shown = _shown(found)
    places = {name: j for names in (found.names, shown) for j, name in enumerate(names)}
    unknown = [name for name in asked if name not in places]
    if unknown:
        raise UserError(f"Cannot profile {', '.join(unknown)}; the parameters are: {', '.join(shown)}.")
    return pd.DataFrame([{"term": name} | _row(found, places[name], level) for name in asked])


def _shown(found: Likelihood) -> list[str]:
    """Names of the parameters, 'sd a | group' and 'cor a, b | group' for the random part."""
    names, first = list(found.names), found.problem.sizes.fixed
    for factor in found.problem.factors:
        for a, b in np.argwhere(factor.pattern >= 0):
            place = first + int(factor.pattern[a, b])
            names[place] = names[place].replace("random", "sd" if a == b else "cor", 1)
    return names


def likelihood(fit: Fit) -> Likelihood:
    """The Laplace likelihood of a fit; of the maximum-likelihood gaussian model for a linear mixed model."""
    problem, start, frame = fit.way.marginal(fit)
    own = standardise(problem)
    optimum, _ = search(own.problem, own.standard(start))
    return Likelihood(own, optimum.x, evidence.parameter_names(problem, frame), -optimum.value, optimum.hessian,
                      problem.factors)


def _row(found: Likelihood, j: int, level: float) -> dict[str, float]:
    """Estimate and intervals of the parameter at place j: a coefficient, or the sd or correlation of a theta entry."""
    first = found.problem.sizes.fixed
    if j >= first:
        found, quantity = _turned(found, j - first)
    else:
        quantity = linear(np.append(found.own.back[j], np.zeros(len(found.omega) - first)))
    z = float(stats.norm.ppf((1 + level) / 2))
    x = quantity.start(found.omega)
    estimate, se = float(x[quantity.place]), quantity.error(found.omega, np.linalg.inv(make_positive(found.hessian)))
    low, high = (_endpoint(found, quantity, side * z * se, z) for side in (-1, 1))
    return {"estimate": estimate, "conf_low": low, "conf_high": high,
            "wald_low": estimate - z * se, "wald_high": estimate + z * se}


def _turned(found: Likelihood, entry: int) -> tuple[Likelihood, Quantity]:
    """The likelihood with the random columns of a theta entry put first in their block, and without the others' share.

    There the first diagonal of the covariance factor is the first column's standard deviation, up to a unit, and the
    second row is (rho s, sqrt(1 - rho^2) s) of the second column.
    """
    own, first = found.own, found.problem.sizes.fixed
    k, a, b = next((k, int(a), int(b)) for k, f in enumerate(found.natural) for a, b in np.argwhere(f.pattern == entry))
    factor = found.natural[k]
    columns, inward, block = foremost(factor, list(dict.fromkeys([b, a])))
    factors = tuple(replace(f, columns=columns) if i == k else f for i, f in enumerate(own.problem.factors))
    problem = replace(own.problem, factors=factors, layout=make_layout(factors))
    root = own.outward[k] @ templates(own.problem.factors, found.omega[first:])[k]
    omega, used = found.omega.copy(), factor.pattern >= 0
    omega[first + factor.pattern[used]] = lower_root(inward @ root)[used]
    optimum, _ = search(problem, _raised(problem, omega))
    found = replace(found, own=replace(own, problem=problem), omega=optimum.x, hessian=optimum.hessian,
                    value=max(-optimum.value, found.value))
    top = first + int(factor.pattern[block[0], block[0]])
    if a == b:
        unit = np.zeros(len(omega))
        unit[top] = 1 / inward[block[0], a]
        return found, linear(unit, low=0.0)
    return found, Correlation(first + int(factor.pattern[block[1], block[0]]),
                              first + int(factor.pattern[block[1], block[1]]))


def _endpoint(found: Likelihood, quantity: Quantity, move: float, z: float) -> float:
    """Value of the parameter where twice the drop of the profile log-likelihood is z^2, by Newton's method.

    The profile's slope is the gradient's component (envelope theorem). A parameter stops at the end of its range.
    """
    start, place = quantity.start(found.omega), quantity.place
    value = float(start[place] + move)
    for _ in range(ROUNDS):
        edge = not quantity.low < value < quantity.high
        value = float(np.clip(value, quantity.low, quantity.high))
        point = _constrained(found, quantity, value, start)
        if point is None:
            return float("nan")
        drop = found.value - point[1]
        if edge and 2 * drop < z**2:
            return value
        root = np.sqrt(max(2 * drop, 1e-12))
        slope = -point[2][place] / root
        step = (z - root) / slope if slope != 0 else -np.sign(move) * abs(move) / 4
        value, start = value + float(np.clip(step, -abs(move), abs(move))), point[0]
        if abs(step) < 1e-6 * abs(move):
            break
    return value


def _constrained(
    found: Likelihood, quantity: Quantity, value: float, start: Array
) -> tuple[Array, float, Array] | None:
    """Maximum over the other parameters with one held: coordinates, log-likelihood, gradient.

    A variance at zero is stationary, so a second search starts with such variances raised; the better one counts.
    """
    free, whole = np.arange(len(start)) != quantity.place, quantity.curvature(found.hessian)
    hessian = make_positive(whole[np.ix_(free, free)])
    first = start.copy()
    if isinstance(quantity, Combination):
        first[free] -= np.linalg.solve(hessian, whole[free, quantity.place]) * (value - start[quantity.place])
    first[quantity.place] = value
    raised = _raised(found.problem, first)
    raised[quantity.place] = value
    near = start.copy()
    near[quantity.place] = value
    starts = [first, near] if np.array_equal(first, raised) else [first, raised, near]
    tried: list[tuple[Array, float, Array] | None] = []
    for x in starts:  # the last one only where no other start led anywhere
        if x is not near or not any(point is not None for point in tried):
            tried.append(_maximum(found.problem, quantity, x, free, hessian))
    return max((point for point in tried if point is not None), key=lambda point: point[1], default=None)


def _maximum(
    problem: Problem, quantity: Quantity, x: Array, free: Array, hessian: Array
) -> tuple[Array, float, Array] | None:
    objective = LaplaceObjective(problem)

    def part(y: Array) -> tuple[float, Array] | None:
        at = x.copy()
        at[free] = y
        there = objective(quantity.omega(at))
        return None if there is None else (there[0], quantity.pull(at, there[1])[free])

    if part(x[free]) is None:
        return None
    best = minimise(part, x[free], hessian, decrement=1e-9)
    out = x.copy()
    out[free] = best.x
    there = laplace.evaluate(problem, quantity.omega(out), objective.best.mode.u if objective.best else None)
    return None if there is None else (out, there.value, quantity.pull(out, there.gradient))


def _raised(problem: Problem, omega: Array) -> Array:
    """omega with standard deviations near zero raised to the smallest that a search starts from."""
    first, out = problem.sizes.fixed, omega.copy()
    least = smallest_theta(problem, laplace.split(problem, omega).delta)
    diagonal = [int(f.pattern[a, a]) for f in problem.factors for a in range(len(f.terms))]
    for place in diagonal:
        out[first + place] = max(out[first + place], least[place])
    return out
