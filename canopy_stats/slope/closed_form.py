"""Power of the interaction model without counting rejections: given a study's observed rates and lengths, its estimate
is linear in D, so the law gives the estimate's mean and variance, to second order in the random effects and errors.

The mean holds what measurement error and shared curvature do to the estimate, the variance what varying slopes do; the
model itself reports a standard error that knows of neither.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats
from scipy.special import expit

from canopy_stats.mixed import Fit
from canopy_stats.slope.coefficients import covariance as covariance_of
from canopy_stats.slope.coefficients import degrees_of_freedom, names
from canopy_stats.slope.models import TABLE
from canopy_stats.slope.paper import fit_model
from canopy_stats.slope.pilot import Pilot
from canopy_stats.slope.planned import (
    StudySize,
    Truth,
    draw_errors,
    draw_truth,
    error_of,
    loadings,
    observe,
    squared_slope,
    true_variance,
)
from canopy_stats.slope.prepare import prepare

Array = np.ndarray


@dataclass(frozen=True, slots=True)
class Expected:
    """Of one study's difference of slopes: mean and standard deviation by the law, and the model's own error and df."""

    mean: float
    sd: float
    se: float
    df: float

    def power(self, effect: float, level: float) -> float:
        """Chance of a significant estimate with the effect's sign (at effect zero: with either sign)."""
        limit = float(stats.t.ppf(1 - level / 2, self.df)) * self.se
        above, below = stats.norm.sf((limit - self.mean) / self.sd), stats.norm.sf((limit + self.mean) / self.sd)
        return float(above + below if effect == 0 else above if effect > 0 else below)


def expected_interaction(pilot: Pilot, size: StudySize, effect: float, stream: np.random.SeedSequence) -> Expected:
    """Draw a study's rates and lengths, and expect its estimate."""
    rng = np.random.default_rng(stream)
    truth = draw_truth(pilot, size, effect, rng)
    error = draw_errors(pilot, truth, rng)
    mean, noise = response_moments(pilot, truth, error)
    slope = expit(truth.eta) * expit(-truth.eta)
    drawn = mean + np.sqrt(noise) * rng.standard_normal(len(mean))
    for codes, column in loadings(pilot, truth):
        drawn = drawn + slope * column * rng.standard_normal(codes.max() + 1)[codes]
    panel = observe(pilot, truth, expit(truth.eta), error, rng).assign(D=drawn)
    fit = _interaction(panel)
    weights, place = contrast_weights(fit, pilot.tuned)
    variance = float(weights**2 @ noise)
    for codes, column in loadings(pilot, truth):
        variance += float(np.sum(np.bincount(codes, weights * slope * column) ** 2))
    df = float(degrees_of_freedom(fit, np.eye(len(fit.beta))[[place]])[0])
    se = float(np.sqrt(covariance_of(fit)[place, place]))
    return Expected(float(weights @ mean), float(np.sqrt(variance)), se, df)


def response_moments(pilot: Pilot, truth: Truth, error: Array) -> tuple[Array, Array]:
    """Mean (n,) of the observed D and its variance (n,) given rates, lengths and their errors (n, 3); the variance
    without the random effects' part."""
    mu = expit(truth.eta)
    slope, bend = mu * (1 - mu), mu * (1 - mu) * (1 - 2 * mu)
    spread = sum(column**2 for _, column in loadings(pilot, truth))
    covariance = error_of(pilot, truth)
    variance = true_variance(pilot, truth, mu)
    if pilot.error is None:
        return mu + bend * spread / 2, variance
    on = np.linalg.solve(covariance[:, 1:, 1:], covariance[:, 1:, :1])[:, :, 0]
    left = covariance[:, 0, 0] - np.einsum("ni,ni->n", on, covariance[:, 1:, 0])
    shift = (slope - variance) * np.einsum("ni,ni->n", on, error[:, 1:])
    return mu + bend * (spread + covariance[:, 0, 0]) / 2 + shift, variance + squared_slope(mu, variance) * left


def _interaction(panel: pd.DataFrame) -> Fit:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return fit_model(prepare(panel), TABLE["interaction"])


def contrast_weights(fit: Fit, tuned: str) -> tuple[Array, int]:
    """Weights (n,) whose product with the response is the interaction's estimate, and its place among coefficients."""
    place = names(fit).index(f"R_bar:model_variant[T.{tuned}]")
    x, codes = fit.design.fixed.matrix, fit.design.factors[0].codes
    squared = float(fit.theta[0] ** 2)
    share = squared / (1 + squared * np.bincount(codes))
    sums = np.stack([np.bincount(codes, column) for column in x.T], axis=1)
    weighted = x - (share[:, None] * sums)[codes]
    return weighted @ np.linalg.solve(x.T @ weighted, np.eye(x.shape[1])[place]), place
