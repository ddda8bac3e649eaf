"""Zeros with a predictor of their own: zero inflation of a count family, and hurdles.

zeta is the logit of the probability of a structural zero (inflation) or of any zero (hurdle), as glmmTMB has it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from scipy import special

from canopy_stats.mixed.families.chain import compose, minus
from canopy_stats.mixed.families.counts import nbinom2_family, poisson_family
from canopy_stats.mixed.families.family import Array, Density, Derivatives, Family, Maker, Others, Refusal


def zero_inflated(family: Family) -> Family:
    """The count family mixed with a point mass expit(zeta) at zero."""

    def mean(eta: Array, rest: Others) -> Array:
        return np.asarray(special.expit(-rest.zeta) * family.mean(eta, rest))

    def variance(eta: Array, rest: Others) -> Array:
        mu, stay = family.mean(eta, rest), special.expit(-rest.zeta)
        return np.asarray(stay * family.variance(eta, rest) + stay * (1 - stay) * mu**2)

    def draw(eta: Array, rest: Others, rng: np.random.Generator) -> Array:
        return np.where(rng.uniform(size=len(eta)) < special.expit(rest.zeta), 0.0, family.draw(eta, rest, rng))

    def cdf(y: Array, eta: Array, rest: Others) -> tuple[Array, Array]:
        p, (below, upto) = special.expit(rest.zeta), family.cdf(y, eta, rest)
        return np.where(y > 0, p, 0) + (1 - p) * below, np.where(y >= 0, p, 0) + (1 - p) * upto

    return replace(
        family, bind=lambda y, rest: inflated_density(y, rest, family), mean=mean, variance=variance, draw=draw,
        cdf=cdf, refuse=lambda y, trials: _refuse_inflation(family, y, trials),
        start=lambda y, trials: _above(family, y, trials),
        start_zeta=lambda y: float(special.logit(np.clip(0.5 * np.mean(y == 0), 0.01, 0.9))), zero="inflation",
        wrap=zero_inflated,
    )


def _above(family: Family, y: Array, trials: Array) -> Array:
    """The family's start at the rows above zero, NaN elsewhere."""
    return np.where(y > 0, family.start(y, trials), np.nan)


def _refuse_inflation(family: Family, y: Array, trials: Array) -> Iterator[Refusal]:
    yield from family.refuse(y, trials)
    yield np.full(len(y), not np.any(y == 0)), (
        "{name} has no zero, so there is no zero inflation to estimate; drop zero_inflation."
    )


def inflated_density(y: Array, rest: Others, family: Family) -> Density:
    """log(p [y = 0] + (1 - p) f(y)), p = expit(zeta)."""
    zero, zeta = y == 0, rest.zeta
    plain = family.bind(y, rest)
    p, stay = special.expit(zeta), special.expit(-zeta)

    def density(eta: Array, order: int) -> Derivatives:
        at = plain(eta, order)
        t = np.where(zero, at.value - zeta, np.inf)
        r, other = special.expit(t), special.expit(-t)
        value = np.where(zero, np.logaddexp(zeta, np.where(zero, at.value, 0.0)), at.value) - np.logaddexp(0.0, zeta)
        bend = r * other
        twist = bend * (other - r)
        joined = replace(compose((value, r, bend, twist), at), fisher=at.fisher * stay)
        if order < 3:
            return _second_order(joined)
        return replace(
            joined, z1=other - p, zz=bend - p * stay, dz=-bend * at.d1, ddz=-(twist * at.d1**2 + bend * at.d2),
        )

    return density


def _second_order(at: Derivatives) -> Derivatives:
    """Without third derivatives, which tell that everything is there."""
    return Derivatives(at.value, at.d1, at.d2, at.fisher)


def hurdle_poisson_family(link: str | None, facts: tuple[Any, ...] = (), labels: tuple[str, ...] = ()) -> Family:
    """Zero or not, and Poisson counts truncated at zero; log link."""
    return _hurdle("hurdle_poisson", poisson_family(link), hurdle_poisson_family)


def hurdle_nbinom2_family(link: str | None, facts: tuple[Any, ...] = (), labels: tuple[str, ...] = ()) -> Family:
    """Zero or not, and negative binomial counts (nbinom2) truncated at zero; log link."""
    return _hurdle("hurdle_nbinom2", nbinom2_family(link), hurdle_nbinom2_family)


