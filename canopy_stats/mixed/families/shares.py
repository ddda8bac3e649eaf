"""Beta and ordered beta: shares between 0 and 1, the second with a probability of exactly 0 and exactly 1.

The mean is mu, kappa is log phi (precision). The cutpoints of ordbeta are c1 and c1 + exp(gap), estimated as (c1, gap)
(Kubinec 2022; glmmTMB's ordbeta).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy import special

from canopy_stats.mixed.families.chain import through
from canopy_stats.mixed.families.family import Array, Cuts, Density, Derivatives, Family, Others, Refusal
from canopy_stats.mixed.families.links import SHARES, Link, choose_link
from canopy_stats.mixed.families.polygamma import polygammas

LARGEST_ETA = 30.0
LARGEST_KAPPA = 25.0
"""Beyond this log precision the log-density loses its digits; it is undefined (nan) there."""
EDGE = 12.0


# beta ---------------------------------------------------------------------------------------------------------------


def beta_family(link: str | None, facts: tuple[Any, ...] = (), labels: tuple[str, ...] = ()) -> Family:
    """Beta distribution with mean mu and precision phi (Ferrari & Cribari-Neto 2004), 0 < y < 1."""
    chosen = choose_link("beta", link, SHARES)
    return Family(
        "beta", chosen.name, lambda y, rest: through(chosen, beta_density(y, rest.kappa)),
        lambda eta, rest: special.expit(chosen.predictor(eta)),
        lambda eta, rest: _beta_variance(chosen.predictor(eta), rest),
        lambda eta, rest, rng: beta_draw(chosen.predictor(eta), rest.kappa, rng),
        lambda y, eta, rest: beta_cdf(y, chosen.predictor(eta), rest.kappa), _beta_refuse,
        lambda y, trials: _inner(y, chosen), _start_kappa, dispersion="log phi, the precision",
        eta_range=(-EDGE, EDGE), kappa_range=(-np.inf, EDGE), make=beta_family,
    )


def beta_density(y: Array, kappa: Array) -> Density:
    """The beta density in s = logit(mu)."""
    log_y, log_1my = np.log(y), np.log1p(-y)
    phi = np.exp(np.where(np.abs(kappa) < LARGEST_KAPPA, kappa, np.nan))
    at_phi = polygammas(phi, 2)

    def density(s: Array, order: int) -> Derivatives:
        return _beta(np.clip(s, -LARGEST_ETA, LARGEST_ETA), phi, at_phi, log_y, log_1my, order)

    return density


def _beta(s: Array, phi: Array, at_phi: tuple[Array, ...], log_y: Array, log_1my: Array, order: int) -> Derivatives:
    """All beta derivatives; a = mu phi, b = (1 - mu) phi, v = dmu/ds."""
    mu = special.expit(s)
    a = mu * phi
    b = phi - a if np.all(np.abs(s) < 15) else special.expit(-s) * phi
    v, skew = mu * (b / phi), (b - a) / phi
    ga, gb = _pairs(polygammas(np.stack([a, b]), order))
    value = at_phi[0] - ga[0] - gb[0] + (a - 1) * log_y + (b - 1) * log_1my
    score = phi * (log_y - log_1my - ga[1] + gb[1])
    curve = phi**2 * (ga[2] + gb[2])
    fisher = curve * v**2
    d1, d2 = score * v, score * skew * v - fisher
    if order < 3:
        return Derivatives(value, d1, d2, fisher)
    d3 = v * (score * (1 - 6 * v) - 3 * curve * v * skew - phi**3 * (ga[3] - gb[3]) * v**2)
    a1, b1 = a * ga[2], b * gb[2]
    mixed = score - phi * (a1 - b1)
    twist = 2 * curve + phi**2 * (a * ga[3] + b * gb[3])
    k1 = phi * at_phi[1] - a * (ga[1] - log_y) - b * (gb[1] - log_1my)
    kk = k1 + phi**2 * at_phi[2] - a * a1 - b * b1
    return Derivatives(value, d1, d2, fisher, d3, k1, kk, v * mixed, v * (skew * mixed - v * twist))


def _pairs(stacked: tuple[Array, ...]) -> tuple[list[Array], list[Array]]:
    """Functions of (a, b) stacked (2, n), as those of a and those of b."""
    return [values[0] for values in stacked], [values[1] for values in stacked]


def beta_draw(s: Array, kappa: Array, rng: np.random.Generator) -> Array:
    mu, phi = special.expit(s), np.exp(kappa)
    tiny = np.finfo(float).tiny
    y = rng.beta(np.maximum(mu * phi, tiny), np.maximum((1 - mu) * phi, tiny))
    inside: Array = np.clip(y, 1e-12, 1 - 1e-12)
    return inside


def beta_cdf(y: Array, s: Array, kappa: Array) -> tuple[Array, Array]:
    mu, phi = special.expit(s), np.exp(kappa)
    p = special.betainc(mu * phi, (1 - mu) * phi, y)
    return p, p


def _beta_variance(s: Array, rest: Others) -> Array:
    mu = special.expit(s)
    return np.asarray(mu * (1 - mu) / (1 + np.exp(rest.kappa)))


def _refuse_outside(y: Array) -> Iterator[Refusal]:
    yield (y < 0) | (y > 1), "{name} is outside [0, 1] in {rows}, which family={family!r} cannot have. Mend these rows."


def _beta_refuse(y: Array, trials: Array) -> Iterator[Refusal]:
    yield from _refuse_outside(y)
    yield (y == 0) | (y == 1), (
        "{name} is exactly 0 or 1 in {rows}, which a beta distribution cannot produce. Use family='ordbeta', or ask for"
        " squeeze=1e-6 to move these values inside."
    )


def _inner(y: Array, link: Link) -> Array:
    """The link at the responses between 0 and 1, NaN elsewhere."""
    inside = (y > 0) & (y < 1)
    return np.where(inside, link.forward(np.where(inside, y, 0.5)), np.nan)


def _start_kappa(y: Array, trials: Array, residual: Array) -> float:
    """log phi from the variance on the logit scale (delta method)."""
    variance, mean = max(float(np.var(residual)), 1e-300), float(np.clip(y.mean(), 0.01, 0.99))
    return float(np.log(max(1 / (variance * mean * (1 - mean)) - 1, 0.5)))


# ordered beta -------------------------------------------------------------------------------------------------------


def learn_edges(y: Array, facts: tuple[bool, ...] = ()) -> tuple[bool, ...]:
    """Whether a response has exact zeros, and exact ones."""
    return bool(np.any(y <= 0)), bool(np.any(y >= 1))


def ordbeta_family(link: str | None, facts: tuple[Any, ...] = (), labels: tuple[str, ...] = ()) -> Family:
    """Ordered beta: 0 below the first cutpoint, 1 above the second, a beta distribution between; logit link.

    The cutpoint is minus or plus infinity where ``facts`` say that no 0 or no 1 occurs.
    """
    zeros, ones = facts or (True, True)
    cuts = edge_cuts(zeros, ones)
    choose_link("ordbeta", link, {"logit": SHARES["logit"]})

    def shares(eta: Array, rest: Others) -> tuple[Array, Array]:
        return _edge_shares(eta, cuts.points(rest.cut))

    return Family(
        "ordbeta", "logit", lambda y, rest: ordbeta_density(y, rest, cuts),
        lambda eta, rest: _mean(eta, *shares(eta, rest)),
        lambda eta, rest: _variance(eta, rest.kappa, *shares(eta, rest)),
        lambda eta, rest, rng: _draw(eta, rest.kappa, *shares(eta, rest), rng),
        lambda y, eta, rest: _cdf(y, eta, rest.kappa, *shares(eta, rest)), lambda y, trials: _ordbeta_refuse(y),
        lambda y, trials: _inner(y, SHARES["logit"]), _start_kappa, dispersion="log phi, the precision between 0 and 1",
        eta_range=(-EDGE, EDGE), kappa_range=(-np.inf, EDGE), cuts=cuts, make=ordbeta_family,
        learn=learn_edges, facts=(zeros, ones),
    )


def _ordbeta_refuse(y: Array) -> Iterator[Refusal]:
    yield from _refuse_outside(y)
    if not np.any((y > 0) & (y < 1)):
        yield np.ones(len(y), dtype=bool), (
            "{name} is 0 or 1 in every row, so ordbeta's part between them has nothing to go by. Use family='binomial'."
        )


def edge_cuts(zeros: bool, ones: bool) -> Cuts:
    """Cutpoints of the ordered beta: both as (c1, log(c2 - c1)), one as itself, none."""
    names = ("threshold", "gap of the thresholds") if zeros and ones else ("threshold",) if zeros or ones else ()

    def points(cut: Array) -> Array:
        if zeros and ones:
            return np.array([cut[0], cut[0] + np.exp(cut[1])])
        return np.array([cut[0] if zeros else -np.inf, cut[0] if ones else np.inf])

    def jacobian(cut: Array) -> Array:
        if zeros and ones:
            return np.array([[1.0, 0.0], [1.0, float(np.exp(cut[1]))]])
        return np.array([[float(zeros)], [float(ones)]])[:, : len(cut)]

    return Cuts(("zero", "one"), names, points, jacobian, lambda y, eta: _start_cuts(y, eta, zeros, ones))


def _start_cuts(y: Array, eta: Array, zeros: bool, ones: bool) -> Array:
    """Cutpoint parameters that give the observed shares of zeros and ones at the mean predictor."""
    shares = float((y <= 0).mean()), float((y >= 1).mean())
    low, high = (
        float(eta.mean() + sign * special.logit(np.clip(share, 0.5 / len(y), 0.5)))
        for sign, share in zip((1, -1), shares, strict=True)
    )
    if zeros and ones:
        return np.array([low, np.log(max(high - low, 0.1))])
    return np.array([low] if zeros else [high] if ones else [])


def ordbeta_density(y: Array, rest: Others, cuts: Cuts) -> Density:
    """The ordered beta density."""
    zero, one = y <= 0, y >= 1
    inner = ~(zero | one)
    part = beta_density(y[inner], rest.kappa[inner])
    first, second = cuts.points(rest.cut)
    sign_low, sign_high = np.where(zero, -1.0, 1.0), np.where(one, 1.0, -1.0)

    def density(eta: Array, order: int) -> Derivatives:
        nothing = np.zeros((4, len(y)))
        low = _log_expit(sign_low * (eta - first), sign_low) * ~one if np.isfinite(first) else nothing
        high = _log_expit(sign_high * (eta - second), sign_high) * ~zero if np.isfinite(second) else nothing
        return _ordbeta(low, high, part(eta[inner], order), inner, second - first, order, len(rest.cut))

    return density


def _log_expit(x: Array, sign: Array) -> Array:
    """log expit(x) and its derivatives (4, n) in eta, where dx/deta = sign."""
    p, q = special.expit(x), special.expit(-x)
    return np.stack([-np.logaddexp(0.0, -x), sign * q, -p * q, -sign * p * q * (q - p)])


def _ordbeta(
    low: Array, high: Array, part: Derivatives, inner: Array, gap: float, order: int, n_cut: int
) -> Derivatives:
    """Join the two thresholds (4, n) and the beta part of the inner rows."""
    total = low + high
    total[0, inner] += part.value + (np.log(-np.expm1(-gap)) if n_cut == 2 else 0.0)
    total[1, inner] += part.d1
    fisher = -total[2]
    fisher[inner] += part.fisher
    total[2, inner] += part.d2
    if order < 3:
        return Derivatives(total[0], total[1], total[2], fisher)
    assert part.d3 is not None
    total[3, inner] += part.d3
    spread = np.zeros((4, len(inner)))
    spread[:, inner] = [part.k1, part.kk, part.dk, part.ddk]
    cuts = [-(low[i] + high[i])[:, None][:, :n_cut] for i in (1, 2, 3)]
    if n_cut == 2:
        cuts = [np.column_stack([cut, -gap * high[i]]) for i, cut in zip((1, 2, 3), cuts, strict=True)]
        cuts[0][:, 1] += inner * gap / np.expm1(gap)
    value, d1, d2, d3 = total
    k1, kk, dk, ddk = spread
    c1, dc, ddc = cuts
    return Derivatives(value, d1, d2, fisher, d3, k1, kk, dk, ddk, cut1=c1, dcut=dc, ddcut=ddc)


def _edge_shares(eta: Array, points: Array) -> tuple[Array, Array]:
    """Probabilities (n,) of an exact 0 and of an exact 1."""
    return special.expit(points[0] - eta), special.expit(eta - points[1])


def _mean(eta: Array, zero: Array, one: Array) -> Array:
    return np.asarray(one + (1 - zero - one) * special.expit(eta))


def _variance(eta: Array, kappa: Array, zero: Array, one: Array) -> Array:
    mu = special.expit(eta)
    second = mu * (1 - mu) / (1 + np.exp(kappa)) + mu**2
    return np.asarray(one + (1 - zero - one) * second - _mean(eta, zero, one) ** 2)


def _draw(eta: Array, kappa: Array, zero: Array, one: Array, rng: np.random.Generator) -> Array:
    inner, u = beta_draw(eta, kappa, rng), rng.uniform(size=len(eta))
    return np.where(u < zero, 0.0, np.where(u > 1 - one, 1.0, inner))


def _cdf(y: Array, eta: Array, kappa: Array, zero: Array, one: Array) -> tuple[Array, Array]:
    inner = zero + (1 - zero - one) * beta_cdf(np.clip(y, 0, 1), eta, kappa)[0]
    low = np.where(y <= 0, 0.0, np.where(y >= 1, 1 - one, inner))
    return low, np.where(y <= 0, zero, np.where(y >= 1, 1.0, inner))
