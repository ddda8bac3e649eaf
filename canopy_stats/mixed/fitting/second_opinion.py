"""Other programs' searches for a linear model's theta: mixedlm (Rust) and statsmodels, as second opinions."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from scipy import sparse

from canopy_stats.mixed.algebra.coordinates import Coordinates, lower_root
from canopy_stats.mixed.fitting.theta_search import Search
from canopy_stats.mixed.formulas.grouping import Factor
from canopy_stats.schema import UserError


def search_mixedlm(at: Coordinates, *, reml: bool) -> Search:
    """Theta by mixedlm's optimiser, in our coordinates."""
    from mixedlm.estimation.reml import LMMOptimizer

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _optimise(LMMOptimizer(model_matrices(at), REML=reml))


def search_statsmodels(at: Coordinates, *, reml: bool) -> Search:
    """Theta from statsmodels' MixedLM: one grouping factor, correlated random columns."""
    from statsmodels.regression.mixed_linear_model import MixedLM

    if len(at.factors) != 1 or len(at.factors[0].blocks) != 1:
        raise UserError("engine='statsmodels' fits one grouping variable, correlated effects; leave engine out.")
    factor = at.factors[0]
    model = MixedLM(at.y, at.x, factor.codes, exog_re=factor.columns)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = model.fit(reml=reml, method=["lbfgs", "bfgs"])
    relative = np.atleast_2d(result.cov_re) / result.scale
    values, vectors = np.linalg.eigh(relative)
    root = lower_root(vectors * np.sqrt(np.clip(values, 0.0, None)))
    return Search(root[np.tril_indices(len(root))])


def model_matrices(at: Coordinates) -> Any:
    """The coordinates as mixedlm's ModelMatrices: numeric columns only, one structure for each correlated block."""
    from mixedlm.matrices.design import ModelMatrices, RandomEffectStructure

    parts, structures, n = [], [], len(at.y)
    for factor in at.factors:
        for block in factor.blocks:
            parts.append(_sparse_columns(factor, block))
            structures.append(RandomEffectStructure(
                factor.name, [factor.terms[a] for a in block], len(factor.levels), len(block), True, {}, "us",
                factor.codes.astype(np.int32),
            ))
    z = sparse.hstack(parts, format="csc") if len(parts) > 1 else parts[0]
    x, ones = at.x, np.ones(n)
    names = [f"x{i}" for i in range(x.shape[1])]
    return ModelMatrices(at.y, x, z, names, structures, n, x.shape[1], z.shape[1], ones, np.zeros(n))


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
