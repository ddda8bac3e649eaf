"""Means of the response on a grid: at typical random effects, or averaged over them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
from scipy.special import roots_hermitenorm

from canopy_stats.mixed.effects.contrasts import Back, Estimated
from canopy_stats.mixed.effects.grid import ReferenceGrid
from canopy_stats.mixed.estimates import Estimates
from canopy_stats.mixed.fit import Fit
from canopy_stats.mixed.formulas.fixed import NotEstimableWarning, encode_all, estimable
from canopy_stats.mixed.results.predict import Rows, encode, to_scale

Array = np.ndarray
NODES = 40
STEP = 1e-5
RATIOS = {"logit": "odds ratio", "log": "ratio"}


def grid_rows(fit: Fit, frame: pd.DataFrame) -> Rows:
    """The grid's rows encoded for prediction; an offset that was an array stands at its mean."""
    data, inner = fit.frame, fit.design.offset
    array = data.offset is not None and data.offset_name is None
    given = data.offset_values - (0.0 if inner is None else inner) if array else np.zeros(1)
    bare = replace(fit, frame=replace(data, offset=None)) if array else fit
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotEstimableWarning)
        rows = encode(bare, frame, "population")
    return replace(rows, offset=rows.offset + given.mean())


def averaged_rows(fit: Fit, grid: ReferenceGrid, x: Array) -> Rows:
    """One row a cell: x (cells, p) as given, everything else averaged over the grid."""
    rows = grid_rows(fit, grid.frame)
    return replace(rows, x=x, w=grid.weights @ rows.w, g=grid.weights @ rows.g, trials=np.ones(len(x)),
                   offset=grid.weights @ rows.offset)


def back_values(fit: Estimates, rows: Rows, eta: Array) -> tuple[Array, Array]:
    """Means (m,) of the response at eta (m,) and their slopes in it."""
    ahead, behind = (np.asarray(to_scale(fit, rows, eta + sign * STEP, "response")) for sign in (1, -1))
    return np.asarray(to_scale(fit, rows, eta, "response")), (ahead - behind) / (2 * STEP)


def way_back(fit: Fit, rows: Rows) -> Back:
    """From the cells' linear predictors to their means, and what exp of a difference means there."""
    link = fit.frame.family.link
    ratio = "" if fit.cut.size else RATIOS.get(link, "")
    if ratio and fit.frame.family.zero:
        ratio += " without the zero part"
    return Back(lambda eta: back_values(fit, rows, eta), ratio, link == "identity")


def average_over_random_effects(fit: Fit, grid: ReferenceGrid) -> Estimated:
    """E(Y) of each cell over the random effects, by Gauss-Hermite quadrature, and over the grid's other factors.

    Errors by the delta method in all parameters, variances of the random effects included. Where the link is the
    identity they are the usual means.
    """
    curve = expected_means(fit, grid)
    lost = (grid.weights > 0) @ ~estimable(fit.design.fixed, encode_all(fit.design.fixed, grid.frame))
    covariance = np.nan_to_num(fit.full_covariance)
    return Estimated(curve(fit.omega), _jacobian(curve, fit.omega, covariance), covariance,
                     lambda moves: np.full(len(moves), np.inf), lambda weights: ~((weights != 0) @ lost))


def expected_means(fit: Fit, grid: ReferenceGrid) -> Callable[[Array], Array]:
    """All parameters omega to E(Y) of each cell; rows of the grid that are not estimable count as zero."""
    rows = grid_rows(fit, grid.frame)
    columns = [np.hstack([encode_all(part, grid.frame)[:, part.keep] for part in f.parts]) for f in fit.design.factors]
    rows = replace(rows, x=np.nan_to_num(rows.x))
    return lambda omega: np.asarray(grid.weights @ _expected(moved(fit, omega), rows, columns))


def moved(fit: Fit, omega: Array) -> Estimates:
    """The estimates with other values of all parameters, everything else as it is."""
    ends = np.cumsum([len(fit.beta), len(fit.delta), len(fit.zero), len(fit.cut)])
    beta, delta, zero, cut, theta = np.split(omega, ends)
    return replace(fit, beta=beta, delta=delta, zero=zero, cut=cut, theta=theta)


def _expected(fit: Estimates, rows: Rows, columns: list[Array]) -> Array:
    """E(Y) (m,) over normal random effects with columns (m, q_k) of each grouping factor."""
    eta = rows.x @ fit.beta + rows.offset
    pairs = zip(columns, fit.roots, strict=True)
    variance = np.sum([np.zeros(len(eta)), *(np.square(z @ root).sum(axis=1) for z, root in pairs)], axis=0)
    points, weights = roots_hermitenorm(NODES)
    values = [to_scale(fit, rows, eta + np.sqrt(variance) * point, "response") for point in points]
    return np.asarray(np.tensordot(weights / weights.sum(), np.stack(values), axes=1))


def _jacobian(curve: Callable[[Array], Array], omega: Array, covariance: Array) -> Array:
    """Derivatives (k, c) of the curve in all parameters, by central differences of a thousandth standard error."""
    spread = np.sqrt(np.maximum(np.diag(covariance), 0.0))
    steps = np.where(spread > 0, 1e-3 * spread, 1e-5)
    return np.stack([(curve(omega + move) - curve(omega - move)) / (2 * step)
                     for step, move in zip(steps, np.diag(steps), strict=True)], axis=1)
