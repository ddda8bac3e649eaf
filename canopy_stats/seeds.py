"""Seeds that people give, as numpy's streams of random numbers."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral

import numpy as np

from canopy_stats.schema import UserError, printable

LARGEST = 2**63 - 1
"""What a table of 64-bit numbers can hold."""


def checked_seed(seed: int) -> int:
    """The seed as a whole number from 0 to :data:`LARGEST`; UserError for anything else."""
    if isinstance(seed, bool) or not isinstance(seed, Integral) or not 0 <= seed <= LARGEST:
        raise UserError(f"seed is {printable(str(seed)[:40])}; give a whole number from 0 to 2^63 - 1.")
    return int(seed)


def seed_sequence(seed: int, *more: int, spawn_key: Sequence[int] = ()) -> np.random.SeedSequence:
    """numpy's sequence of a seed, with ``more`` numbers of the caller's own."""
    entropy = [checked_seed(seed), *more] if more else checked_seed(seed)
    return np.random.SeedSequence(entropy, spawn_key=tuple(spawn_key))


def generator(seed: int, *more: int) -> np.random.Generator:
    """A generator of random numbers from a seed."""
    return np.random.default_rng(seed_sequence(seed, *more))
