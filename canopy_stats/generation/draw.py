"""The draw: hierarchical Gumbel-max over fixed blocks of token ids.

Adding independent Gumbel noise to log-masses and taking the argmax draws exactly in proportion to the masses
(Gumbel-max). Drawing the block first and the token inside it second is the same law with V/128 + 128 random numbers
instead of V. Blocks are cut by token id, whatever the filters keep, and the argmax changes only when noise of order 1
lands within the logits' rounding error of a tie: the same token comes out of slightly different logits, which an
inverse CDF cannot promise, since there every rounding error moves all later boundaries.
"""

from __future__ import annotations

import torch

from .randomness import gumbels

BLOCK = 128
"""Token ids per block. Part of the draw's definition: another value draws other tokens from the same key."""


def block_masses(weights: torch.Tensor) -> torch.Tensor:
    """Sums of ``weights`` (B, V) over blocks of token ids, shape (B, ceil(V / BLOCK))."""
    batch, vocabulary = weights.shape
    whole = vocabulary // BLOCK * BLOCK
    sums = weights[:, :whole].reshape(batch, -1, BLOCK).sum(dim=-1)
    if whole == vocabulary:
        return sums
    return torch.cat([sums, weights[:, whole:].sum(dim=-1, keepdim=True)], dim=1)


def draw(z: torch.Tensor, weights: torch.Tensor, masses: torch.Tensor, keys: torch.Tensor,
         steps: torch.Tensor) -> torch.Tensor:
    """Token ids (B,) drawn in proportion to ``weights`` (B, V), each exp(``z``) or 0.

    ``masses`` (B, blocks) are the weights' block sums; ``keys`` (B, 2) and ``steps`` (B,) int64 as in
    :mod:`.randomness`. Exact up to the float32 rounding of the masses.
    """
    blocks = masses.shape[1]
    counters = torch.arange(blocks + BLOCK, device=z.device)
    noise = gumbels(keys, steps, counters)
    block = (masses.double().log() + noise[:, :blocks]).argmax(dim=-1, keepdim=True)
    ids = block * BLOCK + counters[:BLOCK]
    there = ids.clamp(max=z.shape[1] - 1)
    inside = z.gather(1, there).double() + noise[:, blocks:]
    inside.masked_fill_((ids >= z.shape[1]) | (weights.gather(1, there) == 0), -torch.inf)
    return ids.gather(1, inside.argmax(dim=-1, keepdim=True))[:, 0]
