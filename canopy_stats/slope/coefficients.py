"""What slope models ask of a mixed model's fit: combinations of its mean's coefficients, with errors and df."""

from __future__ import annotations

import numpy as np
from scipy.special import digamma, expit, logit, polygamma

from canopy_stats.mixed import Fit
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


def scores(fit: Fit) -> Array:
    """Derivative (n,) of each row's log-density in its linear predictor, at the estimates and the conditional modes,
    of a beta or ordered beta fit."""
    phi = np.exp(fit.dispersion.matrix @ fit.delta) if fit.dispersion is not None else np.ones(fit.nobs)
    eta = fit.predict(scale="link")
    y, cutpoints = np.asarray(fit.design.y, dtype=float), fit.thresholds.to_numpy(dtype=float)
    inside = (y > 0) & (y < 1)
    mu, safe = expit(eta), np.where(inside, y, 0.5)
    beta = phi * mu * (1 - mu) * (logit(safe) - digamma(mu * phi) + digamma((1 - mu) * phi))
    if not len(cutpoints):
        return np.asarray(beta)
    # Ordered beta: P(0) = expit(c0 - eta), P(1) = expit(eta - c1), what is left is beta.
    none, one = expit(cutpoints[0] - eta), expit(eta - cutpoints[1])
    between = (none * (1 - none) - one * (1 - one)) / np.maximum(1 - none - one, 1e-300)
    return np.asarray(np.where(inside, beta + between, np.where(y <= 0, none - 1, 1 - one)))


def weights(fit: Fit) -> Array:
    """Information (n,) of each row on its linear predictor, expected by the beta part of the model."""
    phi = np.exp(fit.dispersion.matrix @ fit.delta) if fit.dispersion is not None else np.ones(fit.nobs)
    mu = expit(fit.predict(scale="link"))
    found = (phi * mu * (1 - mu))**2 * (polygamma(1, mu * phi) + polygamma(1, (1 - mu) * phi))
    return np.asarray(found)
