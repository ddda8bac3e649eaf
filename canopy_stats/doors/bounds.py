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
    m, others = 1.0 - float(known.sum()), vocabulary - len(known)
    own = float(_plogp(known).sum())
    least, most = max(m - rounding, 0.0), max(m + rounding, 0.0)
    return own + _concentrated(least, largest_other), own + _spread(most, others)


def _plogp(p: Floats) -> Floats:
    """-p log p, 0 at 0."""
    return -p * np.log(np.where(p > 0, p, 1.0))


def _concentrated(mass: float, largest: float) -> float:
    """The terms of a mass on as few tokens as ``largest`` allows."""
    if mass <= 0 or largest <= 0:
        return 0.0
    full = np.floor(mass / largest * (1 + 1e-12))
    rest = max(mass - full * largest, 0.0)
    return float(full * _plogp(np.array(largest)) + _plogp(np.array(rest)))


def _spread(mass: float, tokens: int) -> float:
    """The terms of a mass that so many tokens share evenly."""
    return float(mass * np.log(tokens / mass)) if mass > 0 and tokens > 0 else 0.0


def step_bounds(drawn: Sequence[float], tops: Sequence[Sequence[float]] | None, vocabulary: int,
                where: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Bounds (N,) of each step's entropy, from logged log-probabilities (nats) of the drawn and the likeliest tokens.

    Servers that list the k likeliest tokens add the drawn one where it is none of them: in a row that is longer than
    the shortest, a drawn token at its end is known, and bounds no other.
    """
    rows = tops if tops is not None else [[]] * len(drawn)
    shortest = min(map(len, rows), default=0)
    found = [_one(own, top, len(top) > shortest, vocabulary, f"{where}, token {i}")
             for i, (own, top) in enumerate(zip(drawn, rows, strict=True))]
    low, high = np.array(found, dtype=np.float64).reshape(-1, 2).T
    return low.astype(np.float32), high.astype(np.float32)


def _one(drawn: float, top: Sequence[float], longer: bool, vocabulary: int, where: str) -> tuple[float, float]:
    """Bounds of one step."""
    ordered = sorted(top)
    if longer and drawn <= ordered[0] + _SAME:
        ordered = ordered[1:]
    listed = [*ordered, drawn] if not ordered or drawn < ordered[0] - _SAME else ordered
    known = np.exp(np.array(listed, dtype=np.float64))
    if len(known) > vocabulary:
        raise UserError(f"{where}: {len(known)} log-probabilities for a vocabulary of {vocabulary}; correct "
                        "vocabulary=.")
    if known.sum() > 1 + _OVER:
        raise UserError(f"{where}: the logged probabilities add up to {known.sum():.4g}, so they are no natural "
                        "logarithms of the probabilities of different tokens. Look at what was logged.")
    return entropy_bounds(known, float(np.exp(ordered[0])) if ordered else 1.0, vocabulary, rounding=ROUNDING)
