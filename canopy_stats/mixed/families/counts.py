"""Poisson and negative binomial counts, and the same truncated at zero.

kappa is log phi: nbinom1 has variance mu (1 + phi), nbinom2 mu + mu^2 / phi (Hardin & Hilbe 2007; glmmTMB's names and
scales).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from scipy import special, stats

from canopy_stats.mixed.families.chain import through
from canopy_stats.mixed.families.family import Array, Density, Derivatives, Family, Maker, Others, Refusal
from canopy_stats.mixed.families.links import POSITIVE, Link, choose_link, unit_of
from canopy_stats.mixed.families.rising import rising

LARGEST_KAPPA = 30.0
EDGE = 12.0
Bind = Callable[[Array, Array], Density]


def poisson_density(y: Array, kappa: Array) -> Density:
    """Poisson distribution with log mean s."""
    constant = -special.gammaln(y + 1)

    def density(s: Array, order: int) -> Derivatives:
        mu = np.exp(s)
        return Derivatives(y * s - mu + constant, y - mu, -mu, mu, -mu)

    return density


def nbinom2_density(y: Array, kappa: Array) -> Density:
    """Negative binomial of size theta = exp(kappa); t = s - kappa, p = mu / (mu + theta)."""
    kappa = np.where(np.abs(kappa) < LARGEST_KAPPA, kappa, np.nan)
    size = np.exp(kappa)
    r = rising(size, y, 2)
    constant = r[0] - special.gammaln(y + 1)
    rise = size * r[1]
    bend = rise + size**2 * r[2]

    def density(s: Array, order: int) -> Derivatives:
        t = s - kappa
        p, q = special.expit(t), special.expit(-t)
        soft, curve = np.logaddexp(0.0, t), (size + y) * p * q
        value = constant - size * soft - y * np.logaddexp(0.0, -t)
        d1 = y * q - size * p
        first = Derivatives(value, d1, -curve, size * p)
        if order < 3:
            return first
        twist = curve * (q - p)
        k1, kk = rise - size * soft - d1, bend - size * soft + 2 * size * p - curve
        return Derivatives(value, d1, -curve, size * p, -twist, k1, kk, curve - size * p, twist - size * p * q)

    return density


def nbinom1_density(y: Array, kappa: Array) -> Density:
    """Negative binomial of size r = mu / phi, phi = exp(kappa)."""
    kappa = np.where(np.abs(kappa) < LARGEST_KAPPA, kappa, np.nan)
    soft, share = np.logaddexp(0.0, kappa), special.expit(kappa)
    constant = -special.gammaln(y + 1) - y * np.logaddexp(0.0, -kappa)

    def density(s: Array, order: int) -> Derivatives:
        size = np.exp(s - kappa)
        r = rising(size, y, order)
        d1 = size * (r[1] - soft)
        bend = size**2 * r[2]
        value, d2, fisher = constant + r[0] - size * soft, d1 + bend, size * share
        if order < 3:
            return Derivatives(value, d1, d2, fisher)
        d3 = d1 + 3 * bend + size**3 * r[3]
        k1 = y * (1 - share) - d1 - fisher
        kk = d2 + 2 * fisher - (size + y) * share * (1 - share)
        return Derivatives(value, d1, d2, fisher, d3, k1, kk, -d2 - fisher, -d3 - fisher)

    return density


def whole(y: Array, trials: Array) -> Iterator[Refusal]:
    """Counts are whole numbers from zero."""
    yield (y < 0) | (y != np.round(y)), (
        "{name} is not a count (0, 1, 2, ...) in {rows}, which family={family!r} needs. Mend these rows."
    )


def _start_size(y: Array, trials: Array, residual: Array) -> float:
    """log theta from mean and variance."""
    mean, variance = max(float(y.mean()), 1e-3), float(y.var())
    return float(np.log(np.clip(mean**2 / max(variance - mean, 1e-3 * mean), 0.1, 100)))


def _start_excess(y: Array, trials: Array, residual: Array) -> float:
    """log phi from the ratio of variance to mean."""
    return float(np.log(np.clip(float(y.var()) / max(float(y.mean()), 1e-3) - 1, 0.1, 100)))


def _start(link: Link) -> Callable[[Array, Array], Array]:
    return lambda y, trials: link.forward(y + 0.5 * (y < 1))


def _mean(link: Link) -> Callable[[Array, Others], Array]:
    return lambda eta, rest: np.exp(link.predictor(eta))


def _family(
    name: str, link: Link, density: Bind, variance: Callable[[Array, Array], Array],
    sizes: Callable[[Array, Array], Array] | None, start_kappa: Callable[[Array, Array, Array], float] | None,
    dispersion: str, make: Maker,
) -> Family:
    """A count family from its density, its variance (mean, kappa) and its negative binomial size (None: Poisson)."""
    mean = _mean(link)

    def draw(eta: Array, rest: Others, rng: np.random.Generator) -> Array:
        mu = mean(eta, rest)
        if sizes is not None:
            size = np.maximum(sizes(mu, rest.kappa), 1e-12)
            mu = rng.gamma(size, mu / size)
        counts: Array = rng.poisson(np.minimum(mu, 1e15)).astype(float)
        return counts

    def cdf(y: Array, eta: Array, rest: Others) -> tuple[Array, Array]:
        mu = mean(eta, rest)
        if sizes is None:
            return stats.poisson.cdf(y - 1, mu), stats.poisson.cdf(y, mu)
        size = sizes(mu, rest.kappa)
        share = size / (size + mu)
        return stats.nbinom.cdf(y - 1, size, share), stats.nbinom.cdf(y, size, share)

    return Family(
        name, link.name, lambda y, rest: through(link, density(y, rest.kappa)), mean,
        lambda eta, rest: variance(mean(eta, rest), rest.kappa), draw, cdf, whole, _start(link), start_kappa,
        dispersion=dispersion, unit=unit_of(link), eta_range=(-EDGE if link.natural is None else -np.inf, np.inf),
        kappa_range=(-np.inf, EDGE) if name == "nbinom2" else (-EDGE, np.inf), counts=True, make=make,
        sharp="the counts vary as Poisson ones do, try that family.",
    )


def poisson_family(link: str | None, facts: tuple[Any, ...] = (), labels: tuple[str, ...] = ()) -> Family:
    """Poisson counts; log or identity link."""
    return _family("poisson", choose_link("poisson", link, POSITIVE), poisson_density, lambda mu, kappa: mu,
                   None, None, "", poisson_family)


def nbinom1_family(link: str | None, facts: tuple[Any, ...] = (), labels: tuple[str, ...] = ()) -> Family:
    """Negative binomial with variance mu (1 + phi); log or identity link."""
    return _family(
        "nbinom1", choose_link("nbinom1", link, POSITIVE), nbinom1_density,
        lambda mu, kappa: mu * (1 + np.exp(kappa)), lambda mu, kappa: mu * np.exp(-kappa), _start_excess,
        "log phi: the variance is mu (1 + phi)", nbinom1_family,
    )


def nbinom2_family(link: str | None, facts: tuple[Any, ...] = (), labels: tuple[str, ...] = ()) -> Family:
    """Negative binomial with variance mu + mu^2 / phi; log or identity link."""
    return _family(
        "nbinom2", choose_link("nbinom2", link, POSITIVE), nbinom2_density,
        lambda mu, kappa: mu + mu**2 * np.exp(-kappa), lambda mu, kappa: np.exp(kappa) + 0 * mu, _start_size,
        "log phi: the variance is mu + mu^2 / phi", nbinom2_family,
    )
