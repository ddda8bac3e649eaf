"""Mixed models with a dispersion model (beta, ordered beta, gaussian) by Laplace-approximate likelihood."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from canopy_stats.mixed import blocks, checks, evidence, laplace
from canopy_stats.mixed.blocks import Array
from canopy_stats.mixed.certificate import TOLERANCE, Certificate
from canopy_stats.mixed.covariance import canonical_theta
from canopy_stats.mixed.family import get_family, ordbeta_cutpoints, ordbeta_jacobian
from canopy_stats.mixed.fit import Fit
from canopy_stats.mixed.formula import Design, FixedPart, build_design, fixed_part, formula_variables, refuse_unread
from canopy_stats.mixed.frames import as_pandas, row_vector
from canopy_stats.mixed.laplace import Evaluation, Problem
from canopy_stats.mixed.optimise import Optimum, leave_saddle, make_positive, minimise, newton_step
from canopy_stats.mixed.parse import parse_right
from canopy_stats.mixed.satterthwaite import positive_inverse
from canopy_stats.mixed.start import first_hessian, fixed_start, random_start, smallest_theta, step_limit, zero_theta
from canopy_stats.schema import UserError

POLISH = 1e-12
LONG = 1e-5
ROUNDS = 6


@dataclass
class Objective:
    """Negative Laplace log-likelihood and gradient; keeps the best inner maximum as the next one's start."""

    problem: Problem
    best: Evaluation | None = None
    count: int = 0

    def __call__(self, omega: Array) -> tuple[float, Array] | None:
        found = laplace.evaluate(self.problem, omega, self.best.mode.u if self.best is not None else None)
        self.count += 1
        if found is None or not np.isfinite(found.value):
            return None
        if self.best is None or found.value >= self.best.value - 1e-9 * abs(found.value):
            self.best = found
        return -found.value, -found.gradient

    def evaluate(self, omega: Array) -> Evaluation:
        """Everything at a point that was reached before; UserError where it is not defined any more."""
        found = laplace.evaluate(self.problem, omega, self.best.mode.u if self.best is not None else None)
        if found is None:
            raise UserError("The likelihood is not defined around its maximum; rescale the columns or simplify.")
        return found


def glmm(formula: str, data: pd.DataFrame, *, family: str = "beta", dispersion: str = "~ 1",
         weights: Array | str | None = None, offset: Array | str | None = None,
         reference: Mapping[str, str] | None = None, squeeze: float | None = None, certify: bool = False) -> Fit:
    """Fit a mixed model with a dispersion model by Laplace-approximate maximum likelihood.

    Parameters
    ----------
    formula, data, reference
        As for ``lmm``; a formula without random terms is allowed.
    family : {"beta", "ordbeta", "gaussian"}
        beta for 0 < y < 1, ordbeta where exact zeros and ones occur (logit link both), gaussian for any response.
    dispersion : str
        Right-hand side for log phi (beta, ordbeta) or log sigma^2 (gaussian).
    weights, offset : array (n,) or column name, optional
        Prior weights (multiply a row's log-likelihood) and a known part of the linear predictor.
    squeeze : float, optional
        Move responses into [squeeze, 1 - squeeze] first; the number of moved rows is in ``fit.notes``.
    certify : bool
        Also fit from a second start and compare (about doubles the time).
    """
    data = as_pandas(data, formula)
    others = formula_variables(parse_right(dispersion, "dispersion model"))
    design = build_design(formula, data, reference=reference, other_columns=others)
    refuse_unread(design, family)
    design, notes = _squeezed(design, squeeze)
    part = dispersion_part(dispersion, data, design.reference)
    design = replace(design, data=data[list({*design.data.columns, *formula_variables(part.formula)})])
    fit = fit_design(design, part, family=family, notes=notes, certify=certify,
                     weights=row_vector(weights, data, "weights", positive=True),
                     offset=row_vector(offset, data, "offset"))
    return replace(fit, offset_name=offset if isinstance(offset, str) else None)


