"""How many different things k answers say, and what they are worth: from clusters of equal meaning.

Both are of Zhang et al. 2025 (NoveltyBench), there of the first k answers. Here they are the mean over every order in
which the m judged rollouts could have come, in closed form: no rollout is wasted, and none counts more for being first.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from canopy_stats.schema import UserError

Floats = NDArray[np.float64]

PATIENCE = 0.8
"""The chance that a reader who has seen an answer looks at the next one."""


def distinct_k(cluster: ArrayLike, k: int) -> float:
    """Expected number of clusters among k of the m rollouts with the cluster codes (m,); between 1 and k.

    Σ_c [1 − C(m − n_c, k) / C(m, k)] (Hurlbert 1971's rarefaction): unbiased for k new draws, k <= m.
    """
    counts = np.bincount(np.asarray(cluster, np.intp))
    m = int(counts.sum())
    _refuse(k, m)
    return float(np.sum(1 - _unseen(counts[counts > 0], m, k)))


def utility_k(cluster: ArrayLike, reward: ArrayLike, k: int, patience: float = PATIENCE) -> float:
    """Expected reward that a reader finds in up to k answers, where an answer that says nothing new is worth nothing.

    (1 − p)/(1 − p^k) Σ_i p^(i−1) u_i 1{the i-th cluster is new}, p the ``patience``, averaged over all orders of the m
    rollouts with cluster codes (m,) and rewards (m,). Rewards count as they are: what a negative one means, and whether
    the model's scores are put on another scale first, is the caller's choice.
    """
    code, worth = np.asarray(cluster, np.intp), np.asarray(reward, np.float64)
    m = len(code)
    _refuse(k, m)
    if worth.shape != (m,) or not np.isfinite(worth).all():
        raise UserError(f"rewards have shape {worth.shape} for {m} judged rollouts, or are not numbers; give one for "
                        "each.")
    if not 0 < patience < 1:
        raise UserError(f"patience is {patience!r}; it is a chance above 0 and below 1, such as {PATIENCE}.")
    size = np.bincount(code)[code]
    # Rollout j stands at place i (chance 1/m), and the i - 1 before it are none of its cluster.
    first = np.array([_unseen(size - 1, m - 1, before) for before in range(k)])
    weights = patience ** np.arange(k) * (1 - patience) / (1 - patience**k)
    return float(weights @ (first @ worth) / m)


def _unseen(sizes: Floats | NDArray[np.intp], m: int, k: int) -> Floats:
    """Chance that k of m rollouts hold none of a group of each size: C(m − n, k) / C(m, k)."""
    from scipy.special import gammaln

    n = np.asarray(sizes, np.float64)
    left = np.maximum(m - n - k, 0.0)  # where fewer than k remain the chance is zero
    log = gammaln(m - n + 1) - gammaln(left + 1) - gammaln(m + 1) + gammaln(m - k + 1)
    return np.where(m - n >= k, np.exp(log), 0.0)


def _refuse(k: int, m: int) -> None:
    if type(k) is not int or not 1 <= k <= m:
        raise UserError(f"k is {k!r}; it is a whole number from 1 to the {m} rollouts that were judged.")
