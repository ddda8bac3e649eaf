"""Correlations of length and entropy rate within a prompt, and their pooling across prompts.

One rule decides for all three coefficients whether a prompt has a correlation: see :func:`varies`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

FISHER_CLIP = 0.999999
"""Correlations are clipped here before Fisher's z, so that a perfect one stays finite."""

NO_VARIANCE = 1e-12
"""A range below this share of the largest magnitude is rounding, not variance."""

_SIGN_MATRIX_LIMIT = 512
"""Up to this many rollouts tau-b is one product of sign matrices; beyond it, scipy's O(M log M) count."""


def varies(x: Floats) -> bool:
    """Whether x (M,) has variance beyond rounding: range(x) > 1e-12 · max|x|."""
    return bool(np.ptp(x) > NO_VARIANCE * np.max(np.abs(x)))


def correlations(x: ArrayLike, y: ArrayLike) -> dict[str, float]:
    """``rho_pearson``, ``rho_spearman`` and ``rho_kendall`` of x (M,) and y (M,).

    All three are NaN together when x or y has no variance.
    """
    a, b = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if not (varies(a) and varies(b)):
        return dict.fromkeys(RHOS, float("nan"))
    return {"rho_pearson": pearson(a, b), "rho_spearman": spearman(a, b), "rho_kendall": kendall(a, b)}


RHOS = ("rho_pearson", "rho_spearman", "rho_kendall")


def pearson(x: Floats, y: Floats) -> float:
    """Product-moment correlation: <x − x̄, y − ȳ> / (|x − x̄| |y − ȳ|)."""
    return _cosine(x - x.mean(), y - y.mean())


def spearman(x: Floats, y: Floats) -> float:
    """Pearson's correlation of the ranks; ties share their middle rank."""
    from scipy.stats import rankdata

    return pearson(rankdata(x), rankdata(y))


def kendall(x: Floats, y: Floats) -> float:
    """Kendall's tau-b: the cosine of the two matrices of pairwise signs, sgn(x_i − x_j) and sgn(y_i − y_j).

    Each squared norm counts the pairs that are not tied in that variable, which is tau-b's correction for ties.
    """
    if len(x) > _SIGN_MATRIX_LIMIT:
        from scipy.stats import kendalltau

        return float(kendalltau(x, y).statistic)
    return _cosine(_signs(x), _signs(y))


def _signs(x: Floats) -> Floats:
    return np.sign(x[:, None] - x[None, :]).ravel()


def _cosine(u: Floats, v: Floats) -> float:
    scale = np.sqrt(u @ u) * np.sqrt(v @ v)
    return float(np.clip(u @ v / scale, -1.0, 1.0)) if scale > 0 else float("nan")


def pool_fisher(rho: ArrayLike, counts: ArrayLike) -> tuple[float, int]:
    """Mean of correlations rho (P,) through Fisher's z, weights M − 3; and how many prompts were left out.

    tanh( Σ (M_p − 3) atanh(rho_p) / Σ (M_p − 3) ), rho clipped to ±0.999999. Prompts whose rho is NaN, or with
    M <= 3 (weight zero), are left out.
    """
    r, weights = np.asarray(rho, np.float64), np.asarray(counts, np.float64) - 3
    keep = np.isfinite(r) & (weights > 0)
    z = np.arctanh(np.clip(r[keep], -FISHER_CLIP, FISHER_CLIP))
    return float(np.tanh(_weighted_mean(z, weights[keep]))), int((~keep).sum())


def pool_kendall(tau: ArrayLike, counts: ArrayLike) -> tuple[float, int]:
    """Mean of tau (P,) weighted by the number of pairs M(M − 1)/2; and how many prompts were left out (NaN)."""
    t, m = np.asarray(tau, np.float64), np.asarray(counts, np.float64)
    keep = np.isfinite(t)
    return _weighted_mean(t[keep], (m * (m - 1) / 2)[keep]), int((~keep).sum())


def _weighted_mean(values: Floats, weights: Floats) -> float:
    return float(values @ weights / weights.sum()) if weights.sum() > 0 else float("nan")