def refit(fit: Fit, y: Array) -> Fit:
    """The same model for another response (n,), searched from the fit's estimates."""
    if y.shape != fit.design.y.shape or not np.all(np.isfinite(y)):
        raise UserError(f"refit() needs {fit.nobs} finite numbers, one for each row of the fit.")
    assert fit.dispersion is not None
    design = replace(fit.design, y=y)
    start = restart(fit) if get_family(fit.family, y).n_cut == len(fit.cut_parameters) else None
    return fit_design(design, fit.dispersion, family=fit.family, weights=fit.weights, offset=fit.offset,
                      notes=fit.notes, start=start)


def estimate_again(fit: Fit, y: Array) -> Fit:
    """The estimates alone for another response (n,): no standard errors and no certificate, for resampling.

    Starts from the fit and its curvature, so that few evaluations are needed. Raises UserError where the search fails.
    """
    problem = replace(fit.problem, y=y, family=get_family(fit.family, y))
    if problem.sizes != fit.problem.sizes or not np.all(np.isfinite(fit.full_covariance)):
        return refit(fit, y)
    curvature = make_positive(positive_inverse(fit.full_covariance))
    with np.errstate(all="ignore"):
        optimum = minimise(Objective(problem), restart(fit), curvature, decrement=1e-6, limit=step_limit(problem))
    if newton_step(make_positive(optimum.hessian), optimum.gradient)[1] > 1e-4:
        raise UserError(f"the search did not converge: {optimum.message}")
    parts = laplace.split(problem, optimum.x)
    theta = canonical_theta(problem.factors, parts.theta, zero_theta(problem, parts.delta))
    cutpoints = _cutpoints(problem, parts.cutpoints)[0]
    return replace(fit, beta=parts.beta, delta=parts.delta, cutpoints=cutpoints, theta=theta, llf=-optimum.value)


def restart(fit: Fit) -> Array:
    """omega (k,) of a fit as a start for another response: vanished variances are raised, since zero is stationary."""
    omega, first = fit.omega, len(fit.omega) - len(fit.theta)
    least = smallest_theta(fit.problem, fit.delta)
    places = [f.pattern[a, a] for f in fit.design.factors for a in range(len(f.terms))]
    diagonal = np.isin(np.arange(len(fit.theta)), places)
    omega[first:] = np.where(diagonal, np.maximum(omega[first:], least), omega[first:])
    return omega


def dispersion_part(text: str, data: pd.DataFrame, reference: Mapping[str, str]) -> FixedPart:
    """Design of the dispersion model, from '~ x' or 'x'."""
    right = parse_right(text, "dispersion model")
    return fixed_part(right, checks.used_columns(data, formula_variables(right)), reference)


def _squeezed(design: Design, squeeze: float | None) -> tuple[Design, tuple[str, ...]]:
    if squeeze is None:
        return design, ()
    y = np.clip(design.y, squeeze, 1 - squeeze)
    moved = int(np.sum(y != design.y))
    return replace(design, y=y), (f"{moved} of {len(y)} responses were moved into [{squeeze:g}, 1 - {squeeze:g}].",)


def fit_design(design: Design, dispersion: FixedPart, *, family: str, weights: Array | None = None,
               offset: Array | None = None, notes: tuple[str, ...] = (), certify: bool = False,
               start: Array | None = None) -> Fit:
    """Fit to designs made before, from ``start`` (omega) if given: problem, search, package."""
    problem = make_problem(design, dispersion, family, weights, offset)
    with np.errstate(all="ignore"):
        optimum, objective = search(problem, start)
        fit = package(problem, design, dispersion, optimum, objective, notes)
        if certify:
            fit = _better_of_two(problem, design, dispersion, fit, notes)
    if not fit.converged:
        warnings.warn(f"{fit!r} may not have converged: {fit.certificate}", stacklevel=3)
    return fit


def make_problem(
    design: Design, dispersion: FixedPart, family: str, weights: Array | None, offset: Array | None
) -> Problem:
    """Checked data of one marginal likelihood."""
    chosen = get_family(family, design.y)
    check_response(design, family)
    layout = blocks.make_layout(design.factors) if design.factors else None
    problem = Problem(
        chosen, design.y, design.fixed.matrix, dispersion.matrix, design.factors, layout, offset, weights
    )
    checks.check_rows(len(design.y), sum(problem.sizes))
    return problem


