"""Mixed models with a dispersion model by Laplace-approximate likelihood: search, covariance, random effects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from canopy_stats.mixed.algebra import blocks
from canopy_stats.mixed.algebra.blocks import Array
from canopy_stats.mixed.algebra.covariance import canonical_theta, vanished
from canopy_stats.mixed.algebra.optimise import Optimum, make_positive, minimise, newton_step, polish, positive_inverse
from canopy_stats.mixed.certificate import LAPLACE, Certificate
from canopy_stats.mixed.estimates import Estimates
from canopy_stats.mixed.families.family import Cuts
from canopy_stats.mixed.fitting import evidence, laplace
from canopy_stats.mixed.fitting.laplace import Evaluation
from canopy_stats.mixed.fitting.modes import Problem, Sizes
from canopy_stats.mixed.fitting.problems import make_problem
from canopy_stats.mixed.fitting.standard import Standard, standardise
from canopy_stats.mixed.fitting.start import (
    first_hessian,
    fixed_start,
    random_start,
    smallest_theta,
    step_limit,
    zero_theta,
)
from canopy_stats.mixed.fitting.ways import Uncertainty
from canopy_stats.mixed.model_frame import ModelFrame
from canopy_stats.schema import UserError

HALVINGS = 10
"""How often a start's random effects are halved before it counts as not defined."""


@dataclass(frozen=True, eq=False)
class Laplace:
    """A mixed model of one frame by maximum likelihood, integrated with ``nodes`` points (1: Laplace)."""

    frame: ModelFrame
    nodes: int = 1

    @cached_property
    def problem(self) -> Problem:
        """The Laplace likelihood of the frame."""
        return make_problem(self.frame, self.nodes)

    @cached_property
    def own(self) -> Standard:
        """The same likelihood in columns without units, where it is searched."""
        return standardise(self.problem)

    def to(self, frame: ModelFrame) -> Laplace:
        return Laplace(frame, self.nodes)

    def estimate(self, start: Estimates | None = None) -> Estimates:
        """Search from scratch, or from earlier estimates with the same parameters."""
        first = None
        if start is not None and self.problem.sizes == _sizes(start):
            first = restart(self.own.problem, start, self.own.standard(start.omega))
        with np.errstate(all="ignore"):
            return self._package(*search(self.own.problem, first))

    def quick(self, start: Estimates) -> Estimates:
        """Estimates without standard errors and certificate, from the start and its curvature: few evaluations."""
        problem = self.problem
        if problem.sizes != _sizes(start) or not np.all(np.isfinite(start.full_covariance)):
            return self.estimate(start)
        curvature = make_positive(positive_inverse(start.full_covariance))
        with np.errstate(all="ignore"):
            first = restart(problem, start, start.omega)
            optimum = minimise(LaplaceObjective(problem), first, curvature, decrement=LAPLACE.search,
                               limit=step_limit(problem))
        if newton_step(make_positive(optimum.hessian), optimum.gradient)[1] > LAPLACE.quick:
            raise UserError(f"the search did not converge: {optimum.message}")
        parts = laplace.split(problem, optimum.x)
        theta = canonical_theta(problem.factors, parts.theta, zero_theta(problem, parts.delta))
        return replace(start, frame=self.frame, beta=parts.beta, delta=parts.delta, zero=parts.zero,
                       cut=parts.cutpoints, theta=theta, llf=-optimum.value)

    def by_likelihood(self) -> Laplace:
        return self

    def best_of_two(self) -> Estimates:
        """The better of the usual search and, if no worse certified, one from larger variances."""
        with np.errstate(all="ignore"):
            first = self.estimate()
            return _better_of_two(self, first)

    def at_omega(self, omega: Array, full: Array, certificate: Certificate, modes: Sequence[Array] = ()) -> Estimates:
        """The estimates at stored parameters with covariance ``full``, without searching.

        ``modes`` b_k (L_k, q_k) are where the random effects are looked for: where rows hardly vary, rounding can hide
        the way there from zero.
        """
        start = laplace.spherical(self.problem, omega, modes) if modes else None
        return assemble(self.frame, self.problem, omega, full, certificate, start)

    def certify(self, at: Estimates) -> Certificate:
        """What the search found: it is made with the estimates."""
        assert at.evidence is not None
        return at.evidence

    def degrees_of_freedom(self, at: Estimates, contrasts: Array) -> Array:
        """Infinitely many: Wald z tests, as in R's glmmTMB."""
        return np.full(len(contrasts), np.inf)

    def uncertainty(self, at: Estimates) -> Uncertainty:
        """Joint uncertainty of all parameters, theta included."""
        problem, omega = self.problem, at.omega
        found = laplace.evaluate(problem, omega, laplace.spherical(problem, omega, at.modes))
        assert found is not None
        mode = found.mode
        moves = laplace.tangent(problem, mode)
        slopes = [np.einsum("ab,lbk->lak", t, s) for t, s in zip(mode.factors, moves, strict=True)]
        first = problem.sizes.fixed
        for k, factor in enumerate(problem.factors):
            for a, b in np.argwhere(factor.pattern >= 0):
                slopes[k][:, a, first + factor.pattern[a, b]] += mode.u[k][:, b]
        return Uncertainty(problem.layout, mode.h, slopes, at.full_covariance, mode.factors)

    def marginal(self, at: Estimates) -> tuple[Problem, Array, ModelFrame]:
        return self.problem, at.omega, self.frame

    def _package(self, optimum: Optimum, objective: LaplaceObjective) -> Estimates:
        """All results at the optimum."""
        names = evidence.parameter_names(self.problem, self.frame)
        certificate = evidence.certify(self.own.problem, names, optimum, objective.count)
        jacobian = self.own.jacobian(optimum.x)
        full = jacobian @ covariance_of(optimum.hessian) @ jacobian.T
        start = self.own.effects(optimum.x, objective.evaluate(optimum.x).mode.u)
        return assemble(self.frame, self.problem, self.own.natural(optimum.x), full, certificate, start)


