"""What slope models ask of a mixed model's fit: combinations of its mean's coefficients, with errors and df."""

from __future__ import annotations

import numpy as np

from canopy_stats.mixed import Fit
from canopy_stats.mixed.families.family import Derivatives
from canopy_stats.mixed.inference.laplace_df import laplace_df

Array = np.ndarray


def names(fit: Fit) -> list[str]:
    """Names of the mean's independent coefficients (p)."""
    return list(fit.design.fixed.names)


def covariance(fit: Fit) -> Array:
    """Covariance (p, p) of the mean's coefficients."""
    p = len(fit.beta)
    return np.asarray(fit.covariance[:p, :p])


def degrees_of_freedom(fit: Fit, rows: Array) -> Array:
    """Degrees of freedom (k,) of combinations (k, p): Satterthwaite's, of a linear model and of one by Laplace."""
    if not len(rows):
        return np.empty(0)
    return fit.degrees_of_freedom(rows) if fit.family == "lmm" else laplace_df(fit, rows)


def combined(fit: Fit, rows: Array) -> tuple[Array, Array, Array]:
    """Values (k,), covariance (k, k) and degrees of freedom (k,) of combinations (k, p)."""
    return rows @ fit.beta, rows @ covariance(fit) @ rows.T, degrees_of_freedom(fit, rows)


def slope_row(fit: Fit, rate: str, variant: str | None) -> Array:
    """Weights (p,) of the coefficients in a variant's slope (None: the reference level's); NaN if one is aliased."""
    known = names(fit)
    terms = [rate, *([f"{rate}:model_variant[T.{variant}]"] if variant is not None else [])]
    if not set(terms) <= set(known):
        return np.full(len(known), np.nan)
    return np.isin(known, terms).astype(float)


def uncertified(fit: Fit) -> tuple[str, ...]:
    """A note on a fit whose optimum is not certified."""
    return () if fit.converged else (f"The fit is not certified: {fit.certificate}",)


def row_derivatives(fit: Fit) -> Derivatives:
    """Of each row's log-density in its linear predictor, at the estimates and the conditional modes: first derivative
    ``d1`` (n,) and expected information ``fisher`` (n,)."""
    frame = fit.frame
    return frame.family.bind(frame.y, fit.others())(fit.predict(scale="link"), 2)
