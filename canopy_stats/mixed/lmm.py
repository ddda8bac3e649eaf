"""Linear mixed models: theta by mixedlm (Rust, lme4's likelihood) or statsmodels, all else by our own algebra."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy import sparse

from canopy_stats.mixed import blocks, checks, pls
from canopy_stats.mixed.blocks import Array
from canopy_stats.mixed.certificate import Certificate
from canopy_stats.mixed.covariance import boundary_slopes, canonical_theta, vanished
from canopy_stats.mixed.fit import Fit
from canopy_stats.mixed.formula import Design, Factor, build_design, refuse_unread
from canopy_stats.mixed.satterthwaite import hessian, positive_inverse, satterthwaite
from canopy_stats.schema import UserError

Engine = Literal["mixedlm", "statsmodels"]
ZERO = 1e-4
"""Relative standard deviations below this are zero (lme4's tolerance for singular fits)."""


@dataclass(frozen=True)
class Search:
    """The search for theta: mixedlm's optimiser (kept for refits), its message and number of evaluations."""

    optimizer: Any
    message: str
    evaluations: int


def lmm(formula: str, data: pd.DataFrame, *, reml: bool = True, engine: Engine = "mixedlm",
        reference: Mapping[str, str] | None = None) -> Fit:
    """Fit a linear mixed model.

    Parameters
    ----------
    formula : str
        lme4's syntax, as in ``"D ~ R_bar * model_variant + (1 | prompt_uid)"``, ``^`` with R's meaning. ``log(x)``,
        ``I(x^2)`` and other calls are evaluated as Python code: run a stranger's formula only as you would their code.
    data : pandas, polars or pyarrow table, or dict of columns
        One row per observation; rows with missing or infinite values are refused by name.
    reml : bool
        Restricted maximum likelihood (default) or maximum likelihood.
    engine : {"mixedlm", "statsmodels"}
        What finds the variance parameters; statsmodels is a second opinion for one grouping variable.
    reference : mapping, optional
        Reference level by column; otherwise the first category, or the first in sorted order.
    """
    design = build_design(formula, data, reference=reference)
    refuse_unread(design, "the linear mixed model")
    return fit_design(design, reml=reml, engine=engine)


def fit_design(design: Design, *, reml: bool, engine: Engine = "mixedlm") -> Fit:
    """Fit a linear mixed model to a design made before."""
    check_design(design)
    if engine not in ("mixedlm", "statsmodels"):
        raise UserError(f"engine is {engine!r}; choose 'mixedlm' or 'statsmodels'.")
    theta, state = _fit_mixedlm(design, reml) if engine == "mixedlm" else _fit_statsmodels(design, reml)
    return package(design, theta, reml=reml, engine=engine, state=state)


def check_design(design: Design) -> None:
    """Refuse what a linear mixed model cannot tell apart."""
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


def package(design: Design, theta: Array, *, reml: bool, engine: str, state: Any) -> Fit:
    """All estimates of the linear mixed model at theta."""
    products = pls.make_products(design)
    theta = canonical_theta(design.factors, theta, np.full(len(theta), ZERO))
    solution = pls.solve_theta(products, theta)
    if solution is None or solution.rss <= 0:
        raise UserError("The fit broke down: the fixed part explains the response exactly. Check the formula.")
    df = products.n - len(solution.beta) if reml else products.n
    sigma = float(np.sqrt(solution.rss / df))
    modes, spreads = _modes(products, solution, sigma)
    return Fit(
        family="lmm", design=design, beta=solution.beta, delta=np.empty(0), cutpoints=np.empty(0),
        covariance=sigma**2 * solution.unscaled, theta=theta, sigma=sigma, modes=modes, mode_covariances=spreads,
        llf=-0.5 * pls.deviance(products, theta, reml=reml), reml=reml, engine=engine, state=state,
    )


def _modes(
    products: pls.Products, solution: pls.Profile, sigma: float
) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
    """Random effects (L_k, q_k) and their conditional covariances (L_k, q_k, q_k), as lme4's ``ranef``."""
    inverses = blocks.inverse_blocks(products.layout, solution.h)
    modes = tuple(u @ t.T for u, t in zip(solution.u, solution.factors, strict=True))
    spreads = tuple(sigma**2 * t @ v @ t.T for v, t in zip(inverses, solution.factors, strict=True))
    return modes, spreads


def model_matrices(design: Design) -> Any:
    """The design as mixedlm's ModelMatrices: numeric columns only, one structure for each correlated block."""
    from mixedlm.matrices.design import ModelMatrices, RandomEffectStructure

    parts, structures, n = [], [], len(design.y)
    for factor in design.factors:
        for block in factor.blocks:
            parts.append(_sparse_columns(factor, block))
            structures.append(RandomEffectStructure(
                factor.name, [factor.terms[a] for a in block], len(factor.levels), len(block), True, {}, "us",
                factor.codes.astype(np.int32),
            ))
    z = sparse.hstack(parts, format="csc") if len(parts) > 1 else parts[0]
    x, ones = design.fixed.matrix, np.ones(n)
    names = [f"x{i}" for i in range(x.shape[1])]
    return ModelMatrices(design.y, x, z, names, structures, n, x.shape[1], z.shape[1], ones, np.zeros(n))


def _sparse_columns(factor: Factor, block: tuple[int, ...]) -> Any:
    """Z (n, levels x block) of some columns of a factor, the columns of one level side by side."""
    n, q = len(factor.codes), len(block)
    places = factor.codes[:, None] * q + np.arange(q)
    values = factor.columns[:, list(block)]
    shape = (n, len(factor.levels) * q)
    return sparse.csr_matrix((values.ravel(), places.ravel(), np.arange(0, n * q + 1, q)), shape=shape).tocsc()


def _fit_mixedlm(design: Design, reml: bool) -> tuple[Array, Search]:
    from mixedlm.estimation.reml import LMMOptimizer

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _optimise(LMMOptimizer(model_matrices(design), REML=reml))


def _optimise(optimizer: Any) -> tuple[Array, Search]:
    """Theta by mixedlm's default search; a warning where it says that it did not converge."""
    from mixedlm import lmerControl

    control = lmerControl()
    result = optimizer.optimize(
        start=None, method=control.optimizer, maxiter=control.maxiter, restart_edge=control.restart_edge,
        options=control.get_scipy_options(optimizer=control.optimizer, maxiter=control.maxiter),
        use_analytic_gradient=control.use_analytic_gradient,
    )
    if not result.converged:
        warnings.warn(f"mixedlm did not converge ({result.message}); read fit.certificate.", stacklevel=5)
    return np.asarray(result.theta, dtype=float), Search(optimizer, str(result.message), int(result.function_evals))


def _fit_statsmodels(design: Design, reml: bool) -> tuple[Array, Any]:
    """Theta from statsmodels' MixedLM: one grouping factor, correlated random columns."""
    from statsmodels.regression.mixed_linear_model import MixedLM

    if len(design.factors) != 1 or len(design.factors[0].blocks) != 1:
        raise UserError("engine='statsmodels' fits one grouping variable, correlated effects; use engine='mixedlm'.")
    factor = design.factors[0]
    model = MixedLM(design.y, design.fixed.matrix, factor.codes, exog_re=factor.columns)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = model.fit(reml=reml, method=["lbfgs", "bfgs"])
    relative = np.atleast_2d(result.cov_re) / result.scale
    return lower_root(relative)[np.tril_indices(len(relative))], None


def lower_root(covariance: Array) -> Array:
    """Lower-triangular root with a non-negative diagonal of a positive semidefinite matrix (q, q)."""
    values, vectors = np.linalg.eigh(covariance)
    root = vectors * np.sqrt(np.clip(values, 0.0, None))
    upper = np.linalg.qr(root.T, mode="r")
    signs = np.where(np.diag(upper) < 0, -1.0, 1.0)
    return np.asarray((signs[:, None] * upper).T)


def refit(fit: Fit, y: Array) -> Fit:
    """The same model for another response (n,); the prepared design is used again."""
    if y.shape != fit.design.y.shape or not np.all(np.isfinite(y)):
        raise UserError(f"refit() needs {fit.nobs} finite numbers, one for each row of the fit.")
    design = replace(fit.design, y=y)
    if fit.engine != "mixedlm" or fit.state is None or fit.state.optimizer is None:
        return fit_design(design, reml=fit.reml, engine="mixedlm" if fit.engine == "mixedlm" else "statsmodels")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theta, search = _optimise(fit.state.optimizer.with_response(y))
    return package(design, theta, reml=fit.reml, engine=fit.engine, state=search)


def test_df(fit: Fit, contrasts: Array) -> Array:
    """Satterthwaite degrees of freedom (k,) of contrasts (k, p) of the fixed effects."""
    products = pls.make_products(fit.design)
    return satterthwaite(products, fit.theta, fit.sigma, contrasts, reml=fit.reml)


def certify(fit: Fit) -> Certificate:
    """Gradient, curvature and boundary of the profiled deviance at the fit's theta."""
    products = pls.make_products(fit.design)
    steps = np.full(len(fit.theta), 1e-3 * max(1e-2, float(np.abs(fit.theta).max())))
    halved = lambda theta: 0.5 * pls.deviance(products, theta, reml=fit.reml)  # noqa: E731
    curvature = hessian(halved, fit.theta, steps)
    columns = vanished(fit.design.factors, fit.theta, np.full(len(fit.theta), ZERO))
    inside = np.ones(len(fit.theta), dtype=bool)
    inside[[place for places in columns.values() for place in places]] = False
    moves = np.diag(steps)
    gradient = np.array([halved(fit.theta + move) - halved(fit.theta - move) for move in moves]) / (2 * steps)
    block = curvature[np.ix_(inside, inside)]
    positive = bool(np.all(np.linalg.eigvalsh(block) > 0))
    squared = gradient[inside] @ positive_inverse(block) @ gradient[inside]
    distance = float(np.sqrt(max(0.0, squared)))
    slopes = boundary_slopes(columns, curvature)
    search = fit.state if isinstance(fit.state, Search) else Search(None, "done", 0)
    return Certificate(
        optimiser=fit.engine, returned=search.message, evaluations=search.evaluations, distance=distance,
        hessian_positive=positive, boundary=slopes,
    )
