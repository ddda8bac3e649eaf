"""What slope models ask of a mixed model's fit: combinations of its mean's coefficients, with errors and df."""

from __future__ import annotations

import numpy as np

from canopy_stats.mixed import Fit

Array = np.ndarray


def names(fit: Fit) -> list[str]:
    """Names of the mean's independent coefficients (p)."""
    return list(fit.design.fixed.names)


def covariance(fit: Fit) -> Array:
    """Covariance (p, p) of the mean's coefficients."""
    p = len(fit.beta)
    return np.asarray(fit.covariance[:p, :p])


def degrees_of_freedom(fit: Fit, rows: Array) -> Array:
    """Degrees of freedom (k,) of combinations (k, p): Satterthwaite's for linear models, infinite for beta models."""
    return fit.degrees_of_freedom(rows) if len(rows) else np.empty(0)


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
