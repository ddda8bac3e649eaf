"""Evidence that a search ended at a maximum of the Laplace likelihood, and what to suspect where it did not."""

from __future__ import annotations

import numpy as np

from canopy_stats.mixed import laplace
from canopy_stats.mixed.blocks import Array
from canopy_stats.mixed.certificate import Certificate
from canopy_stats.mixed.formula import Design, Factor, FixedPart
from canopy_stats.mixed.laplace import Problem
from canopy_stats.mixed.optimise import Optimum, make_positive, newton_step

ZERO = 1e-3
EDGE = 12.0


def boundary(problem: Problem, omega: Array) -> dict[int, str]:
    """Places in omega of vanishing diagonals, with a name for each."""
    first, found = len(omega) - problem.sizes[3], {}
    for factor in problem.factors:
        for a, name in enumerate(factor.terms):
            place = first + int(factor.pattern[a, a])
            if abs(omega[place]) < ZERO * _unit(factor, a):
                found[place] = f"{name} | {factor.name}"
    return found


def _unit(factor: Factor, a: int) -> float:
    """Scale of a variance component: one over the root mean square of its column."""
    return 1.0 / max(float(np.sqrt(np.mean(factor.columns[:, a] ** 2))), 1e-300)


def certify(problem: Problem, names: list[str], optimum: Optimum, evaluations: int) -> Certificate:
    """Evidence at the optimum; at a vanishing variance the curvature in the SD is the slope in the variance."""
    hessian, gradient = optimum.hessian, optimum.gradient
    at_zero = boundary(problem, optimum.x)
    inside = np.array([i not in at_zero for i in range(len(optimum.x))])
    block = hessian[np.ix_(inside, inside)]
    scale = np.sqrt(np.abs(np.diag(block)))
    positive = bool(np.all(np.isfinite(block)) and np.linalg.eigvalsh(block / np.outer(scale, scale))[0] > 1e-9)
    distance = float(np.sqrt(max(0.0, newton_step(make_positive(block, 1e-9), gradient[inside])[1])))
    slopes = {name: -float(hessian[i, i]) / 2 for i, name in at_zero.items()}
    blame = culprits(problem, names, optimum, inside, positive)
    return Certificate("quasi-Newton", optimum.message, evaluations, distance, positive, slopes, None, blame)


def parameter_names(problem: Problem, design: Design, dispersion: FixedPart) -> list[str]:
    """Names of all parameters, in the order of omega."""
    names = [*design.fixed.names, *(f"dispersion {name}" for name in dispersion.names)]
    names += ["first threshold", "gap of the thresholds"][: problem.family.n_cut]
    theta = [""] * problem.sizes[3]
    for factor in problem.factors:
        for a, b in np.argwhere(factor.pattern >= 0):
            pair = factor.terms[a] if a == b else f"{factor.terms[b]}, {factor.terms[a]}"
            theta[factor.pattern[a, b]] = f"random {pair} | {factor.name}"
    return names + theta


def culprits(problem: Problem, names: list[str], optimum: Optimum, inside: Array, positive: bool) -> tuple[str, ...]:
    """What to suspect: linear predictors at the edge (separation), and the parameters of a flat direction."""
    found = []
    eta = laplace.fixed_eta(problem, laplace.split(problem, optimum.x))
    far = int(np.sum(np.abs(eta) > EDGE)) if problem.family.name != "gaussian" else 0
    if far:
        found.append(f"{far} rows have a linear predictor beyond {EDGE:g} on the logit scale: suspect separation.")
    if not positive:
        block = np.nan_to_num(optimum.hessian[np.ix_(inside, inside)])
        scale = np.sqrt(np.maximum(np.abs(np.diag(block)), 1e-300))
        flat = np.abs(np.linalg.eigh(block / np.outer(scale, scale))[1][:, 0])
        blamed = [name for name, size in zip(np.array(names)[inside], flat, strict=True) if size > 0.3]
        found.append(f"the likelihood is flat along: {'; '.join(blamed)}. Drop or merge one of these terms.")
    return tuple(found)
