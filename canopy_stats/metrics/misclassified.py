"""Semantic entropy behind a judge that errs: which clusters are likely, given verdicts and how often they are wrong.

Flipping verdicts one by one would be no correction: a single wrong "same" joins two clusters whole. Here clusters are
what is unknown, and every verdict is evidence on them: with sensitivity s and specificity c, a pair of one cluster is
called the same with chance s, a pair of two with chance 1 − c. Clusters are drawn from their posterior by Gibbs
sampling, s and c from theirs (Beta, from the pairs that people judged), under the Chinese restaurant process of
concentration one as prior, which two dozen verdicts a text outweigh.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from canopy_stats.metrics.rse import share_entropy
from canopy_stats.schema import UserError

Flags = NDArray[np.bool_]
Ints = NDArray[np.intp]
BURN_IN = 50
"""Sweeps that are thrown away: the chain starts at the judge's own clusters."""


@dataclass(frozen=True, slots=True)
class Errors:
    """The judge against people, in pairs: called the same and is (``hit``), is the same and called different
    (``miss``), called different and is (``right``), called the same and is different (``false``)."""

    hit: int
    miss: int
    right: int
    false: int

    @property
    def sensitivity(self) -> float:
        """Share of the pairs that mean the same for people which the judge calls the same."""
        return self.hit / (self.hit + self.miss) if self.hit + self.miss else float("nan")

    @property
    def specificity(self) -> float:
        """Share of the pairs that differ for people which the judge calls different."""
        return self.right / (self.right + self.false) if self.right + self.false else float("nan")


def corrected_entropy(same: ArrayLike, weight: ArrayLike, errors: Errors, start: ArrayLike, *, draws: int,
                      rng: np.random.Generator) -> tuple[float, float]:
    """Posterior mean and standard deviation of RSE in nats: the corrected RSE and its misclassification error.

    ``same`` (k, k) are the judge's mutual verdicts on k distinct texts, symmetric, its diagonal not read; ``weight``
    (k,) how many rollouts have each; ``start`` (k,) clusters to begin with. The error holds what the verdicts and the
    number of pairs that people judged leave open, not what another sample of rollouts would.
    """
    called, counts = np.asarray(same, np.bool_), np.asarray(weight, np.float64)
    if called.shape != (len(counts),) * 2 or (called != called.T).any() or draws < 2:
        raise UserError(f"verdicts have shape {called.shape} for {len(counts)} texts, are not symmetric, or draws is "
                        f"{draws}: give mutual verdicts of each pair, and at least 2 draws.")
    code = np.unique(np.asarray(start, np.intp), return_inverse=True)[1].astype(np.intp)
    found = np.empty(draws)
    for sweep in range(BURN_IN + draws):
        likelier = _log_ratio(called, errors, rng)
        for i in rng.permutation(len(code)):
            code = _moved(code, i, likelier[i], rng)
        if sweep >= BURN_IN:
            found[sweep - BURN_IN] = share_entropy(np.bincount(code, weights=counts))
    return float(found.mean()), float(found.std(ddof=1))


def _log_ratio(called: Flags, errors: Errors, rng: np.random.Generator) -> NDArray[np.float64]:
    """How much likelier each verdict (k, k) is of one cluster than of two, in nats, for drawn s and c."""
    s = np.clip(rng.beta(1 + errors.hit, 1 + errors.miss), 1e-12, 1 - 1e-12)
    c = np.clip(rng.beta(1 + errors.right, 1 + errors.false), 1e-12, 1 - 1e-12)
    ratio: NDArray[np.float64] = np.where(called, np.log(s / (1 - c)), np.log((1 - s) / c))
    np.fill_diagonal(ratio, 0.0)
    return ratio


def _moved(code: Ints, i: int, likelier: NDArray[np.float64], rng: np.random.Generator) -> Ints:
    """Cluster codes 0..C−1 (k,) with text i put anew: to a cluster by its size and verdicts, or to one of its own."""
    others = np.delete(code, i)
    names, others = np.unique(others, return_inverse=True)
    log = np.append(np.log(np.bincount(others)) + np.bincount(others, weights=np.delete(likelier, i)), 0.0) \
        if len(names) else np.zeros(1)
    chance = np.exp(log - log.max())
    place = int(np.searchsorted(np.cumsum(chance), rng.random() * chance.sum(), side="right"))
    return np.insert(others, i, min(place, len(names))).astype(np.intp)