def _hurdle(name: str, family: Family, make: Maker) -> Family:
    """Zero with probability expit(zeta), otherwise the count family truncated at zero."""

    def mean(eta: Array, rest: Others) -> Array:
        return np.asarray(special.expit(-rest.zeta) * family.mean(eta, rest) / _positive(family, eta, rest))

    def variance(eta: Array, rest: Others) -> Array:
        second = (family.variance(eta, rest) + family.mean(eta, rest) ** 2) / _positive(family, eta, rest)
        return np.asarray(special.expit(-rest.zeta) * second - mean(eta, rest) ** 2)

    def cdf(y: Array, eta: Array, rest: Others) -> tuple[Array, Array]:
        p, above = special.expit(rest.zeta), _positive(family, eta, rest)
        below, upto = (np.maximum(c - (1 - above), 0) / above for c in family.cdf(y, eta, rest))
        return np.where(y > 0, p, 0) + (1 - p) * below, np.where(y >= 0, p, 0) + (1 - p) * upto

    return replace(
        family, name=name, bind=lambda y, rest: hurdle_density(y, rest, family), mean=mean, variance=variance,
        draw=lambda eta, rest, rng: _draw_hurdle(family, eta, rest, rng), cdf=cdf,
        refuse=lambda y, trials: _refuse_hurdle(family, y, trials), start=lambda y, trials: _above(family, y, trials),
        start_zeta=lambda y: float(special.logit(np.clip(np.mean(y == 0), 0.01, 0.99))), zero="hurdle", make=make,
    )


def _positive(family: Family, eta: Array, rest: Others) -> Array:
    """P(Y > 0) (n,) under the untruncated family."""
    none = family.bind(np.zeros(len(eta)), rest)(eta, 2).value
    return np.asarray(-np.expm1(none))


def _draw_hurdle(family: Family, eta: Array, rest: Others, rng: np.random.Generator) -> Array:
    """Draws by rejection of zeros; where a positive count is very rare it is one."""
    y = np.zeros(len(eta))
    left = np.flatnonzero(rng.uniform(size=len(eta)) >= special.expit(rest.zeta))
    for _ in range(200):
        if len(left) == 0:
            break
        y[left] = family.draw(eta[left], rest.at(left), rng)
        left = left[y[left] == 0]
    y[left] = 1.0
    return y


def _refuse_hurdle(family: Family, y: Array, trials: Array) -> Iterator[Refusal]:
    yield from family.refuse(y, trials)
    for share, word in ((np.any(y == 0), "no zero"), (np.any(y > 0), "nothing but zeros")):
        yield np.full(len(y), not share), (
            f"{{name}} has {word}, so the hurdle's probability is at its edge; use family={family.name!r}."
        )


def hurdle_density(y: Array, rest: Others, family: Family) -> Density:
    """log p at zero, p = expit(zeta); log(1 - p) + log f(y) - log(1 - f(0)) above."""
    above = np.flatnonzero(y > 0)
    counts, inside = y[above], rest.at(above)
    plain, empty = family.bind(counts, inside), family.bind(np.zeros(len(above)), inside)
    p, stay = special.expit(rest.zeta), special.expit(-rest.zeta)
    log_zero = np.where(y > 0, -np.logaddexp(0.0, rest.zeta), -np.logaddexp(0.0, -rest.zeta))
    z1, zz = np.where(y > 0, -p, stay), -p * stay

    def density(eta: Array, order: int) -> Derivatives:
        none = empty(eta[above], order)
        part = minus(plain(eta[above], order), compose(_log_complement(none.value), none))
        spread = _spread(part, above, len(y))
        nothing = np.zeros(len(y))
        both = replace(spread, value=spread.value + log_zero)
        return _second_order(both) if order < 3 else replace(both, z1=z1, zz=zz, dz=nothing, ddz=nothing)

    return density


def _log_complement(x: Array) -> tuple[Array, Array, Array, Array]:
    """log(1 - exp(x)), x < 0, and three derivatives; w = exp(x) / (1 - exp(x))."""
    w = 1 / np.expm1(-x)
    return np.log(-np.expm1(x)), -w, -w * (1 + w), -w * (1 + w) * (1 + 2 * w)


def _spread(part: Derivatives, rows: Array, n: int) -> Derivatives:
    """Derivatives of some rows among n, zero elsewhere."""
    out = {}
    for name in Derivatives.__slots__:
        values = getattr(part, name)
        if values is not None:
            out[name] = np.zeros(n)
            out[name][rows] = values
    return Derivatives(**out)
