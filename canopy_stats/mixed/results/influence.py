"""What single levels of a group do to the coefficients: each is left out, the model fitted again or stepped once."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pandas as pd

from canopy_stats.mixed.algebra.blocks import Array
from canopy_stats.mixed.certificate import Certificate
from canopy_stats.mixed.estimates import Estimates
from canopy_stats.mixed.fitting import laplace
from canopy_stats.mixed.fitting.linear import Linear
from canopy_stats.mixed.fitting.ways import Way
from canopy_stats.mixed.formulas.checks import independent_columns
from canopy_stats.mixed.formulas.clusters import cluster_codes
from canopy_stats.mixed.formulas.levels import shown
from canopy_stats.mixed.model_frame import take
from canopy_stats.schema import UserError


def influence(fit: Estimates, way: Way, certificate: Certificate, group: Any, refit: bool) -> pd.DataFrame:
    """One row a level: level, rows, cooks_distance and 'dfbetas x' of every coefficient; see ``Fit.influence``."""
    if fit.errors:
        raise UserError("influence() is of the model's own fit; use the fit before robust().")
    codes, levels, name = cluster_codes(group, fit.design.data)
    if len(levels) < 3:
        raise UserError(f"{name} has {len(levels)} level(s); leaving one out needs at least three.")
    found = [_without(fit, way, certificate, codes, level, refit) for level in range(len(levels))]
    lost = {level: reason for level, reason in zip(levels, found, strict=True) if isinstance(reason, str)}
    if lost:
        first, reason = next(iter(lost.items()))
        warnings.warn(f"Without {shown(list(lost))} there is no fit, so NaN (for {first}: {reason}).", stacklevel=3)
    p = len(fit.beta)
    nothing = (np.full(p, np.nan), np.full(p, np.nan))
    moved, errors = (np.stack(part) for part in zip(*(nothing if isinstance(row, str) else row for row in found),
                                                    strict=True))
    distance = np.einsum("ka,ab,kb->k", moved, np.linalg.inv(fit.covariance[:p, :p]), moved) / p
    table = pd.DataFrame({"level": levels, "rows": np.bincount(codes), "cooks_distance": distance})
    for place, term in enumerate(fit.design.fixed.names):
        table[f"dfbetas {term}"] = moved[:, place] / errors[:, place]
    table.attrs["group"] = name
    return table


def _without(fit: Estimates, way: Way, certificate: Certificate, codes: Array, level: int, refit: bool
             ) -> tuple[Array, Array] | str:
    """The coefficients (p,) minus those without one level, and the errors (p,) of the latter; or why there are none."""
    rows = np.flatnonzero(codes != level)
    frame = take(fit.frame, rows, np.zeros(len(rows), dtype=np.intp), codes)
    if not independent_columns(frame.design.fixed.matrix).all():
        return "some coefficients cannot be estimated without it"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            other = way.to(frame)
            beta, covariance = _refitted(other, fit) if refit else _stepped(other, fit, certificate)
        except (UserError, ArithmeticError, np.linalg.LinAlgError) as error:
            return str(error)
    return fit.beta - beta, np.sqrt(np.diag(covariance)[: len(beta)])


def _refitted(way: Way, fit: Estimates) -> tuple[Array, Array]:
    found = way.estimate(fit)
    return found.beta, found.covariance


def _stepped(way: Way, fit: Estimates, certificate: Certificate) -> tuple[Array, Array]:
    """Linear models at the variances of all rows; others by one step along the gradient, in the metric of all rows."""
    if isinstance(way, Linear):
        found = way.at_theta(fit.theta, certificate)
        return found.beta, found.covariance
    problem, omega, _ = way.marginal(fit)
    at = laplace.evaluate(problem, omega)
    if at is None:
        raise UserError("the likelihood is not defined there")
    p = len(fit.beta)
    return fit.beta + (fit.full_covariance @ at.gradient)[:p], fit.covariance[:p, :p]
