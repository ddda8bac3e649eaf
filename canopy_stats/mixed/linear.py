"""Linear mixed models: theta by mixedlm (Rust, lme4's likelihood) or statsmodels, all else by our own algebra."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
from scipy import sparse

from canopy_stats.mixed import blocks, checks, pls
from canopy_stats.mixed.blocks import Array
from canopy_stats.mixed.certificate import LINEAR, Certificate
from canopy_stats.mixed.covariance import boundary_slopes, canonical_theta, vanished
from canopy_stats.mixed.estimates import Estimates
from canopy_stats.mixed.families import Family, get_family
from canopy_stats.mixed.formula import Factor, fixed_part
from canopy_stats.mixed.model_frame import ModelFrame
from canopy_stats.mixed.modes import Problem
from canopy_stats.mixed.problems import make_problem
from canopy_stats.mixed.satterthwaite import hessian, positive_inverse, satterthwaite
from canopy_stats.mixed.ways import Uncertainty
from canopy_stats.schema import UserError

Engine = Literal["mixedlm", "statsmodels"]


def _normal(link: str | None = None, facts: tuple[Any, ...] = (), labels: tuple[str, ...] = ()) -> Family:
    return replace(get_family("gaussian"), name="lmm", make=_normal)


NORMAL = _normal()
"""The linear model's family: normal, its variance profiled out instead of modelled."""


@dataclass(frozen=True)
class Search:
    """What a search for theta said: its message and number of evaluations."""

    theta: Array
    message: str = "done"
    evaluations: int = 0


@dataclass(frozen=True, eq=False)
class Linear:
    """Linear mixed model of one frame by (restricted) maximum likelihood."""

    frame: ModelFrame
    reml: bool
    engine: Engine
    workings: dict[str, Any] = field(default_factory=dict, repr=False)

    @cached_property
    def products(self) -> pls.Products:
        return pls.make_products(self.frame.design)

    def to(self, frame: ModelFrame) -> Linear:
        """Another frame; mixedlm's matrices are kept where only the response differs."""
        same = frame.design.fixed is self.frame.design.fixed
        return replace(self, frame=frame, workings=self.workings if same else {})

    def estimate(self, start: Estimates | None = None) -> Estimates:
        check_frame(self.frame)
        if self.engine not in ("mixedlm", "statsmodels"):
            raise UserError(f"engine is {self.engine!r}; choose 'mixedlm' or 'statsmodels'.")
        found = self._search_mixedlm() if self.engine == "mixedlm" else self._search_statsmodels()
        return self._package(found)

    def by_likelihood(self) -> Linear:
        return replace(self, reml=False, workings={}) if self.reml else self

    def quick(self, start: Estimates) -> Estimates:
        return self.estimate(start)

    def at_theta(self, theta: Array, certificate: Certificate) -> Estimates:
        """The estimates at a stored theta, without searching."""
        found = self._package(Search(theta, certificate.returned, certificate.evaluations))
        return replace(found, evidence=certificate)

    def _package(self, found: Search) -> Estimates:
        """All estimates of the linear mixed model at theta."""
        products = self.products
        theta = canonical_theta(self.frame.factors, found.theta, np.full(len(found.theta), LINEAR.zero))
        solution = pls.solve_theta(products, theta)
        if solution is None or solution.rss <= 0:
            raise UserError("The fit broke down: the fixed part explains the response exactly. Check the formula.")
        df = products.n - len(solution.beta) if self.reml else products.n
        sigma = float(np.sqrt(solution.rss / df))
        modes, spreads = _modes(products, solution, sigma)
        return Estimates(
            frame=self.frame, beta=solution.beta, delta=np.empty(0),
            covariance=sigma**2 * solution.unscaled, theta=theta, sigma=sigma, modes=modes, mode_covariances=spreads,
            llf=-0.5 * pls.deviance(products, theta, reml=self.reml), reml=self.reml, engine=self.engine,
            profiled_sigma=True, message=found.message, evaluations=found.evaluations,
        )

    def _search_mixedlm(self) -> Search:
        from mixedlm.estimation.reml import LMMOptimizer

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if "optimizer" not in self.workings:
                self.workings["optimizer"] = LMMOptimizer(model_matrices(self.frame), REML=self.reml)
            return _optimise(self.workings["optimizer"].with_response(self.frame.y))

    def _search_statsmodels(self) -> Search:
        """Theta from statsmodels' MixedLM: one grouping factor, correlated random columns."""
        from statsmodels.regression.mixed_linear_model import MixedLM

        design = self.frame.design
        if len(design.factors) != 1 or len(design.factors[0].blocks) != 1:
            raise UserError(
                "engine='statsmodels' fits one grouping variable, correlated effects; use engine='mixedlm'."
            )
        factor = design.factors[0]
        model = MixedLM(design.y, design.fixed.matrix, factor.codes, exog_re=factor.columns)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = model.fit(reml=self.reml, method=["lbfgs", "bfgs"])
        relative = np.atleast_2d(result.cov_re) / result.scale
        return Search(lower_root(relative)[np.tril_indices(len(relative))])

    def degrees_of_freedom(self, at: Estimates, contrasts: Array) -> Array:
        """Satterthwaite's degrees of freedom (k,) of contrasts (k, p)."""
        return satterthwaite(self.products, at.theta, at.sigma, contrasts, reml=self.reml)

    def certify(self, at: Estimates) -> Certificate:
        """Gradient, curvature and boundary of the profiled deviance at the fit's theta."""
        products = self.products
        steps = np.full(len(at.theta), 1e-3 * max(1e-2, float(np.abs(at.theta).max())))
        halved = lambda theta: 0.5 * pls.deviance(products, theta, reml=self.reml)  # noqa: E731
        curvature = hessian(halved, at.theta, steps)
        columns = vanished(self.frame.factors, at.theta, np.full(len(at.theta), LINEAR.zero))
        inside = np.ones(len(at.theta), dtype=bool)
        inside[[place for places in columns.values() for place in places]] = False
        moves = np.diag(steps)
        gradient = np.array([halved(at.theta + move) - halved(at.theta - move) for move in moves]) / (2 * steps)
        block = curvature[np.ix_(inside, inside)]
        positive = bool(np.all(np.linalg.eigvalsh(block) > 0))
        squared = gradient[inside] @ positive_inverse(block) @ gradient[inside]
        return Certificate(
            optimiser=self.engine, returned=at.message, evaluations=at.evaluations,
            distance=float(np.sqrt(max(0.0, squared))), hessian_positive=positive,
            boundary=boundary_slopes(columns, curvature), tolerances=LINEAR,
        )

    def uncertainty(self, at: Estimates) -> Uncertainty:
        """Theta is taken as known, as lme4 does."""
        products = self.products
        solution = pls.solve_theta(products, at.theta)
        assert solution is not None
        ahead = np.eye(len(at.beta)) if products.back is None else np.linalg.inv(products.back)
        crossed = [zx[:, :, :-1] @ ahead for zx in products.zx]
        right = [np.einsum("ab,lar->lbr", t, zx) for t, zx in zip(solution.factors, crossed, strict=True)]
        moved = blocks.solve(products.layout, solution.h, right)
        slopes = [-np.einsum("ab,lbr->lar", t, part) for t, part in zip(solution.factors, moved, strict=True)]
        return Uncertainty(products.layout, solution.h, slopes, at.covariance, at.roots)

    def marginal(self, at: Estimates) -> tuple[Problem, Array, ModelFrame]:
        """The gaussian likelihood with constant dispersion, from the maximum-likelihood estimates."""
        if self.reml:
            at = self.by_likelihood().estimate(at)
        frame = replace(self.frame, family=get_family("gaussian"),
                        dispersion=fixed_part("1", self.frame.design.data, {}))
        omega = np.concatenate([at.beta, [2 * np.log(at.sigma)], at.sigma * at.theta])
        return make_problem(frame), omega, frame


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


