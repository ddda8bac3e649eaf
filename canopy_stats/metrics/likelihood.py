"""Semantic entropy with each answer weighted by its likelihood, not by how often it was drawn."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from canopy_stats.schema import UserError

Floats = NDArray[np.float64]


def weighted_semantic_entropy(cluster: ArrayLike, log_likelihood: ArrayLike, sequence: Sequence[object]) -> float:
    """Entropy in nats of the clusters' shares of likelihood (Kuhn et al. 2023; Farquhar et al. 2024).

    Of m rollouts ``cluster`` (m,) has the codes, ``log_likelihood`` (m,) their log-probabilities in nats, ``sequence``
    (m) what tells them apart. A sequence that was drawn twice is one event and counts once: else a cluster's weight
    would grow with the number of draws and exceed one. Distinct sequences exclude each other, so the weights of a
    cluster add up to at most one; they are divided by the weight of all that were seen. A log-probability above zero is
    rounding and becomes zero.
    """
    code, log = np.asarray(cluster, np.intp), np.minimum(np.asarray(log_likelihood, np.float64), 0.0)
    if not len(code) == len(log) == len(sequence) or not len(code) or np.isnan(log).any():
        raise UserError(f"There are {len(code)} clusters, {len(log)} log-likelihoods and {len(sequence)} sequences, or "
                        "some are not numbers; give one of each for every rollout.")
    first = list({one: place for place, one in reversed(list(enumerate(sequence)))}.values())
    if not np.isfinite(log[first]).any():
        raise UserError("The law can draw none of the rollouts (log-likelihood minus infinity): their likelihoods are "
                        "of another law.")
    weight = np.exp(log[first] - log[first].max())  # long texts have likelihoods below the smallest float
    shares = np.bincount(code[first], weights=weight) / weight.sum()
    seen = shares[shares > 0]
    return max(0.0, float(-(seen * np.log(seen)).sum()))