def check_response(design: Design, family: str) -> None:
    """Refuse responses outside the family's range, naming rows."""
    y, name = design.y, design.response
    checks.check_response(y, name)
    outside = (y < 0) | (y > 1)
    if family != "gaussian" and outside.any():
        rows = checks.name_rows(design.data, outside)
        raise UserError(f"{name} is outside [0, 1] in {rows}, which family={family!r} cannot have. Mend these rows.")
    edge = (y == 0) | (y == 1)
    if family == "beta" and edge.any():
        raise UserError(
            f"{name} is exactly 0 or 1 in {checks.name_rows(design.data, edge)}, which a beta distribution cannot"
            " produce. Use family='ordbeta', or ask for squeeze=1e-6 to move these values inside."
        )


def search(problem: Problem, start: Array | None = None) -> tuple[Optimum, Objective]:
    """Maximise the Laplace log-likelihood: quasi-Newton, then Newton steps with the differenced Hessian."""
    if start is None:
        plain = fixed_start(problem)
        start = np.concatenate([plain, random_start(problem, plain)])
    objective = Objective(problem)
    if objective(start) is None or objective.best is None:
        raise UserError("The likelihood is not finite at the start; check the response and the scale of the columns.")
    hessian = first_hessian(problem, start, objective.best)
    optimum = minimise(objective, start, hessian, decrement=1e-6, limit=step_limit(problem))
    return canonical(objective, polish(objective, optimum)), objective


def polish(objective: Objective, optimum: Optimum) -> Optimum:
    """Steps with the exact Hessian, made again until the way from it was short; saddles are left downhill."""
    optimum = replace(optimum, hessian=_hessian(objective, optimum))
    limit = step_limit(objective.problem)
    for _ in range(ROUNDS):
        positive = make_positive(optimum.hessian, 1e-6)
        start = leave_saddle(objective, optimum)
        moved = minimise(objective, start, positive, decrement=POLISH, limit=limit)
        way = moved.x - optimum.x
        if way @ positive @ way <= LONG:
            return replace(moved, hessian=optimum.hessian)
        optimum = replace(moved, hessian=_hessian(objective, moved))
    return optimum


def canonical(objective: Objective, optimum: Optimum) -> Optimum:
    """The same maximum in the canonical form of the covariance factors, Hessian and gradient made there."""
    problem = objective.problem
    parts = laplace.split(problem, optimum.x)
    theta = canonical_theta(problem.factors, parts.theta, zero_theta(problem, parts.delta))
    if np.array_equal(theta, parts.theta):
        return optimum
    x = np.concatenate([optimum.x[: len(optimum.x) - len(theta)], theta])
    objective.best = None
    there = objective(x)
    if there is None:
        return optimum
    moved = replace(optimum, x=x, value=there[0], gradient=there[1])
    signs = np.append(np.ones(len(x) - len(theta)), np.where(theta == -parts.theta, -1.0, 1.0))
    if np.array_equal(np.abs(theta), np.abs(parts.theta)):
        return replace(moved, hessian=optimum.hessian * np.outer(signs, signs))
    return replace(moved, hessian=_hessian(objective, moved))


def _hessian(objective: Objective, optimum: Optimum) -> Array:
    """Hessian (k, k) of the negative log-likelihood, differenced with steps of about 1e-5 standard errors."""
    problem, first = objective.problem, len(optimum.x) - objective.problem.sizes[3]
    steps = 1e-5 / np.sqrt(np.diag(make_positive(optimum.hessian)))
    steps[first:] = np.minimum(steps[first:], 1e-3 * smallest_theta(problem, laplace.split(problem, optimum.x).delta))
    found = objective.evaluate(optimum.x)
    objective.count += 1 + len(steps)
    hessian = -laplace.hessian(problem, optimum.x, found, steps)
    return (hessian + hessian.T) / 2


def package(problem: Problem, design: Design, dispersion: FixedPart, optimum: Optimum, objective: Objective,
            notes: tuple[str, ...]) -> Fit:
    """All results at the optimum."""
    names = evidence.parameter_names(problem, design, dispersion)
    certificate = evidence.certify(problem, names, optimum, objective.count)
    start = objective.evaluate(optimum.x).mode.u
    covariance = covariance_of(optimum.hessian)
    return assemble(problem, design, dispersion, optimum.x, covariance, certificate, notes, start)