def _modes(
    products: pls.Products, solution: pls.Profile, sigma: float
) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
    """Random effects (L_k, q_k) and their conditional covariances (L_k, q_k, q_k), as lme4's ``ranef``."""
    inverses = blocks.inverse_blocks(products.layout, solution.h)
    modes = tuple(u @ t.T for u, t in zip(solution.u, solution.factors, strict=True))
    spreads = tuple(sigma**2 * t @ v @ t.T for v, t in zip(inverses, solution.factors, strict=True))
    return modes, spreads


def model_matrices(frame: ModelFrame) -> Any:
    """The frame as mixedlm's ModelMatrices: numeric columns only, one structure for each correlated block."""
    from mixedlm.matrices.design import ModelMatrices, RandomEffectStructure

    parts, structures, n = [], [], frame.nobs
    for factor in frame.factors:
        for block in factor.blocks:
            parts.append(_sparse_columns(factor, block))
            structures.append(RandomEffectStructure(
                factor.name, [factor.terms[a] for a in block], len(factor.levels), len(block), True, {}, "us",
                factor.codes.astype(np.int32),
            ))
    z = sparse.hstack(parts, format="csc") if len(parts) > 1 else parts[0]
    x, ones = frame.design.fixed.matrix, np.ones(n)
    names = [f"x{i}" for i in range(x.shape[1])]
    return ModelMatrices(frame.y, x, z, names, structures, n, x.shape[1], z.shape[1], ones, np.zeros(n))


def _sparse_columns(factor: Factor, block: tuple[int, ...]) -> Any:
    """Z (n, levels x block) of some columns of a factor, the columns of one level side by side."""
    n, q = len(factor.codes), len(block)
    places = factor.codes[:, None] * q + np.arange(q)
    values = factor.columns[:, list(block)]
    shape = (n, len(factor.levels) * q)
    return sparse.csr_matrix((values.ravel(), places.ravel(), np.arange(0, n * q + 1, q)), shape=shape).tocsc()


def _optimise(optimizer: Any) -> Search:
    """Theta by mixedlm's default search."""
    from mixedlm import lmerControl

    control = lmerControl()
    result = optimizer.optimize(
        start=None, method=control.optimizer, maxiter=control.maxiter, restart_edge=control.restart_edge,
        options=control.get_scipy_options(optimizer=control.optimizer, maxiter=control.maxiter),
        use_analytic_gradient=control.use_analytic_gradient,
    )
    return Search(np.asarray(result.theta, dtype=float), str(result.message), int(result.function_evals))


def lower_root(covariance: Array) -> Array:
    """Lower-triangular root with a non-negative diagonal of a positive semidefinite matrix (q, q)."""
    values, vectors = np.linalg.eigh(covariance)
    root = vectors * np.sqrt(np.clip(values, 0.0, None))
    upper = np.linalg.qr(root.T, mode="r")
    signs = np.where(np.diag(upper) < 0, -1.0, 1.0)
    return np.asarray((signs[:, None] * upper).T)
