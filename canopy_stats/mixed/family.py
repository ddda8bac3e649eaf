"""Response distributions: log-densities and their derivatives in the linear predictor eta and the log dispersion kappa.

The mean is mu = expit(eta) for beta and ordbeta, eta for gaussian; kappa is log phi (precision) or log sigma^2. The
cutpoints of ordbeta are c1 and c1 + exp(gap), estimated as (c1, gap) (Kubinec 2022; glmmTMB's ordbeta).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import special, stats

from canopy_stats.mixed.polygamma import polygammas
from canopy_stats.schema import UserError

Array = np.ndarray
LARGEST_ETA = 30.0
LARGEST_KAPPA = 25.0
"""Beyond this log precision the log-density loses its digits; it is undefined (nan) there."""


@dataclass(frozen=True, slots=True)
class Derivatives:
    """Log-density by row (n,) and its derivatives.

    d1, d2, d3 in eta; k1, kk in kappa; dk, ddk mixed (once and twice eta, once kappa). ``cut1``, ``dcut``, ``ddcut``
    (n, c) in the cutpoint parameters, and with eta once and twice. ``fisher`` is a positive stand-in for -d2: its
    expectation, in the beta part. Third-order fields are None at order 2.
    """

    value: Array
    d1: Array
    d2: Array
    fisher: Array
    d3: Array | None = None
    k1: Array | None = None
    kk: Array | None = None
    dk: Array | None = None
    ddk: Array | None = None
    cut1: Array | None = None
    dcut: Array | None = None
    ddcut: Array | None = None

    def times(self, weights: Array) -> Derivatives:
        """Every derivative times prior weights (n,)."""
        values: list[Any] = [getattr(self, name) for name in self.__slots__]
        scaled: list[Any] = [None if value is None else (value.T * weights).T for value in values]
        return Derivatives(*scaled)


Density = Callable[[Array, int], Derivatives]
"""eta (n,) and order (2 or 3) to Derivatives, for a fixed response, dispersion and cutpoints."""


@dataclass(frozen=True)
class Family:
    """A response distribution: density at (y, kappa, cutpoint parameters), mean, variance, draws, distribution.

    The functions besides ``bind`` take the cutpoints themselves (2,), which may be infinite.
    """

    name: str
    n_cut: int
    bind: Callable[[Array, Array, Array], Density]
    mean: Callable[[Array, Array, Array], Array]
    variance: Callable[[Array, Array, Array], Array]
    draw: Callable[[Array, Array, Array, np.random.Generator], Array]
    cdf: Callable[[Array, Array, Array, Array], tuple[Array, Array]]
    link_response: Callable[[Array], Array]

    def for_response(self, y: Array) -> Family:
        """The family with as many cutpoints as the response (n,) asks for: ordbeta needs those of its edges only."""
        if self.name != "ordbeta":
            return self
        return replace(self, n_cut=int(np.any(y <= 0)) + int(np.any(y >= 1)))


def _nothing(n: int) -> Array:
    return np.zeros((n, 0))


# beta ---------------------------------------------------------------------------------------------------------------


def beta_density(y: Array, kappa: Array, cutpoints: Array) -> Density:
    """Beta distribution with mean mu and precision phi (Ferrari & Cribari-Neto 2004), 0 < y < 1."""
    log_y, log_1my = np.log(y), np.log1p(-y)
    phi = np.exp(np.where(np.abs(kappa) < LARGEST_KAPPA, kappa, np.nan))
    at_phi = polygammas(phi, 2)
    none = _nothing(len(y))

    def density(eta: Array, order: int) -> Derivatives:
        return _beta(np.clip(eta, -LARGEST_ETA, LARGEST_ETA), phi, at_phi, log_y, log_1my, order, none)

    return density


def _beta(
    eta: Array, phi: Array, at_phi: tuple[Array, ...], log_y: Array, log_1my: Array, order: int, none: Array
) -> Derivatives:
    """All beta derivatives; a = mu phi, b = (1 - mu) phi, v = dmu/deta."""
    mu = special.expit(eta)
    a = mu * phi
    b = phi - a if np.all(np.abs(eta) < 15) else special.expit(-eta) * phi
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
    dk, ddk = v * mixed, v * (skew * mixed - v * twist)
    return Derivatives(value, d1, d2, fisher, d3, k1, kk, dk, ddk, none, none, none)


def _pairs(stacked: tuple[Array, ...]) -> tuple[list[Array], list[Array]]:
    """Functions of (a, b) stacked (2, n), as those of a and those of b."""
    return [values[0] for values in stacked], [values[1] for values in stacked]


def beta_draw(eta: Array, kappa: Array, cutpoints: Array, rng: np.random.Generator) -> Array:
    mu, phi = special.expit(eta), np.exp(kappa)
    tiny = np.finfo(float).tiny
    y = rng.beta(np.maximum(mu * phi, tiny), np.maximum((1 - mu) * phi, tiny))
    return np.clip(y, 1e-12, 1 - 1e-12)


def beta_cdf(y: Array, eta: Array, kappa: Array, cutpoints: Array) -> tuple[Array, Array]:
    mu, phi = special.expit(eta), np.exp(kappa)
    p = special.betainc(mu * phi, (1 - mu) * phi, y)
    return p, p


# ordered beta -------------------------------------------------------------------------------------------------------


def ordbeta_density(y: Array, kappa: Array, parameters: Array) -> Density:
    """Ordered beta: 0 below the first cutpoint, 1 above the second, a beta distribution between.

    ``parameters`` are (c1, log(c2 - c1)); only c1 or c2 where no 1 or no 0 occurs, nothing where neither does.
    """
    zero, one = y <= 0, y >= 1
    inner = ~(zero | one)
    part = beta_density(y[inner], kappa[inner], parameters[:0])
    first, second = ordbeta_cutpoints(y, parameters)
    sign_low, sign_high = np.where(zero, -1.0, 1.0), np.where(one, 1.0, -1.0)

    def density(eta: Array, order: int) -> Derivatives:
        low = _log_expit(sign_low * (eta - first), sign_low) * ~one if zero.any() else np.zeros((4, len(y)))
        high = _log_expit(sign_high * (eta - second), sign_high) * ~zero if one.any() else np.zeros((4, len(y)))
        return _ordbeta(low, high, part(eta[inner], order), inner, second - first, order, len(parameters))

    return density


def ordbeta_cutpoints(y: Array, parameters: Array) -> Array:
    """Both cutpoints (2,), infinite where the response has no 0 or no 1."""
    zeros, ones = bool(np.any(y <= 0)), bool(np.any(y >= 1))
    if zeros and ones:
        return np.array([parameters[0], parameters[0] + np.exp(parameters[1])])
    return np.array([parameters[0] if zeros else -np.inf, parameters[0] if ones else np.inf])


def ordbeta_jacobian(y: Array, parameters: Array) -> Array:
    """Derivatives (2, c) of the cutpoints in their parameters."""
    if len(parameters) == 2:
        return np.array([[1.0, 0.0], [1.0, float(np.exp(parameters[1]))]])
    return np.isfinite(ordbeta_cutpoints(y, parameters)).astype(float)[:, None][:, : len(parameters)]


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
    return Derivatives(value, d1, d2, fisher, d3, k1, kk, dk, ddk, *cuts)


def ordbeta_shares(eta: Array, cutpoints: Array) -> tuple[Array, Array]:
    """Probabilities (n,) of an exact 0 and of an exact 1."""
    return special.expit(cutpoints[0] - eta), special.expit(eta - cutpoints[1])


def ordbeta_mean(eta: Array, kappa: Array, cutpoints: Array) -> Array:
    zero, one = ordbeta_shares(eta, cutpoints)
    return one + (1 - zero - one) * special.expit(eta)


def ordbeta_variance(eta: Array, kappa: Array, cutpoints: Array) -> Array:
    zero, one = ordbeta_shares(eta, cutpoints)
    mu = special.expit(eta)
    second = mu * (1 - mu) / (1 + np.exp(kappa)) + mu**2
    return one + (1 - zero - one) * second - ordbeta_mean(eta, kappa, cutpoints) ** 2


def ordbeta_draw(eta: Array, kappa: Array, cutpoints: Array, rng: np.random.Generator) -> Array:
    zero, one = ordbeta_shares(eta, cutpoints)
    inner, u = beta_draw(eta, kappa, cutpoints, rng), rng.uniform(size=len(eta))
    return np.where(u < zero, 0.0, np.where(u > 1 - one, 1.0, inner))


def ordbeta_cdf(y: Array, eta: Array, kappa: Array, cutpoints: Array) -> tuple[Array, Array]:
    zero, one = ordbeta_shares(eta, cutpoints)
    inner = zero + (1 - zero - one) * beta_cdf(np.clip(y, 0, 1), eta, kappa, cutpoints)[0]
    low = np.where(y <= 0, 0.0, np.where(y >= 1, 1 - one, inner))
    return low, np.where(y <= 0, zero, np.where(y >= 1, 1.0, inner))


# gaussian -----------------------------------------------------------------------------------------------------------


def gaussian_density(y: Array, kappa: Array, cutpoints: Array) -> Density:
    """Normal distribution with mean eta and variance exp(kappa)."""
    precision, none, zero = np.exp(-kappa), _nothing(len(y)), np.zeros(len(y))
    constant = -0.5 * (np.log(2 * np.pi) + kappa)

    def density(eta: Array, order: int) -> Derivatives:
        residual = y - eta
        scaled = residual * precision
        squares = residual * scaled
        return Derivatives(
            constant - 0.5 * squares, scaled, -precision, precision, zero, 0.5 * (squares - 1), -0.5 * squares, -scaled,
            precision, none, none, none,
        )

    return density


def gaussian_draw(eta: Array, kappa: Array, cutpoints: Array, rng: np.random.Generator) -> Array:
    return eta + np.exp(0.5 * kappa) * rng.standard_normal(len(eta))


def gaussian_cdf(y: Array, eta: Array, kappa: Array, cutpoints: Array) -> tuple[Array, Array]:
    p = stats.norm.cdf((y - eta) * np.exp(-0.5 * kappa))
    return p, p


def _beta_mean(eta: Array, kappa: Array, cutpoints: Array) -> Array:
    return np.asarray(special.expit(eta))


def _beta_variance(eta: Array, kappa: Array, cutpoints: Array) -> Array:
    mu = special.expit(eta)
    return np.asarray(mu * (1 - mu) / (1 + np.exp(kappa)))


FAMILIES = {
    "beta": Family("beta", 0, beta_density, _beta_mean, _beta_variance, beta_draw, beta_cdf, special.logit),
    "ordbeta": Family(
        "ordbeta", 2, ordbeta_density, ordbeta_mean, ordbeta_variance, ordbeta_draw, ordbeta_cdf, special.logit
    ),
    "gaussian": Family(
        "gaussian", 0, gaussian_density, lambda eta, kappa, cut: eta, lambda eta, kappa, cut: np.exp(kappa),
        gaussian_draw, gaussian_cdf, lambda y: y,
    ),
}


def get_family(name: str, y: Array | None = None) -> Family:
    """Family by name; UserError lists the known ones. With a response, ordbeta has the thresholds that it needs."""
    if name not in FAMILIES:
        raise UserError(f"family is {name!r}; choose one of {', '.join(FAMILIES)}.")
    return FAMILIES[name] if y is None else FAMILIES[name].for_response(y)
