"""The three correlations of length and rate of one prompt: raw, under the position-profile null, and what is left.

With b the residual rates of :func:`canopy_stats.metrics.profile.residual_rates` and theta = r − b the rates under the
null, and given the lengths:

- Pearson: the excess is Cov(N, b)/(sd N · sd r), less its bias: noise that moves b moves sd r too, most where theta
  is far from its mean. With a free sign of each b_i and V = var theta + var b, the mean of var r, the bias is to the
  second order −Σ(N_i − mean N)(theta_i − mean theta) b_i² / (M² sd N · V^(3/2)).
- Spearman and Kendall: the excess is the coefficient less its expectation when each b_i has a free sign. Both
  numerators are linear in the signs of r_i − r_j, so the expectation is exact, over four cases for each pair. (Signs
  and not permutations: each rollout keeps its own variance, which falls with its length.)
- adjusted: the correlations of N and b.

Weights (B, M) count how often a resample holds each rollout; all functions give (B, 3), in the order of ``RHOS``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from canopy_stats.metrics.association import NO_VARIANCE

Floats = NDArray[np.float64]

_ROUNDING = 1e-9
"""Residual rates below this share of the largest rate are the profile's rounding."""
_PAIRS_AT_ONCE = 500_000


@dataclass(frozen=True, slots=True)
class Coefficients:
    """Pearson, Spearman and Kendall (B, 3): ``raw`` = null + ``excess``; ``adjusted`` of N and the residual rate."""

    raw: Floats
    excess: Floats
    adjusted: Floats

    def __len__(self) -> int:
        return len(self.raw)


def coefficients(length: Floats, rate: Floats, residual: Floats, weights: Floats) -> Coefficients:
    """All coefficients of one prompt for length and rate (M,), residual rates (B, M) and weights (B, M).

    NaN throughout where length or rate does not vary within a resample; ``adjusted`` also where the residual does not.
    """
    b = _centred(residual, weights)
    b[np.abs(b) <= _ROUNDING * np.abs(rate).max()] = 0.0
    step = max(1, _PAIRS_AT_ONCE // len(length) ** 2)
    parts = [_chunk(length, rate, b[i:i + step], weights[i:i + step]) for i in range(0, len(weights), step)]
    return Coefficients(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def _chunk(n: Floats, r: Floats, b: Floats, w: Floats) -> tuple[Floats, Floats, Floats]:
    by_length, by_rate = _signs(n), _signs(r)
    with np.errstate(divide="ignore", invalid="ignore"):
        raw = np.column_stack([_pearson(n, np.broadcast_to(r, w.shape), w), *_ranks(by_length, by_rate, by_rate, w)])
        null = _ranks(by_length, _expected_signs(r - b, b), by_rate, w)
        excess = np.column_stack([_pearson_excess(n, r, b, w), raw[:, 1] - null[0], raw[:, 2] - null[1]])
        of_residual = _signs(b)
        adjusted = np.column_stack([_pearson(n, b, w), *_ranks(by_length, of_residual, of_residual, w)])
    usable = (_varies(n, w) & _varies(r, w))[:, None]
    left = usable & (np.ptp(np.where(w > 0, b, 0.0), axis=1) > 0)[:, None]
    return np.where(usable, raw, np.nan), np.where(usable, excess, np.nan), np.where(left, adjusted, np.nan)


def _centred(x: Floats, w: Floats) -> Floats:
    centred: Floats = x - (w * x).sum(axis=1, keepdims=True) / w.sum(axis=1, keepdims=True)
    return centred


def _signs(x: Floats) -> Floats:
    """sgn(x_i − x_j): (..., M) -> (..., M, M)."""
    return np.sign(x[..., :, None] - x[..., None, :])


def _expected_signs(theta: Floats, b: Floats) -> Floats:
    """E sgn(theta_i ± b_i − theta_j ∓ b_j), all four cases alike: (B, M) -> (B, M, M), zero on the diagonal."""
    low, high = theta - np.abs(b), theta + np.abs(b)
    above = np.zeros((*theta.shape, theta.shape[1]), np.int8)
    for x in (low, high):
        for y in (low, high):
            above += x[:, :, None] > y[:, None, :]
    return (above - above.transpose(0, 2, 1)) / 4.0


def _pearson(n: Floats, x: Floats, w: Floats) -> Floats:
    """Weighted correlation (B,) of n (M,) and x (B, M)."""
    a, c = _centred(np.broadcast_to(n, w.shape), w), _centred(x, w)
    rho: Floats = (w * a * c).sum(axis=1) / np.sqrt((w * a * a).sum(axis=1) * (w * c * c).sum(axis=1))
    return rho


def _pearson_excess(n: Floats, r: Floats, b: Floats, w: Floats) -> Floats:
    """Cov(N, b)/(sd N · sd r) less its bias (B,)."""
    m = w.sum(axis=1)
    a, c, theta = (_centred(x, w) for x in (np.broadcast_to(n, w.shape), np.broadcast_to(r, w.shape), r - b))
    of_n, of_r, typical = ((w * x).sum(axis=1) / m for x in (a * a, c * c, theta * theta + b * b))
    bias = -(w * a * theta * b * b).sum(axis=1) / (m * m * typical**1.5)
    excess: Floats = ((w * a * b).sum(axis=1) / m / np.sqrt(of_r) - bias) / np.sqrt(of_n)
    return excess


def _ranks(by_length: Floats, by_rate: Floats, scale: Floats, w: Floats) -> tuple[Floats, Floats]:
    """Spearman and Kendall's tau-b (B,) from the signs of pairs (M, M) or (B, M, M); ``scale`` gives the denominators.

    A weighted sample's mid-ranks are, centred, half the weighted sums of the signs.
    """
    length, rate, other = (_sums(s, w) for s in (by_length, by_rate, scale))
    spearman = (w * length * rate).sum(axis=1) / np.sqrt((w * length**2).sum(axis=1) * (w * other**2).sum(axis=1))
    pairs = _quadratic(by_length * by_rate, w)
    untied = _quadratic(np.abs(by_length), w) * _quadratic(np.abs(scale), w)
    return spearman, pairs / np.sqrt(untied)


def _sums(signs: Floats, w: Floats) -> Floats:
    """Σ_j w_j s_ij: (B, M)."""
    return w @ signs.T if signs.ndim == 2 else np.matmul(signs, w[:, :, None])[:, :, 0]


def _quadratic(x: Floats, w: Floats) -> Floats:
    """Σ_ij w_i w_j x_ij for symmetric x (M, M) or (B, M, M): (B,)."""
    form: Floats = (w * _sums(x, w)).sum(axis=1)
    return form


def _varies(x: Floats, w: Floats) -> NDArray[np.bool_]:
    """Which resamples hold more than rounding of x (M,): the rule of :func:`association.varies`."""
    held = w > 0
    span = np.where(held, x, -np.inf).max(axis=1) - np.where(held, x, np.inf).min(axis=1)
    varies: NDArray[np.bool_] = span > NO_VARIANCE * np.where(held, np.abs(x), 0.0).max(axis=1)
    return varies