def covariance_of(hessian: Array) -> Array:
    """Inverse Hessian (k, k) over the directions of positive curvature; NaN where a parameter's is unknown."""
    out = np.full_like(hessian, np.nan)
    known = np.isfinite(np.diag(hessian))
    block = np.ix_(known, known)
    scale = np.sqrt(np.maximum(np.abs(np.diag(hessian)[known]), 1e-300))
    scaled = np.nan_to_num(hessian[block]) / np.outer(scale, scale)
    out[block] = positive_inverse(scaled) / np.outer(scale, scale)
    return out


def assemble(problem: Problem, design: Design, dispersion: FixedPart, omega: Array, full: Array,
             certificate: Certificate, notes: tuple[str, ...], start: list[Array] | None = None) -> Fit:
    """The fit at parameters omega (k,) with covariance ``full`` (k, k), random effects computed there."""
    found = laplace.evaluate(problem, omega, start)
    if found is None:
        raise UserError("The likelihood is not defined at these estimates; fit again.")
    p, d, c, _ = problem.sizes
    parts = laplace.split(problem, omega)
    cutpoints, jacobian = _cutpoints(problem, parts.cutpoints)
    inside = full[: p + d + c, : p + d + c]
    t = found.mode.factors
    inverses = blocks.inverse_blocks(problem.layout, found.mode.h) if problem.layout and found.mode.h else []
    return Fit(
        family=problem.family.name, design=design, beta=parts.beta, delta=parts.delta, cutpoints=cutpoints,
        covariance=jacobian @ inside @ jacobian.T if c else inside, theta=parts.theta, sigma=1.0,
        modes=tuple(u @ s.T for u, s in zip(found.mode.u, t, strict=True)),
        mode_covariances=tuple(s @ v @ s.T for s, v in zip(t, inverses, strict=True)),
        llf=found.value, reml=False, engine="laplace", dispersion=dispersion, weights=problem.weights,
        offset=problem.offset, notes=notes, full_covariance=full, state=certificate,
    )


def restore(design: Design, dispersion: FixedPart, family: str, omega: Array, full: Array, certificate: Certificate, *,
            weights: Array | None, offset: Array | None, offset_name: str | None, notes: tuple[str, ...]) -> Fit:
    """A fit at known parameters, without searching."""
    problem = make_problem(design, dispersion, family, weights, offset)
    fit = assemble(problem, design, dispersion, omega, full, certificate, notes)
    return replace(fit, offset_name=offset_name)


def _cutpoints(problem: Problem, parameters: Array) -> tuple[Array, Array]:
    """Cutpoints (2,) or (0,), and the Jacobian from (beta, delta, parameters) to (beta, delta, cutpoints)."""
    p, d, c, _ = problem.sizes
    if problem.family.name != "ordbeta":
        return np.empty(0), np.eye(p + d)
    jacobian = np.zeros((p + d + 2, p + d + c))
    jacobian[: p + d, : p + d] = np.eye(p + d)
    jacobian[p + d :, p + d :] = ordbeta_jacobian(problem.y, parameters)
    return ordbeta_cutpoints(problem.y, parameters), jacobian


def _better_of_two(
    problem: Problem, design: Design, dispersion: FixedPart, fit: Fit, notes: tuple[str, ...]
) -> Fit:
    """The fit or, if it is better and no worse certified, the one from a start with larger variances."""
    plain = fixed_start(problem)
    theta = random_start(problem, plain)
    larger = np.where(theta != 0, 3 * theta + 6 * smallest_theta(problem, laplace.split(problem, plain).delta), 0.0)
    try:
        optimum, objective = search(problem, np.concatenate([plain, larger]))
        second = package(problem, design, dispersion, optimum, objective, notes)
    except UserError:
        return replace(fit, state=replace(fit.state, second_start=float("nan")))
    gain = second.llf - fit.llf
    if gain > TOLERANCE and (second.converged or not fit.converged):
        fit = second
    return replace(fit, state=replace(fit.state, second_start=float(gain)))
