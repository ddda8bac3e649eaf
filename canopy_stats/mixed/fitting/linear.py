"""Linear mixed models: theta by our own search in coordinates without units, all estimates mapped back from there."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np

from canopy_stats.mixed.algebra.blocks import Array
from canopy_stats.mixed.algebra.coordinates import Coordinates, make_coordinates
from canopy_stats.mixed.algebra.covariance import boundary_slopes, theta_names, vanished
from canopy_stats.mixed.algebra.optimise import positive_inverse
from canopy_stats.mixed.certificate import LINEAR, Certificate
from canopy_stats.mixed.estimates import Estimates
from canopy_stats.mixed.families import Family, get_family
from canopy_stats.mixed.fitting import pls
from canopy_stats.mixed.fitting.curvature import Curvature, make_curvature
from canopy_stats.mixed.fitting.evidence import flat_direction, positive_definite
from canopy_stats.mixed.fitting.modes import Problem
from canopy_stats.mixed.fitting.pls import Products, Solution
from canopy_stats.mixed.fitting.problems import make_problem
from canopy_stats.mixed.fitting.satterthwaite import satterthwaite
from canopy_stats.mixed.fitting.second_opinion import search_mixedlm, search_statsmodels
from canopy_stats.mixed.fitting.theta_search import Search, canonical, quick_search, search
from canopy_stats.mixed.fitting.ways import Uncertainty
from canopy_stats.mixed.formulas import checks
from canopy_stats.mixed.formulas.fixed import fixed_part
from canopy_stats.mixed.model_frame import ModelFrame
from canopy_stats.schema import UserError

LinearEngine = Literal["newton", "mixedlm", "statsmodels"]
SEARCHES = {"newton": lambda way: search(way.products, reml=way.reml),
            "mixedlm": lambda way: search_mixedlm(way.coordinates, reml=way.reml),
            "statsmodels": lambda way: search_statsmodels(way.coordinates, reml=way.reml)}


def _normal(link: str | None = None, facts: tuple[Any, ...] = (), labels: tuple[str, ...] = ()) -> Family:
    return replace(get_family("gaussian"), name="lmm", make=_normal)


FLAT = 1e-6
"""Curvature, in units of the diagonal, that differences of gradients can't tell from none."""
NORMAL = _normal()
"""The linear model's family: normal, its variance profiled out instead of modelled."""


