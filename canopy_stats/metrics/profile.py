"""The profile of entropy along a rollout, and what it alone says of each rollout's rate.

Model for one prompt: h_it = b_i + c_t + e_it (rollout effect, position effect, noise), unbalanced, since rollouts end
at different steps. By least squares the position effects c are unbiased given the lengths whatever the rollout effects
are: rollouts that go on for long may be richer from their first token on. A mean over the survivors of each position
would take that for position.

Arrays have a leading axis of B weightings of the M rollouts: one of ones for the estimate, one for each resample.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from canopy_stats.schema import UserError

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]

FOLDS = 5


@dataclass(frozen=True, slots=True)
class PromptSteps:
    """The steps of one prompt's M rollouts: ``entropy`` (M, T) in nats, zero after the end, and ``length`` (M,)."""

    entropy: Floats
    length: Ints

    @classmethod
    def of(cls, entropy: ArrayLike, length: ArrayLike) -> PromptSteps:
        """From the entropies of all steps, rollout after rollout (ΣN,), and the lengths N (M,)."""
        flat, n = np.asarray(entropy, np.float64), np.asarray(length)
        if n.ndim != 1 or not len(n) or (n != np.floor(n)).any() or (n < 1).any() or flat.shape != (n.sum(),):
            raise UserError(f"entropy has shape {flat.shape} and length {n.shape}; give every step's entropy, rollout "
                            "after rollout, and each rollout's whole number of steps, at least 1.")
        if not np.isfinite(flat).all():
            raise UserError(f"{int((~np.isfinite(flat)).sum())} step(s) have no finite entropy: leave those rollouts "
                            "out, or generate them again.")
        alive = np.arange(n.max()) < n[:, None]
        padded = np.zeros(alive.shape)
        padded[alive] = flat
        return cls(padded, n.astype(np.intp))

    @property
    def alive(self) -> Floats:
        """(M, T): 1 where the rollout has a step, else 0."""
        return (np.arange(self.entropy.shape[1]) < self.length[:, None]).astype(np.float64)

    @property
    def rate(self) -> Floats:
        """r = H / N (M,)."""
        rate: Floats = self.entropy.sum(axis=1) / self.length
        return rate

    def reversed(self) -> PromptSteps:
        """The same steps counted from the end: position 0 is the last token."""
        alive = self.alive.astype(bool)
        backwards = np.zeros_like(self.entropy)
        backwards[alive] = self.entropy[:, ::-1][alive[:, ::-1]]
        return PromptSteps(backwards, self.length)


def position_profile(steps: PromptSteps, weights: ArrayLike | None = None) -> tuple[Floats, Ints]:
    """Position effects c (B, T) of the two-way model for weights (B, M), with c = 0 at position 0; and how many
    positions have a rollout (B,). Beyond them c is 0.

    Eliminating the rollout effects leaves n_t c_t − Σ_s w_max(s,t) c_s = y_t, where n_t rollouts reach position t,
    w_t sums their 1/N, and y_t = Σ (h_it − r_i) over them. Lengths are nested, so the difference of two neighbouring
    rows holds c_(t+1) as the only new unknown: with k_t rollouts ending at t, the exact solution is the recursion
    n_(t+1) c_(t+1) = n_t c_t − k_t mean(c_1..t) − (y_t − y_(t+1)).
    """
    weight = _weights(weights, len(steps.length)).T
    alive = steps.alive.T
    n = alive @ weight  # (T, B): a step's values lie together
    y = (steps.entropy.T - steps.rate * alive) @ weight
    leaving = (n[:-1] - n[1:]) / np.arange(1, len(n))[:, None]
    change, inverse = y[:-1] - y[1:], np.divide(1.0, n[1:], out=np.zeros_like(n[1:]), where=n[1:] > 0)
    c, total = np.zeros_like(n), np.zeros(n.shape[1])
    for t in range(len(n) - 1):
        total += c[t]
        c[t + 1] = (n[t] * c[t] - leaving[t] * total - change[t]) * inverse[t]
    return c.T, (n > 0).sum(axis=0)


def folds_of(m: int, folds: int = FOLDS) -> Ints:
    """The fold of each of m rollouts (m,): rollouts are exchangeable, so their index decides."""
    if not isinstance(folds, (int, np.integer)) or folds < 1:
        raise UserError(f"folds is {folds!r}; give a whole number of at least 2, or 1 for no cross-fitting.")
    return np.arange(m) % min(folds, m)


def residual_rates(steps: PromptSteps, fold: Ints, weights: ArrayLike | None = None) -> Floats:
    """What the profile leaves of each rollout's rate: b (B, M), up to a constant; r − b is the rate under the null.

    ``fold`` (M,): the profile for a fold's rollouts comes from the others (in one fold: from all). A rollout that
    goes on where none of the others is left says nothing about its own effect there: b averages h − c over the
    positions that they reach. The folds' profiles are brought to one level by that of all rollouts.
    """
    weight = _weights(weights, len(fold))
    cumulative = steps.entropy.cumsum(axis=1)
    folds = range(fold.max() + 1) if fold.max() else ()
    profiles, reach = position_profile(steps, np.concatenate([weight, *(weight * (fold != k) for k in folds)]))
    whole, *others = zip(np.split(profiles, len(folds) + 1), np.split(reach, len(folds) + 1), strict=True)
    if not others:
        return _mean_residual(cumulative, steps.length, *whole)
    running, out = weight @ steps.alive, np.empty_like(weight)
    for k, (c, reached) in enumerate(others):
        own = fold == k
        out[:, own] = _mean_residual(cumulative[own], steps.length[own], *_at_one_level(c, reached, *whole, running))
    return out


def _weights(weights: ArrayLike | None, m: int) -> Floats:
    return np.ones((1, m)) if weights is None else np.atleast_2d(np.asarray(weights, np.float64))


def _at_one_level(c: Floats, reached: Ints, whole: Floats, reach: Ints, running: Floats) -> tuple[Floats, Ints]:
    """The others' profile (B, T) moved to the level of the whole one, over the rollouts ``running`` (B, T) at the
    positions that both reach; the whole one where there are no others."""
    shared = running * (np.arange(c.shape[1]) < reached[:, None])
    count = shared.sum(axis=1)
    shift = np.divide((shared * (whole - c)).sum(axis=1), count, out=np.zeros(len(c)), where=count > 0)
    nobody = reached == 0
    return np.where(nobody[:, None], whole, c + shift[:, None]), np.where(nobody, reach, reached)


def _mean_residual(cumulative: Floats, length: Ints, c: Floats, reached: Ints) -> Floats:
    """Mean of h − c over each rollout's positions that the profile (B, T) reaches: (B, m) for m rollouts."""
    used = np.minimum(length, np.maximum(reached, 1)[:, None])
    own = cumulative[np.arange(len(length)), used - 1]
    mean: Floats = (own - np.take_along_axis(c.cumsum(axis=1), used - 1, axis=1)) / used
    return mean
