"""Where top-p cuts: the largest ``z`` whose tokens, with all that are more likely, hold the wanted share of the mass.

Two ways to one number. On a CPU few tokens are looked at, and more where these do not suffice. On a GPU looking and
then deciding would make the host wait at every step, and sorting a vocabulary is slow; there the cut is found by
halving the range in which it lies, which ends after a fixed number of steps: float32 has so many values.
"""

from __future__ import annotations

import numpy as np
import torch

from .largest import select

_LOOKS = (1024, 8192)
"""How many of the most likely tokens are looked at, before the whole vocabulary is sorted."""


def top_p_threshold(z: torch.Tensor, weights: torch.Tensor, least: torch.Tensor, top_p: float, lowest: float,
                    scratch: torch.Tensor) -> torch.Tensor:
    """Where the weights (B, V) of the most likely tokens first reach top_p of the row's sum, shape (B,).

    ``z`` (B, V) lies between ``lowest`` and 0; weights are exp(z) from ``least`` (B,) on, else 0. Summed in float64:
    the boundary must not depend on how many tokens were looked at. A row that rounding leaves a hair short even with
    the whole vocabulary keeps all it has. ``scratch`` (B, V) float32 is overwritten.
    """
    wanted = top_p * weights.sum(dim=-1, dtype=torch.float64)
    if z.device.type == "cpu":
        return by_looking(z, least, wanted, lowest, scratch)
    return by_halving(z, weights, wanted, lowest, scratch)


def by_looking(z: torch.Tensor, least: torch.Tensor, wanted: torch.Tensor, lowest: float,
               scratch: torch.Tensor) -> torch.Tensor:
    """Looks at the most likely tokens, then at more of them for the rows that need more, up to the vocabulary."""
    found = torch.full_like(z[:, 0], lowest)
    rows, table, vocabulary = torch.arange(len(z)), scratch.copy_(z), z.shape[1]
    for count in (*(c for c in _LOOKS if c < vocabulary), vocabulary):
        select(table.numpy(), count)
        table.numpy()[:, vocabulary - count:].sort(axis=1)
        values = table[:, vocabulary - count:].flip(1)
        mass = (values.exp() * (values >= least[rows, None])).double().cumsum(dim=-1)
        reached = mass >= wanted[rows, None]
        first = reached.int().argmax(dim=-1, keepdim=True)
        done = reached[:, -1]
        found[rows[done]] = values.gather(1, first)[done, 0]
        rows, table = rows[~done], table[~done]
        if not len(rows):
            break
    return found


def by_halving(z: torch.Tensor, weights: torch.Tensor, wanted: torch.Tensor, lowest: float,
               scratch: torch.Tensor) -> torch.Tensor:
    """Halves the range of -z, whose bits as a whole number are in the order of the numbers; nothing waits for it."""
    low = torch.zeros(len(z), dtype=torch.int32, device=z.device)
    bits = int(np.float32(-lowest).view(np.int32))
    high = torch.full_like(low, bits)
    for _ in range(bits.bit_length()):
        middle = low + ((high - low) >> 1)
        kept = torch.ge(z, -middle.view(torch.float32)[:, None], out=scratch).mul_(weights)
        enough = kept.sum(dim=-1, dtype=torch.float64) >= wanted
        low, high = torch.where(enough, low, middle + 1), torch.where(enough, middle, high)
    return -high.view(torch.float32)
