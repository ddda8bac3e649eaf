"""Ordered categories by a cumulative link: P(Y <= k) = F(tau_k - eta) (McCullagh 1980; ordinal's clmm).

The thresholds tau are estimated as (tau_1, log gaps), so that they stay in order. eta has no intercept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import special

from canopy_stats.mixed.families.family import Array, Cuts, Density, Derivatives, Family, Others, Refusal
from canopy_stats.schema import UserError

EDGE = 12.0
LARGEST = 50
"""More values than these are hardly categories."""


@dataclass(frozen=True)
class Latent:
    """A distribution F: quantile, log(F(b) - F(a)), log density, and its density's two derivatives over itself."""

    quantile: Callable[[Array], Array]
    below: Callable[[Array], Array]
    log_between: Callable[[Array, Array], Array]
    log_pdf: Callable[[Array], Array]
    slope: Callable[[Array], Array]
    bend: Callable[[Array], Array]


def _logit_between(a: Array, b: Array) -> Array:
    return np.asarray(-np.logaddexp(0, -b) - np.logaddexp(0, a) + np.log(-np.expm1(a - b)))


def _probit_between(a: Array, b: Array) -> Array:
    """In the upper tail by symmetry."""
    flip = a + b > 0
    low, high = np.where(flip, -b, a), np.where(flip, -a, b)
    top = special.log_ndtr(high)
    return np.asarray(top + np.log(-np.expm1(special.log_ndtr(low) - top)))


def _cloglog_between(a: Array, b: Array) -> Array:
    v, w = np.exp(a), np.exp(b)
    gap = np.where(np.isfinite(w) & (v > 0), v * np.expm1(np.where(np.isfinite(b) & np.isfinite(a), b - a, 0.0)), w - v)
    return np.asarray(-v + np.log(-np.expm1(-gap)))


LATENT = {
    "logit": Latent(
        special.logit, special.expit, _logit_between, lambda x: -np.logaddexp(0, x) - np.logaddexp(0, -x),
        lambda x: -np.tanh(x / 2), lambda x: 1 - 6 * special.expit(x) * special.expit(-x),
    ),
    "probit": Latent(
        special.ndtri, special.ndtr, _probit_between, lambda x: -0.5 * (x**2 + np.log(2 * np.pi)), lambda x: -x,
        lambda x: x**2 - 1,
    ),
    "cloglog": Latent(
        lambda p: np.log(-np.log1p(-p)), lambda x: -np.expm1(-np.exp(x)), _cloglog_between, lambda x: x - np.exp(x),
        lambda x: 1 - np.exp(x), lambda x: 1 - 3 * np.exp(x) + np.exp(2 * x),
    ),
}


def learn_categories(y: Array, facts: tuple[float, ...] = ()) -> tuple[float, ...]:
    """The values that occur, in order; those known before stay."""
    return facts or tuple(np.unique(y).tolist())


def cumulative_family(link: str | None, facts: tuple[Any, ...] = (), labels: tuple[str, ...] = ()) -> Family:
    """Ordered categories ``facts`` (their values in the response, in order), named by ``labels``."""
    if (name := link or "logit") not in LATENT:
        raise UserError(f"family='cumulative' has no link {name!r}; choose one of {', '.join(LATENT)}.")
    latent, values = LATENT[name], np.asarray(facts, dtype=float)
    labels = labels or tuple(f"{value:g}" for value in facts)
    cuts = ordered_cuts(labels, latent, values)

    def table(eta: Array, rest: Others) -> Array:
        return category_probabilities(eta, cuts.points(rest.cut), latent)

    def moment(eta: Array, rest: Others) -> Array:
        return np.asarray(table(eta, rest) @ values)

    def draw(eta: Array, rest: Others, rng: np.random.Generator) -> Array:
        drawn: Array = values[(rng.uniform(size=(len(eta), 1)) > table(eta, rest).cumsum(axis=1)[:, :-1]).sum(axis=1)]
        return drawn

    def cdf(y: Array, eta: Array, rest: Others) -> tuple[Array, Array]:
        upto = np.column_stack([np.zeros(len(eta)), table(eta, rest).cumsum(axis=1)])
        rows, first, last = np.arange(len(eta)), np.searchsorted(values, y, "left"), np.searchsorted(values, y, "right")
        return upto[rows, first], upto[rows, last]

    return Family(
        "cumulative", name, lambda y, rest: cumulative_density(y, rest, values, cuts, latent), moment,
        lambda eta, rest: table(eta, rest) @ values**2 - moment(eta, rest) ** 2, draw, cdf,
        lambda y, trials: _refuse(y, values), lambda y, trials: np.zeros(len(y)), eta_range=(-EDGE, EDGE), cuts=cuts,
        probabilities=table, make=cumulative_family, learn=learn_categories, facts=tuple(facts),
        labels=labels,
    )


