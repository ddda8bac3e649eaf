"""Links by their natural predictor: s(eta) and its first three derivatives, exact in the tails.

Shares (mean in (0, 1)) have the logit as natural predictor, positive means the logarithm, real means themselves. With
mu = expit(s), exp(s) or s, a family written in s serves every link.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import special

from canopy_stats.schema import UserError

Array = np.ndarray
Natural = Callable[[Array], tuple[Array, Array, Array, Array]]
SERIES_BELOW = 0.05


@dataclass(frozen=True)
class Link:
    """A link: ``forward`` takes means to eta, ``natural`` eta to s, s', s'', s''' (None where s is eta)."""

    name: str
    forward: Callable[[Array], Array]
    natural: Natural | None = None

    def predictor(self, eta: Array) -> Array:
        """The natural predictor s (n,)."""
        return eta if self.natural is None else self.natural(eta)[0]


def mills(x: Array) -> Array:
    """Standard normal density over distribution function, without underflow."""
    return np.asarray(np.sqrt(2 / np.pi) / special.erfcx(-x / np.sqrt(2)))


def _probit(eta: Array) -> tuple[Array, Array, Array, Array]:
    """logit of Phi(eta); each tail's log-probability has derivatives m, -m (x + m), m ((x + m)(x + 2m) - 1)."""
    low, high = mills(eta), mills(-eta)
    s = special.log_ndtr(eta) - special.log_ndtr(-eta)
    second = high * (high - eta) - low * (eta + low)
    third = low * ((eta + low) * (eta + 2 * low) - 1) + high * ((high - eta) * (2 * high - eta) - 1)
    return s, low + high, second, third


def _cloglog(eta: Array) -> tuple[Array, Array, Array, Array]:
    """logit of 1 - exp(-v), v = exp(eta): s = log(exp(v) - 1), s' = g(v) = v / (1 - exp(-v))."""
    v = np.exp(eta)
    s = v + np.log(-np.expm1(-v))
    g, first, second = _bernoulli(v)
    return s, g, v * first, v * first + v**2 * second


def _bernoulli(v: Array) -> tuple[Array, Array, Array]:
    """v / (1 - exp(-v)) and two derivatives, by their series near zero."""
    small = v < SERIES_BELOW
    w = np.where(small, 1.0, v)
    left = np.exp(-w)
    right = -np.expm1(-w)
    square = v * v
    value = np.where(small, 1 + v / 2 + square / 12 - square**2 / 720, w / right)
    first = np.where(small, 0.5 + v / 6 - v * square / 180 + v * square**2 / 5040, (right - w * left) / right**2)
    second = np.where(
        small, 1 / 6 - square / 60 + square**2 / 1008, left * (w * (1 + left) - 2 * right) / right**3,
    )
    return value, first, second


def _log_share(eta: Array) -> tuple[Array, Array, Array, Array]:
    """logit of exp(eta), for eta < 0."""
    eta = np.where(eta < 0, eta, np.nan)
    p, q = np.exp(eta), -np.expm1(eta)
    return eta - np.log(q), 1 / q, p / q**2, p * (1 + p) / q**3


def _identity_share(eta: Array) -> tuple[Array, Array, Array, Array]:
    """logit of eta, for 0 < eta < 1."""
    p = np.where((eta > 0) & (eta < 1), eta, np.nan)
    q = 1 - p
    return special.logit(p), 1 / (p * q), (p - q) / (p * q) ** 2, 2 / p**3 + 2 / q**3


def _identity_positive(eta: Array) -> tuple[Array, Array, Array, Array]:
    """Logarithm of eta, for eta > 0."""
    eta = np.where(eta > 0, eta, np.nan)
    return np.log(eta), 1 / eta, -1 / eta**2, 2 / eta**3


def _exponential(eta: Array) -> tuple[Array, Array, Array, Array]:
    """exp(eta): a real mean by its logarithm."""
    mu = np.exp(eta)
    return mu, mu, mu, mu


def _same(mu: Array) -> Array:
    return mu


SHARES = {
    "logit": Link("logit", special.logit),
    "probit": Link("probit", special.ndtri, _probit),
    "cloglog": Link("cloglog", lambda mu: np.log(-np.log1p(-mu)), _cloglog),
    "log": Link("log", np.log, _log_share),
    "identity": Link("identity", _same, _identity_share),
}
POSITIVE = {"log": Link("log", np.log), "identity": Link("identity", _same, _identity_positive)}
REAL = {
    "identity": Link("identity", _same),
    "log": Link("log", lambda mu: np.log(np.maximum(mu, 1e-300)), _exponential),
}


def choose_link(family: str, link: str | None, known: dict[str, Link]) -> Link:
    """The named link, the first known one for None; UserError where the family lacks it."""
    name = link or next(iter(known))
    if name not in known:
        raise UserError(f"family={family!r} has no link {name!r}; choose one of {', '.join(known)}.")
    return known[name]


def unit_of(link: Link) -> Callable[[Array, Array], float]:
    """What counts as one on the scale of eta of a positive mean: 1 on the log scale, else the response's spread."""
    return lambda kappa, y: 1.0 if link.natural is None else float(np.std(y))
