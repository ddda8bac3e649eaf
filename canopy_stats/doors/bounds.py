"""What the entropy of a distribution can be when only some of its probabilities are known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from canopy_stats.schema import UserError

Floats = NDArray[np.float64]

ROUNDING = 1e-6
"""Probability by which the logged ones may be off together: logs carry float32, or six digits."""
_SAME = 1e-5
"""Log-probabilities closer than this are one token's: a log may hold it in float32 in one place."""
_OVER = 1e-3
"""Logged probabilities may add up to so much more than one; beyond that they are none."""


def entropy_bounds(known: Floats, largest_other: float, vocabulary: int, *, rounding: float = 0.0) -> tuple[float,
                                                                                                            float]:
    """Least and largest entropy (nats) of a distribution over ``vocabulary`` tokens.

    ``known`` (k,) are the probabilities that were logged; no other token is likelier than ``largest_other`` (1 where
    that is not known). The missing mass m = 1 - sum(known) belongs to the other tokens. Entropy is concave, so it is
    largest where they share m evenly, and least where as few of them as possible hold it: floor(m / largest_other)
    tokens as likely as allowed, and one with the rest. Both are distributions, so both bounds are attained.
    ``rounding`` widens the missing mass to both sides.
    """
    low, high = _bounds(known[None], np.array([largest_other]), np.array([vocabulary - len(known)]), rounding)
    return float(low[0]), float(high[0])


def _bounds(known: Floats, largest: Floats, others: NDArray[np.intp], rounding: float) -> tuple[Floats, Floats]:
    """Of N steps: ``known`` (N, k), where 0 stands for nothing, ``largest`` and ``others`` (N,)."""
    m, own = 1.0 - known.sum(axis=1), _plogp(known).sum(axis=1)
    least, most = np.maximum(m - rounding, 0.0), np.maximum(m + rounding, 0.0)
    return own + _concentrated(least, largest), own + _spread(most, others)


def _plogp(p: Floats) -> Floats:
    """-p log p, 0 at 0."""
    return -p * np.log(np.where(p > 0, p, 1.0))


def _concentrated(mass: Floats, largest: Floats) -> Floats:
    """The terms (N,) of masses on as few tokens as ``largest`` allows."""
    there = (mass > 0) & (largest > 0)
    full = np.floor(np.where(there, mass, 0.0) / np.where(there, largest, 1.0) * (1 + 1e-12))
    rest = np.maximum(mass - full * largest, 0.0)
    return np.where(there, full * _plogp(largest) + _plogp(rest), 0.0)


def _spread(mass: Floats, tokens: NDArray[np.intp]) -> Floats:
    """The terms (N,) of masses that so many tokens share evenly."""
    there = (mass > 0) & (tokens > 0)
    return np.where(there, mass * np.log(np.where(there, tokens, 1) / np.where(there, mass, 1.0)), 0.0)


def step_bounds(drawn: Sequence[float], tops: Sequence[Sequence[float]] | None, vocabulary: int,
                where: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Bounds (N,) of each step's entropy, from logged log-probabilities (nats) of the drawn and the likeliest tokens.

    Servers that list the k likeliest tokens add the drawn one where it is none of them: in a row that is longer than
    the shortest, a drawn token at its end is known, and bounds no other.
    """
    own = np.asarray(drawn, dtype=np.float64)
    ordered, counts = _ordered(tops if tops is not None else [[]] * len(own))
    beside = (counts > counts.min(initial=len(ordered.T))) & (own <= _lowest(ordered, counts) + _SAME)
    ordered[np.flatnonzero(beside), ordered.shape[1] - counts[beside]] = -np.inf
    counts -= beside
    lowest = _lowest(ordered, counts)
    apart = (counts == 0) | (own < lowest - _SAME)
    known = np.exp(np.column_stack([ordered, np.where(apart, own, -np.inf)]))
    _refuse(known, counts + apart, vocabulary, where)
    low, high = _bounds(known, np.where(counts > 0, np.exp(lowest), 1.0), vocabulary - counts - apart, ROUNDING)
    return low.astype(np.float32), high.astype(np.float32)


def _ordered(rows: Sequence[Sequence[float]]) -> tuple[Floats, NDArray[np.intp]]:
    """Rows (N, K) from the least likely on, minus infinity before the shorter ones' values; and their lengths (N,)."""
    counts = np.array([len(row) for row in rows], dtype=np.intp)
    table = np.full((len(rows), counts.max(initial=0)), -np.inf)
    for i, row in enumerate(rows):
        table[i, : len(row)] = row
    table.sort(axis=1)
    return table, counts


def _lowest(ordered: Floats, counts: NDArray[np.intp]) -> Floats:
    """The least likely of each row's tokens (N,); 0 in a row without any."""
    padded = np.column_stack([ordered, np.zeros(len(ordered))])
    lowest: Floats = padded[np.arange(len(ordered)), ordered.shape[1] - counts]
    return lowest


def _refuse(known: Floats, listed: NDArray[np.intp], vocabulary: int, where: str) -> None:
    """UserError for the first step whose probabilities are too many, or add up to more than one."""
    total = known.sum(axis=1)
    for i in np.flatnonzero((listed > vocabulary) | (total > 1 + _OVER))[:1]:
        if listed[i] > vocabulary:
            raise UserError(f"{where}, token {i}: {listed[i]} log-probabilities for a vocabulary of {vocabulary}; "
                            "correct vocabulary=.")
        raise UserError(f"{where}, token {i}: the logged probabilities add up to {total[i]:.4g}, so they are no "
                        "natural logarithms of the probabilities of different tokens. Look at what was logged.")
