"""Gaussian, lognormal and gamma: real and positive responses.

kappa is log sigma^2 for gaussian (of y) and lognormal (of log y), and log shape for gamma: glmmTMB 1.1.5's scales,
where it has the family. The lognormal's eta is the mean of log y: the linear model of log y with its Jacobian.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy import special, stats

from canopy_stats.mixed.families.chain import through
from canopy_stats.mixed.families.family import Array, Density, Derivatives, Family, Others, Refusal
from canopy_stats.mixed.families.links import POSITIVE, REAL, choose_link, unit_of
from canopy_stats.mixed.families.polygamma import polygammas

LARGEST_KAPPA = 25.0
EDGE = 12.0


def _start_variance(y: Array, trials: Array, residual: Array) -> float:
    return float(np.log(max(float(np.var(residual)), 1e-300)))


def _mean_sd(kappa: Array, y: Array) -> float:
    return float(np.sqrt(np.mean(np.exp(kappa))))


def gaussian_density(y: Array, kappa: Array) -> Density:
    """Normal distribution with mean s and variance exp(kappa)."""
    precision, zero = np.exp(-kappa), np.zeros(len(y))
    constant = -0.5 * (np.log(2 * np.pi) + kappa)

    def density(s: Array, order: int) -> Derivatives:
        residual = y - s
        scaled = residual * precision
        squares = residual * scaled
        return Derivatives(
            constant - 0.5 * squares, scaled, -precision, precision, zero, 0.5 * (squares - 1), -0.5 * squares, -scaled,
            precision,
        )

    return density


def _none(y: Array, trials: Array) -> Iterator[Refusal]:
    return iter(())


def gaussian_family(link: str | None, facts: tuple[Any, ...] = (), labels: tuple[str, ...] = ()) -> Family:
    """Normal distribution; identity or log link."""
    chosen = choose_link("gaussian", link, REAL)
    natural = chosen.natural is None

    def cdf(y: Array, eta: Array, rest: Others) -> tuple[Array, Array]:
        p = stats.norm.cdf((y - chosen.predictor(eta)) * np.exp(-0.5 * rest.kappa))
        return p, p

    return Family(
        "gaussian", chosen.name, lambda y, rest: through(chosen, gaussian_density(y, rest.kappa)),
        lambda eta, rest: chosen.predictor(eta), lambda eta, rest: np.exp(rest.kappa),
        lambda eta, rest, rng: chosen.predictor(eta) + np.exp(0.5 * rest.kappa) * rng.standard_normal(len(eta)), cdf,
        _none, lambda y, trials: chosen.forward(y if natural else np.maximum(y, 1e-3 * np.abs(y).mean())),
        _start_variance if natural else lambda y, trials, residual: float(np.log(np.var(y))),
        dispersion="log sigma^2, the residual variance", unit=_mean_sd if natural else lambda kappa, y: 1.0,
        normal=natural, make=gaussian_family,
    )


def _positive(y: Array, trials: Array) -> Iterator[Refusal]:
    yield y <= 0, "{name} is not positive in {rows}, which family={family!r} cannot have. Mend these rows."


def lognormal_family(link: str | None, facts: tuple[Any, ...] = (), labels: tuple[str, ...] = ()) -> Family:
    """log y is normal with mean eta and variance exp(kappa); mean of y exp(eta + sigma^2 / 2)."""
    choose_link("lognormal", link, {"log": POSITIVE["log"]})

    def bind(y: Array, rest: Others) -> Density:
        plain, log_y = gaussian_density(np.log(y), rest.kappa), np.log(y)

        def density(eta: Array, order: int) -> Derivatives:
            at = plain(eta, order)
            return Derivatives(at.value - log_y, *(getattr(at, name) for name in Derivatives.__slots__[1:]))

        return density

    def mean(eta: Array, rest: Others) -> Array:
        return np.asarray(np.exp(eta + 0.5 * np.exp(rest.kappa)))

    def cdf(y: Array, eta: Array, rest: Others) -> tuple[Array, Array]:
        p = stats.norm.cdf((np.log(y) - eta) * np.exp(-0.5 * rest.kappa))
        return p, p

    return Family(
        "lognormal", "log", bind, mean,
        lambda eta, rest: mean(eta, rest) ** 2 * np.expm1(np.exp(rest.kappa)),
        lambda eta, rest, rng: np.exp(eta + np.exp(0.5 * rest.kappa) * rng.standard_normal(len(eta))), cdf, _positive,
        lambda y, trials: np.log(y), _start_variance, dispersion="log sigma^2, the residual variance of the logarithm",
        unit=_mean_sd, make=lognormal_family,
    )


def gamma_density(y: Array, kappa: Array) -> Density:
    """Gamma distribution with log mean s and shape exp(kappa)."""
    shape = np.exp(np.where(np.abs(kappa) < LARGEST_KAPPA, kappa, np.nan))
    log_y = np.log(y)
    lgamma, psi, trigamma = polygammas(shape, 2)
    constant = shape * kappa - shape - lgamma - log_y
    centre, bend = kappa - psi, 1 - shape * trigamma

    def density(s: Array, order: int) -> Derivatives:
        log_ratio = log_y - s
        ratio = np.exp(log_ratio)
        part = 1 + log_ratio - ratio
        d1, d3 = shape * np.expm1(log_ratio), shape * ratio
        k1 = shape * (centre + part)
        return Derivatives(constant + shape * part, d1, -d3, shape, d3, k1, k1 + shape * bend, d1, -d3)

    return density


def gamma_family(link: str | None, facts: tuple[Any, ...] = (), labels: tuple[str, ...] = ()) -> Family:
    """Gamma distribution; variance mu^2 / shape; log or identity link."""
    chosen = choose_link("gamma", link, POSITIVE)

    def mean(eta: Array, rest: Others) -> Array:
        return np.asarray(np.exp(chosen.predictor(eta)))

    def cdf(y: Array, eta: Array, rest: Others) -> tuple[Array, Array]:
        p = special.gammainc(np.exp(rest.kappa), np.exp(rest.kappa) * y / mean(eta, rest))
        return p, p

    def draw(eta: Array, rest: Others, rng: np.random.Generator) -> Array:
        shape = np.exp(rest.kappa)
        drawn: Array = np.maximum(rng.gamma(shape, mean(eta, rest) / shape), np.finfo(float).tiny)
        return drawn

    return Family(
        "gamma", chosen.name, lambda y, rest: through(chosen, gamma_density(y, rest.kappa)), mean,
        lambda eta, rest: mean(eta, rest) ** 2 * np.exp(-rest.kappa), draw, cdf, _positive,
        lambda y, trials: chosen.forward(y),
        lambda y, trials, residual: -float(np.log(np.clip(np.var(np.log(y)), 1e-8, 1e2))),
        dispersion="log shape: the variance is mu^2 / shape", unit=unit_of(chosen),
        kappa_range=(-np.inf, EDGE), make=gamma_family,
    )
