"""Binomial and betabinomial: successes out of trials (0/1 is one trial).

kappa of the betabinomial is log phi, with a = mu phi and b = (1 - mu) phi (glmmTMB's scale): the variance is
n mu (1 - mu) (n + phi) / (1 + phi).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from scipy import special, stats

from canopy_stats.mixed.families.chain import through
from canopy_stats.mixed.families.family import Array, Density, Derivatives, Family, Others, Refusal
from canopy_stats.mixed.families.links import SHARES, Link, choose_link
from canopy_stats.mixed.families.rising import rising

LARGEST_KAPPA = 30.0
EDGE = 12.0


def log_choose(n: Array, k: Array) -> Array:
    """Logarithm of the binomial coefficient."""
    return np.asarray(special.gammaln(n + 1) - special.gammaln(k + 1) - special.gammaln(n - k + 1))


def binomial_density(y: Array, trials: Array) -> Density:
    """Binomial distribution with logit s of the probability."""
    failures, constant = trials - y, log_choose(trials, y)

    def density(s: Array, order: int) -> Derivatives:
        p = special.expit(s)
        q = special.expit(-s)
        value = constant - y * np.logaddexp(0.0, -s) - failures * np.logaddexp(0.0, s)
        curve = trials * p * q
        return Derivatives(value, y * q - failures * p, -curve, curve, -curve * (q - p))

    return density


def betabinomial_density(y: Array, kappa: Array, trials: Array) -> Density:
    """Betabinomial distribution with logit s of the mean share; v = dmu/ds."""
    phi = np.exp(np.where(np.abs(kappa) < LARGEST_KAPPA, kappa, np.nan))
    failures, constant = trials - y, log_choose(trials, y)
    whole = rising(phi, trials, 2)
    expected = trials * (1 + phi) / (trials + phi)

    def density(s: Array, order: int) -> Derivatives:
        mu, nu = special.expit(s), special.expit(-s)
        a, b, v, skew = mu * phi, nu * phi, mu * nu, nu - mu
        ga, gb = rising(np.maximum(a, 1e-80), y, order), rising(np.maximum(b, 1e-80), failures, order)
        value = constant + ga[0] + gb[0] - whole[0]
        score, curve = phi * (ga[1] - gb[1]), phi**2 * (ga[2] + gb[2])
        first = Derivatives(value, score * v, curve * v**2 + score * v * skew, expected * v)
        if order < 3:
            return first
        d3 = v * (phi**3 * (ga[3] - gb[3]) * v**2 + 3 * curve * v * skew + score * (1 - 6 * v))
        a2, b2 = a * ga[2], b * gb[2]
        mixed, twist = score + phi * (a2 - b2), 2 * curve + phi**2 * (a * ga[3] + b * gb[3])
        k1 = a * ga[1] + b * gb[1] - phi * whole[1]
        kk = k1 + a * a2 + b * b2 - phi**2 * whole[2]
        return Derivatives(
            value, first.d1, first.d2, first.fisher, d3, k1, kk, v * mixed, v * (v * twist + skew * mixed),
        )

    return density


def _refuse(y: Array, trials: Array) -> Iterator[Refusal]:
    single = bool(np.all(trials == 1))
    yield (y < 0) | (y > trials) | (y != np.round(y)), (
        "{name} is not 0 or 1 in {rows}; family={family!r} takes 0/1, cbind(successes, failures), or shares with"
        " weights that are the numbers of trials." if single else
        "{name} is no whole number of successes between 0 and the trials in {rows}. Mend these rows."
    )


def _binomial_cdf(y: Array, s: Array, rest: Others) -> tuple[Array, Array]:
    p = special.expit(s)
    return stats.binom.cdf(y - 1, rest.trials, p), stats.binom.cdf(y, rest.trials, p)


def _variance(s: Array, excess: Array, trials: Array) -> Array:
    mu = special.expit(s)
    return np.asarray(mu * (1 - mu) * excess / trials)


def _start(link: Link) -> Callable[[Array, Array], Array]:
    return lambda y, trials: link.forward((y + 0.5) / (trials + 1))


def binomial_family(link: str | None, facts: tuple[Any, ...] = (), labels: tuple[str, ...] = ()) -> Family:
    """Binomial distribution; logit, probit, cloglog, log or identity link."""
    chosen = choose_link("binomial", link, SHARES)
    s = chosen.predictor
    return Family(
        "binomial", chosen.name, lambda y, rest: through(chosen, binomial_density(y, rest.trials)),
        lambda eta, rest: special.expit(s(eta)), lambda eta, rest: _variance(s(eta), np.ones(len(eta)), rest.trials),
        lambda eta, rest, rng: rng.binomial(rest.trials.astype(int), special.expit(s(eta))).astype(float),
        lambda y, eta, rest: _binomial_cdf(y, s(eta), rest), _refuse, _start(chosen), eta_range=(-EDGE, EDGE),
        trials=True, make=binomial_family,
    )


def betabinomial_cdf(y: Array, n: Array, a: Array, b: Array) -> tuple[Array, Array]:
    """P(Y < y) and P(Y <= y) (m,) by the ratios of successive probabilities; scipy's own is a loop over rows."""
    log_p = special.betaln(a, n + b) - special.betaln(a, b)
    below, upto = np.zeros((2, len(log_p)))
    for k in range(int(min(np.max(y, initial=-1), np.max(n, initial=0))) + 1):
        p = np.exp(log_p)
        below, upto = below + np.where(k < y, p, 0.0), upto + np.where(k <= y, p, 0.0)
        left = n - k
        with np.errstate(divide="ignore"):
            step = np.log(np.maximum(left, 0) / (k + 1)) + np.log(a + k) - np.log(np.maximum(b + left - 1, 1e-300))
        log_p = log_p + np.where(left > 0, step, -np.inf)
    return below, upto


def betabinomial_family(link: str | None, facts: tuple[Any, ...] = (), labels: tuple[str, ...] = ()) -> Family:
    """Betabinomial distribution; logit, probit or cloglog link."""
    chosen = choose_link("betabinomial", link, {name: SHARES[name] for name in ("logit", "probit", "cloglog")})
    s = chosen.predictor

    def shapes(eta: Array, rest: Others) -> tuple[Array, Array]:
        return special.expit(s(eta)) * np.exp(rest.kappa), special.expit(-s(eta)) * np.exp(rest.kappa)

    def draw(eta: Array, rest: Others, rng: np.random.Generator) -> Array:
        a, b = (np.maximum(shape, 1e-12) for shape in shapes(eta, rest))
        return rng.binomial(rest.trials.astype(int), np.nan_to_num(rng.beta(a, b), nan=0.5)).astype(float)

    def cdf(y: Array, eta: Array, rest: Others) -> tuple[Array, Array]:
        return betabinomial_cdf(y, rest.trials, *shapes(eta, rest))

    def excess(rest: Others) -> Array:
        phi = np.exp(rest.kappa)
        return np.asarray((rest.trials + phi) / (1 + phi))

    return Family(
        "betabinomial", chosen.name, lambda y, rest: through(chosen, betabinomial_density(y, rest.kappa, rest.trials)),
        lambda eta, rest: special.expit(s(eta)), lambda eta, rest: _variance(s(eta), excess(rest), rest.trials), draw,
        cdf, _refuse, _start(chosen), lambda y, trials, residual: 2.0,
        dispersion="log phi: the binomial variance times (n + phi) / (1 + phi)", eta_range=(-EDGE, EDGE),
        kappa_range=(-np.inf, EDGE), sharp="the counts vary as binomial ones do, try that family.",
        trials=True, make=betabinomial_family,
    )
