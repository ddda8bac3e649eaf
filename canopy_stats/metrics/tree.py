"""Canopy entropy and its parts for the rollouts of one prompt, from their lengths and entropy sums alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from canopy_stats.metrics.association import correlations
from canopy_stats.schema import UserError

Floats = NDArray[np.float64]


def tree_metrics(length: ArrayLike, entropy_sum: ArrayLike) -> dict[str, float]:
    """Canopy entropy of one prompt and its exact decomposition.

    Parameters
    ----------
    length : (M,) tokens drawn by each rollout, N, end token included
    entropy_sum : (M,) nats, H: the sum of each rollout's next-token entropies under the sampling law

    Returns
    -------
    dict
        ``CE`` = mean(H), ``mean_length`` = mean(N), ``mean_rate`` = mean(r) with r = H/N, ``cov_NR`` = population
        covariance of N and r (divisor M), so that CE = mean_length · mean_rate + cov_NR to rounding;
        ``BF`` = exp(mean_rate), ``GenPPL`` = exp(CE / mean_length); ``rho_pearson``, ``rho_spearman`` (mid-ranks)
        and ``rho_kendall`` (tau-b) of N and r, all three NaN when either has no variance.
    """
    n, h = check_rollouts(length, entropy_sum)
    rate = h / n
    ce, mean_length, mean_rate = float(h.mean()), float(n.mean()), float(rate.mean())
    return {
        "CE": ce,
        "mean_length": mean_length,
        "mean_rate": mean_rate,
        "cov_NR": float(np.mean((n - mean_length) * (rate - mean_rate))),
        "BF": float(np.exp(mean_rate)),
        "GenPPL": float(np.exp(ce / mean_length)),
        **correlations(n, rate),
    }


def check_rollouts(length: ArrayLike, entropy_sum: ArrayLike) -> tuple[Floats, Floats]:
    """Lengths and entropy sums as float64 (M,), or a UserError that names what is wrong with them."""
    n, h = np.asarray(length, np.float64), np.asarray(entropy_sum, np.float64)
    if n.ndim != 1 or n.shape != h.shape or n.size == 0:
        raise UserError(f"length has shape {n.shape} and entropy_sum {h.shape}; give two arrays of one shape (M,), "
                        "one value per rollout of a single prompt.")
    _refuse_where(~(np.isfinite(n) & (n >= 1)), "length", "each rollout draws at least one token")
    _refuse_where(~(np.isfinite(h) & (h >= 0)), "entropy_sum", "entropy sums are finite and not negative")
    return n, h


def _refuse_where(bad: NDArray[np.bool_], name: str, rule: str) -> None:
    if bad.any():
        first = ", ".join(map(str, np.flatnonzero(bad)[:5]))
        raise UserError(f"{name} cannot be used at {int(bad.sum())} rollout(s), position {first}: {rule}. "
                        "Look for failed or unfinished rollouts there.")
