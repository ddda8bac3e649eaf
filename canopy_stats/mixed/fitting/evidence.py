"""Evidence that a search ended at a maximum of the Laplace likelihood, and what to suspect where it did not."""

from __future__ import annotations

import numpy as np

from canopy_stats.mixed.algebra.blocks import Array
from canopy_stats.mixed.algebra.covariance import boundary_slopes, theta_names, vanished
from canopy_stats.mixed.algebra.optimise import Optimum, make_positive, newton_step, positive_inverse
from canopy_stats.mixed.certificate import LAPLACE, Certificate
from canopy_stats.mixed.fitting import laplace
from canopy_stats.mixed.fitting.modes import Problem
from canopy_stats.mixed.fitting.start import zero_theta
from canopy_stats.mixed.model_frame import ModelFrame


def certify(problem: Problem, names: list[str], optimum: Optimum, evaluations: int) -> Certificate:
    """Evidence at the optimum; at a vanishing variance the curvature in the SD is the slope in the variance."""
    hessian, gradient = optimum.hessian, optimum.gradient
    first, parts = problem.sizes.fixed, laplace.split(problem, optimum.x)
    columns = vanished(problem.factors, parts.theta, zero_theta(problem, parts.delta))
    inside = np.ones(len(optimum.x), dtype=bool)
    inside[[first + place for places in columns.values() for place in places]] = False
    block = hessian[np.ix_(inside, inside)]
    positive = positive_definite(block) and not _runs_away(problem, optimum)
    distance = float(np.sqrt(max(0.0, newton_step(make_positive(block, 1e-9), gradient[inside])[1])))
    slopes = boundary_slopes(columns, hessian, first)
    blame = culprits(problem, names, optimum, inside, positive)
    return Certificate("quasi-Newton", optimum.message, evaluations, distance, positive, slopes, None, blame, LAPLACE)


def positive_definite(block: Array, tolerance: float = 1e-9) -> bool:
    """Whether a Hessian (k, k), in units of its diagonal, is finite and positive definite."""
    if not np.all(np.isfinite(block)) or np.any(np.diag(block) <= 0):
        return False
    scale = np.sqrt(np.diag(block))
    return bool(np.linalg.eigvalsh(block / np.outer(scale, scale)).min(initial=1.0) > tolerance)


def _far(problem: Problem, omega: Array) -> Array:
    """Which rows' linear predictors (n,) are outside the family's range."""
    low, high = problem.family.eta_range
    eta = laplace.fixed_eta(problem, laplace.split(problem, omega))
    return np.asarray((eta < low) | (eta > high))


def _runs_away(problem: Problem, optimum: Optimum) -> bool:
    """Whether a predictor is outside the family's range and yet within two of its standard errors from zero.

    So it is under complete separation: the likelihood flattens out, and a search ends where it sees no slope any more.
    """
    far, p = _far(problem, optimum.x), problem.sizes.beta
    if not far.any() or not np.all(np.isfinite(optimum.hessian)):
        return False
    rows = problem.x[far]
    spread = np.einsum("na,ab,nb->n", rows, positive_inverse(optimum.hessian)[:p, :p], rows)
    return bool(np.any((rows @ optimum.x[:p]) ** 2 < 4 * spread))


def parameter_names(problem: Problem, frame: ModelFrame) -> list[str]:
    """Names of all parameters, in the order of omega."""
    dispersion = () if frame.dispersion is None else frame.dispersion.names
    names = [*frame.design.fixed.names, *(f"dispersion {name}" for name in dispersion)]
    zero = () if frame.zero_inflation is None else frame.zero_inflation.names
    names += [*(f"zero {name}" for name in zero), *frame.family.cuts.parameters]
    return names + theta_names(problem.factors)


def _at_the_edge(problem: Problem, names: list[str], omega: Array) -> list[str]:
    """Rows whose mean or precision runs away, with the column that drives the precision."""
    parts, found, family = laplace.split(problem, omega), [], problem.family
    kappa, far, (low, high) = problem.w @ parts.delta, int(_far(problem, omega).sum()), family.eta_range
    sharp = (kappa < family.kappa_range[0]) | (kappa > family.kappa_range[1])
    if far:
        found.append(f"{far} rows have a linear predictor outside {low:g} to {high:g} on the {family.link} scale:"
                     " suspect separation.")
    if np.any(sharp):
        pull = np.abs(parts.delta) * np.abs(problem.w[sharp]).mean(axis=0)
        name = names[len(parts.beta) + int(np.argmax(pull))]
        found.append(
            f"{int(sharp.sum())} rows have an extreme dispersion ({family.dispersion}), driven by {name}:"
            f" {family.sharp} Otherwise merge this level or drop the term."
        )
    return found


def flat_direction(block: Array, names: Array) -> list[str]:
    """Parameters with unknown curvature, or else those that make up the flattest direction of a Hessian (k, k)."""
    unknown = ~np.isfinite(np.diag(block)) | (np.diag(block) == 0)
    if np.any(unknown):
        return [str(name) for name in names[unknown]]
    scale = np.sqrt(np.abs(np.diag(block)))
    weights = np.abs(np.linalg.eigh(np.nan_to_num(block) / np.outer(scale, scale))[1][:, 0])
    return [str(name) for name in names[weights > 0.3]]


def culprits(problem: Problem, names: list[str], optimum: Optimum, inside: Array, positive: bool) -> tuple[str, ...]:
    """What to suspect: predictors at the edge (separation), and the parameters of a flat direction."""
    found = _at_the_edge(problem, names, optimum.x)
    if not positive:
        blamed = flat_direction(optimum.hessian[np.ix_(inside, inside)], np.array(names)[inside])
        found.append(f"the likelihood is flat along: {'; '.join(blamed)}. Drop or merge one of these terms.")
    return tuple(found)