def _sizes(at: Estimates) -> Sizes:
    """Numbers of coefficients of mean, dispersion and zero part, cutpoint parameters and theta."""
    return Sizes(len(at.beta), len(at.delta), len(at.zero), len(at.cut), len(at.theta))


@dataclass
class LaplaceObjective:
    """Negative Laplace log-likelihood and gradient; keeps the best inner maximum as the next one's start."""

    problem: Problem
    best: Evaluation | None = None
    count: int = 0
    last: tuple[bytes, Evaluation] | None = None

    def __call__(self, omega: Array) -> tuple[float, Array] | None:
        found = self._found(omega)
        if found is None or not np.isfinite(found.value):
            return None
        if self.best is None or found.value >= self.best.value - 1e-9 * abs(found.value):
            self.best = found
        return -found.value, -found.gradient

    def evaluate(self, omega: Array) -> Evaluation:
        """Everything at a point that was reached before; UserError where it is not defined any more."""
        found = self._found(omega)
        if found is None:
            raise NoMaximum("The likelihood is not defined around its maximum; rescale the columns or simplify.")
        return found

    def _found(self, omega: Array) -> Evaluation | None:
        """The evaluation at a point; the last one is kept."""
        key = omega.tobytes()
        if self.last is not None and self.last[0] == key:
            return self.last[1]
        u, h = (None, None) if self.best is None else (self.best.mode.u, self.best.mode.h)
        found = laplace.evaluate(self.problem, omega, u, h)
        self.count += 1
        if found is not None:
            self.last = key, found
        return found


def restart(problem: Problem, at: Estimates, omega: Array) -> Array:
    """omega (k,) as a start for another response: vanished variances are raised, since zero is stationary."""
    omega, first = omega.copy(), len(omega) - len(at.theta)
    least = smallest_theta(problem, laplace.split(problem, omega).delta)
    places = [f.pattern[a, a] for f in problem.factors for a in range(len(f.terms))]
    diagonal = np.isin(np.arange(len(at.theta)), places)
    omega[first:] = np.where(diagonal, np.maximum(omega[first:], least), omega[first:])
    return omega


def search(problem: Problem, start: Array | None = None) -> tuple[Optimum, LaplaceObjective]:
    """Maximise the Laplace log-likelihood: quasi-Newton, then Newton steps with the differenced Hessian."""
    if start is None:
        plain = fixed_start(problem)
        start = np.concatenate([plain, random_start(problem, plain)])
    objective = LaplaceObjective(problem)
    start = _defined(objective, start)
    assert objective.best is not None
    hessian = first_hessian(problem, start, objective.best)
    optimum = minimise(objective, start, hessian, decrement=LAPLACE.search, limit=step_limit(problem))
    return canonical(objective, _polished(objective, optimum)), objective


def _defined(objective: LaplaceObjective, start: Array) -> Array:
    """The start, with smaller random effects where the joint likelihood has no maximum in them at the first ones."""
    first = objective.problem.sizes.fixed
    for halving in range(HALVINGS):
        there = np.append(start[:first], start[first:] * 0.5**halving)
        if objective(there) is not None:
            return there
    raise UserError("The likelihood is not finite at the start; check the response and the scale of the columns.")