@dataclass(frozen=True, eq=False)
class Linear:
    """Linear mixed model of one frame by (restricted) maximum likelihood."""

    frame: ModelFrame
    reml: bool
    engine: LinearEngine = "newton"
    like: Linear | None = None

    @cached_property
    def coordinates(self) -> Coordinates:
        return make_coordinates(self.frame) if self.like is None else self.like.coordinates.with_response(self.frame)

    @cached_property
    def products(self) -> Products:
        at = self.coordinates
        if self.like is not None:
            return self.like.products.with_response(at.x, at.y)
        return pls.make_products(at.factors, at.x, at.y)

    def to(self, frame: ModelFrame) -> Linear:
        """Another frame; columns and their products are kept where only the response differs."""
        same = frame.design.fixed is self.frame.design.fixed
        return replace(self, frame=frame, like=(self.like or self) if same else None)

    def by_likelihood(self) -> Linear:
        return replace(self, reml=False) if self.reml else self

    def estimate(self, start: Estimates | None = None) -> Estimates:
        if self.engine not in SEARCHES:
            raise UserError(f"engine is {self.engine!r}; choose one of {', '.join(SEARCHES)}.")
        check_frame(self.frame)
        found = SEARCHES[self.engine](self)
        made = self._package(replace(found, theta=canonical(self.products, found.theta)))
        self._keep(made, found.second)
        return replace(made, evidence=self.certify(made))

    def quick(self, start: Estimates) -> Estimates:
        theta = self._inward(start.theta)
        return self._package(quick_search(self.products, theta, reml=self.reml))

    def at_theta(self, theta: Array, certificate: Certificate) -> Estimates:
        """The estimates at a stored theta, without searching."""
        return replace(self._package(Search(self._inward(theta), certificate.returned, certificate.evaluations)),
                       evidence=certificate)

    def _package(self, found: Search) -> Estimates:
        """All estimates of the linear mixed model at theta, in the natural columns."""
        at, solution = self.coordinates, self._solution(found.theta)
        variance = solution.rss / self.products.df(self.reml)
        modes, spreads = _modes(at, solution, variance)
        llf = at.log_likelihood(pls.deviance(solution, reml=self.reml), reml=self.reml)
        return Estimates(
            frame=self.frame, beta=at.origin + at.scale * at.back @ solution.gamma, delta=np.empty(0),
            covariance=variance * at.scale**2 * at.back @ solution.unscaled @ at.back.T,
            theta=at.theta_outward(found.theta), sigma=float(np.sqrt(variance)) * at.scale, modes=modes,
            mode_covariances=spreads, llf=llf, reml=self.reml, engine=self.engine, profiled_sigma=True,
            singular=bool(self._vanished(found.theta)), message=found.message, evaluations=found.evaluations,
        )

    def solution_of(self, at: Estimates) -> Solution:
        """The penalised least-squares solution behind estimates of this frame."""
        return self._solution(self._inward(at.theta))

    def _solution(self, theta: Array) -> Solution:
        solution = pls.solve_theta(self.products, theta)
        if solution is None:
            raise UserError("The fit broke down: the fixed part explains the response exactly. Check the formula.")
        return solution

    def _inward(self, theta: Array) -> Array:
        """theta in own coordinates, in canonical form."""
        return canonical(self.products, self.coordinates.theta_inward(theta))

    def _vanished(self, theta: Array) -> dict[str, list[int]]:
        return vanished(self.frame.factors, theta, np.full(len(theta), LINEAR.zero))

    @cached_property
    def _kept(self) -> dict[bytes, Curvature]:
        return {}

    def curvature(self, at: Estimates) -> Curvature:
        """Second derivatives at the estimates, made once."""
        if at.theta.tobytes() not in self._kept:
            self._keep(at)
        return self._kept[at.theta.tobytes()]

    def _keep(self, at: Estimates, second: Array | None = None) -> None:
        theta = self._inward(at.theta)
        solution = self._solution(theta)
        self._kept[at.theta.tobytes()] = make_curvature(self.products, solution, theta, reml=self.reml, second=second)

    def degrees_of_freedom(self, at: Estimates, contrasts: Array) -> Array:
        """Satterthwaite's degrees of freedom (k,) of contrasts (k, p)."""
        return satterthwaite(self.curvature(at), contrasts @ self.coordinates.back)

    def certify(self, at: Estimates) -> Certificate:
        """Gradient, curvature and boundary of the profiled deviance at the fit's theta."""
        found, theta = self.curvature(at), self._inward(at.theta)
        gradient, hessian = 0.5 * found.gradient, 0.5 * found.profiled
        columns = self._vanished(theta)
        inside = np.ones(len(theta), dtype=bool)
        inside[[place for places in columns.values() for place in places]] = False
        block = hessian[np.ix_(inside, inside)]
        squared = gradient[inside] @ positive_inverse(block) @ gradient[inside]
        certificate = Certificate(
            optimiser=self.engine, returned=at.message, evaluations=at.evaluations,
            distance=float(np.sqrt(max(0.0, squared))), hessian_positive=positive_definite(block, FLAT),
            boundary=boundary_slopes(columns, hessian), tolerances=LINEAR,
        )
        if certificate.converged:
            return certificate
        return replace(certificate, culprits=_culprits(self.frame, certificate, block, gradient[inside], inside))

    def uncertainty(self, at: Estimates) -> Uncertainty:
        """Theta is taken as known, as lme4 does."""
        own, theta = self.coordinates, self._inward(at.theta)
        solution = self._solution(theta)
        inverse = np.linalg.inv(own.back)
        effects = [np.einsum("ab,lbr->lar", a @ t, k[:, :, :-1] @ inverse)
                   for a, t, k in zip(own.outward, solution.roots, solution.k, strict=True)]
        roots = [at.sigma * a @ t for a, t in zip(own.outward, solution.roots, strict=True)]
        return Uncertainty(self.products.layout, solution.h, [-part for part in effects], at.covariance, roots)

    def marginal(self, at: Estimates) -> tuple[Problem, Array, ModelFrame]:
        """The gaussian likelihood with constant dispersion, from the maximum-likelihood estimates."""
        if self.reml:
            at = self.by_likelihood().estimate(at)
        frame = replace(self.frame, family=get_family("gaussian"),
                        dispersion=fixed_part("1", self.frame.design.data, {}))
        omega = np.concatenate([at.beta, [2 * np.log(at.sigma)], at.sigma * at.theta])
        return make_problem(frame), omega, frame


def _culprits(
    frame: ModelFrame, certificate: Certificate, block: Array, gradient: Array, inside: Array
) -> tuple[str, ...]:
    """What to suspect and to do where a linear model is not certified."""
    names = np.array(theta_names(frame.factors))[inside]
    if not certificate.hessian_positive:
        blamed = flat_direction(block, names)
        return (f"the likelihood is flat along: {'; '.join(blamed)}. Drop or merge one of these terms.",)
    wrong = [name for name, slope in certificate.boundary.items() if slope > 0]
    if wrong:
        return (f"the search stopped at zero for {'; '.join(wrong)}, where the likelihood still rises: try"
                " engine='mixedlm'.",)
    worst = names[int(np.argmax(np.abs(gradient) / np.sqrt(np.abs(np.diag(block)))))]
    return (f"the likelihood still rises in {worst}: drop this random term, or try engine='mixedlm'.",)


def check_frame(frame: ModelFrame) -> None:
    """Refuse what a linear mixed model cannot tell apart."""
    design = frame.design
    if not design.factors:
        raise UserError("The formula has no random term, as in '(1|group)'; for a linear model use statsmodels' ols.")
    checks.check_response(design.y, design.response)
    checks.check_rows(len(design.y), design.fixed.matrix.shape[1] + design.n_theta + 1)
    for factor in design.factors:
        if len(factor.levels) * len(factor.terms) >= len(design.y):
            raise UserError(
                f"{factor.name} has {len(factor.levels)} levels with {len(factor.terms)} random effects each, no fewer"
                f" than there are rows ({len(design.y)}); drop a random column."
            )


def _modes(at: Coordinates, solution: Solution, variance: float) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
    """Random effects (L_k, q_k) and their conditional covariances (L_k, q_k, q_k), as lme4's ``ranef``."""
    inverses = solution.inverse_blocks
    ways = [at.scale * a @ t for a, t in zip(at.outward, solution.roots, strict=True)]
    modes = tuple(u @ way.T for u, way in zip(solution.u, ways, strict=True))
    return modes, tuple(variance * way @ v @ way.T for v, way in zip(inverses, ways, strict=True))