def _refuse(y: Array, values: Array) -> Iterator[Refusal]:
    yield y != np.round(y), (
        "{name} is no whole number in {rows}; family='cumulative' takes ordered categories: whole numbers or an ordered"
        " Categorical."
    )
    yield np.full(len(y), len(values) > LARGEST), (
        f"{{name}} has {len(values)} different values, too many for ordered categories; use a family of counts."
    )
    yield ~np.isin(y, values), "{name} has categories in {rows} that the model does not know. Mend these rows."
    missing = values[~np.isin(values, y)]
    yield np.full(len(y), len(missing) > 0), (
        f"{{name}} has nothing in category {', '.join(f'{v:g}' for v in missing)}, so its thresholds are not defined."
    )


def ordered_cuts(labels: tuple[str, ...], latent: Latent, values: Array) -> Cuts:
    """Thresholds (K - 1,) as the first one and the logs of the gaps."""

    def points(cut: Array) -> Array:
        return np.cumsum(np.concatenate([cut[:1], np.exp(cut[1:])]))

    def jacobian(cut: Array) -> Array:
        steps = np.concatenate([np.ones(min(len(cut), 1)), np.exp(cut[1:])])
        derivative: Array = np.tril(np.ones((len(cut), len(cut)))) * steps
        return derivative

    def start(y: Array, eta: Array) -> Array:
        shares = np.array([np.mean(y <= value) for value in values[:-1]])
        tau = latent.quantile(np.clip(shares, 1e-4, 1 - 1e-4)) + eta.mean()
        return np.concatenate([tau[:1], np.log(np.maximum(np.diff(tau), 1e-3))])

    names = tuple(f"{a}|{b}" for a, b in zip(labels[:-1], labels[1:], strict=True))
    parameters = tuple(("threshold " if i == 0 else "log gap before ") + name for i, name in enumerate(names))
    return Cuts(names, parameters, points, jacobian, start)


def category_probabilities(eta: Array, tau: Array, latent: Latent) -> Array:
    """P(Y = k) (n, K), each from its own difference so that small ones keep their digits."""
    edges = np.concatenate([[-np.inf], tau, [np.inf]])
    with np.errstate(all="ignore"):
        logs = [_log_between(latent, low - eta, high - eta) for low, high in zip(edges[:-1], edges[1:], strict=True)]
    probabilities: Array = np.exp(np.stack(logs, axis=1))
    return probabilities


def _log_between(latent: Latent, a: Array, b: Array) -> Array:
    """log(F(b) - F(a)) where a may be -inf and b inf."""
    value = latent.log_between(np.asarray(a, dtype=float), np.asarray(b, dtype=float))
    return np.where(np.isneginf(a) & np.isposinf(b), 0.0, value)


def cumulative_density(y: Array, rest: Others, values: Array, cuts: Cuts, latent: Latent) -> Density:
    """log(F(b) - F(a)), b = tau_k - eta, a = tau_(k-1) - eta, by moments of the two densities over the difference."""
    code = np.searchsorted(values, y)
    edges = np.concatenate([[-np.inf], cuts.points(rest.cut), [np.inf]])
    jacobian = cuts.jacobian(rest.cut)
    none = np.zeros((1, len(rest.cut)))
    steps = np.vstack([none, jacobian, none])
    low, high, step_low, step_high = edges[code], edges[code + 1], steps[code], steps[code + 1]

    def density(eta: Array, order: int) -> Derivatives:
        value = _log_between(latent, low - eta, high - eta)
        a, b = _ratios(latent, low - eta, value), _ratios(latent, high - eta, value)
        m1, m2, m3 = b - a
        d2 = m2 - m1**2
        if order < 3:
            return Derivatives(value, -m1, d2, -d2)
        d3 = -(m3 - 3 * m1 * m2 + 2 * m1**3)
        pulls = [_pulls(part, m1, m2) for part in (b, a)]
        cut = [x[:, None] * step_high - z[:, None] * step_low for x, z in zip(*pulls, strict=True)]
        return Derivatives(value, -m1, d2, -d2, d3, cut1=cut[0], dcut=cut[1], ddcut=cut[2])

    return density


def _ratios(latent: Latent, x: Array, log_total: Array) -> Array:
    """Density at x and its two derivatives over exp(log_total) (3, n); zero at infinite x."""
    finite = np.isfinite(x)
    inside = np.where(finite, x, 0.0)
    ratio = np.exp(np.where(finite, latent.log_pdf(inside) - log_total, -np.inf))
    return np.stack([ratio, ratio * latent.slope(inside), ratio * latent.bend(inside)])


def _pulls(part: Array, m1: Array, m2: Array) -> tuple[Array, Array, Array]:
    """The density's ratio at one edge, its derivative in eta and its second one."""
    r0, r1, r2 = part
    return r0, r0 * m1 - r1, r2 - 2 * r1 * m1 + r0 * (2 * m1**2 - m2)