def _polished(objective: LaplaceObjective, optimum: Optimum) -> Optimum:
    """The last steps, with the exact Hessian."""
    return polish(
        objective, optimum, lambda x: _hessian(objective, replace(optimum, x=x)), decrement=LAPLACE.polish,
        moved=LAPLACE.moved, limit=step_limit(objective.problem),
    )


def canonical(objective: LaplaceObjective, optimum: Optimum) -> Optimum:
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


def _hessian(objective: LaplaceObjective, optimum: Optimum) -> Array:
    """Hessian (k, k) of the negative log-likelihood, differenced with steps of about 1e-5 standard errors."""
    problem, first = objective.problem, objective.problem.sizes.fixed
    steps = 1e-5 / np.sqrt(np.diag(make_positive(optimum.hessian)))
    steps[first:] = np.minimum(steps[first:], 1e-3 * smallest_theta(problem, laplace.split(problem, optimum.x).delta))
    found = objective.evaluate(optimum.x)
    objective.count += len(steps)
    hessian = -laplace.hessian(problem, optimum.x, found, steps)
    symmetric: Array = (hessian + hessian.T) / 2
    return symmetric


class NoMaximum(UserError):
    """The likelihood grows without bound, so there are no estimates."""


def covariance_of(hessian: Array) -> Array:
    """Inverse Hessian (k, k) over the directions of positive curvature; NaN where a parameter's is unknown."""
    out = np.full_like(hessian, np.nan)
    known = np.isfinite(np.diag(hessian))
    block = np.ix_(known, known)
    scale = np.sqrt(np.maximum(np.abs(np.diag(hessian)[known]), 1e-300))
    scaled = np.nan_to_num(hessian[block]) / np.outer(scale, scale)
    out[block] = positive_inverse(scaled) / np.outer(scale, scale)
    return out


def assemble(frame: ModelFrame, problem: Problem, omega: Array, full: Array, certificate: Certificate,
             start: list[Array] | None = None) -> Estimates:
    """The estimates at parameters omega (k,) with covariance ``full`` (k, k), random effects computed there."""
    found = laplace.evaluate(problem, omega, start)
    if found is None:
        raise NoMaximum("The likelihood of these data has no maximum: the search left the range of numbers. Leave "
                        "terms out of the dispersion formula or the random part, or add rows.")
    parts, first = laplace.split(problem, omega), problem.sizes.fixed
    t = found.mode.factors
    inverses = blocks.inverse_blocks(problem.layout, found.mode.h) if problem.layout and found.mode.h else []
    return Estimates(
        frame=frame, beta=parts.beta, delta=parts.delta, zero=parts.zero, cut=parts.cutpoints,
        covariance=with_cutpoints(problem.family.cuts, parts.cutpoints, full[:first, :first]), theta=parts.theta,
        sigma=1.0, modes=tuple(u @ s.T for u, s in zip(found.mode.u, t, strict=True)),
        mode_covariances=tuple(s @ v @ s.T for s, v in zip(t, inverses, strict=True)),
        llf=found.value, reml=False, engine="laplace", nodes=problem.quadrature,
        singular=bool(vanished(problem.factors, parts.theta, zero_theta(problem, parts.delta))),
        message=certificate.returned, evaluations=certificate.evaluations, full_covariance=full, evidence=certificate,
    )


def with_cutpoints(cuts: Cuts, cut: Array, covariance: Array) -> Array:
    """The covariance of all coefficients with the thresholds (K) in the place of their parameters (c)."""
    first = len(covariance) - len(cut)
    inner = cuts.jacobian(cut)
    across = covariance[:first, first:] @ inner.T
    return np.block([[covariance[:first, :first], across], [across.T, inner @ covariance[first:, first:] @ inner.T]])


def _better_of_two(way: Laplace, first: Estimates) -> Estimates:
    """The first estimates or, if they are better and no worse certified, those from a start with larger variances."""
    problem, evidence_of = way.own.problem, first.evidence
    assert evidence_of is not None
    plain = fixed_start(problem)
    theta = random_start(problem, plain)
    larger = np.where(theta != 0, 3 * theta + 6 * smallest_theta(problem, laplace.split(problem, plain).delta), 0.0)
    try:
        second = way._package(*search(problem, np.concatenate([plain, larger])))
    except UserError:
        return replace(first, evidence=replace(evidence_of, second_start=float("nan")))
    assert second.evidence is not None
    gain = second.llf - first.llf
    if gain > LAPLACE.likelihood and (second.evidence.converged or not evidence_of.converged):
        first, evidence_of = second, second.evidence
    return replace(first, evidence=replace(evidence_of, second_start=float(gain)))
