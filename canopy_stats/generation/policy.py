"""The sampling law as one threshold per row: temperature, then top-k, then top-p, then min-p, ties kept.

Because ties at a boundary are kept, every filter keeps exactly the tokens whose scaled logit reaches some value, and
filters applied one after the other keep those that reach the largest of these values. So the law is the full law
restricted to ``z >= threshold``, and no filter ever sorts or gathers more of the vocabulary than it must.

Here ``z`` (B, V) are the row's logits minus their maximum, divided by the temperature, in float32: the full law's
log-probabilities up to the row's log-normaliser. The largest is 0; probability zero is ``FLOOR``.
"""

from __future__ import annotations

import math

import torch

from ..schema import SamplingPolicy

FLOOR = -200.0
"""Scaled logits are clamped here: exp(-200) is exactly 0 in float32, and 0 * FLOOR is 0 where 0 * inf is NaN."""

_LOOKS = (64, 512, 4096)
"""How many of the most likely tokens top-p looks at, before it sorts the whole vocabulary."""


def scaled(logits: torch.Tensor, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    """``z`` (B, V) float32, a new tensor, and the rows' maxima (B,), which are not finite where a row is unusable."""
    top = logits.amax(dim=-1)
    z = logits.float() - top.float()[:, None]
    if temperature != 1.0:
        z.div_(temperature)
    return z.clamp_(min=FLOOR), top


def threshold(z: torch.Tensor, weights: torch.Tensor, policy: SamplingPolicy) -> torch.Tensor | None:
    """The smallest kept ``z`` of each row, shape (B,), or None where nothing can be removed; weights are exp(z)."""
    if not policy.truncates:
        return None
    # Above FLOOR, so that tokens of probability zero are never kept.
    lowest = torch.full_like(z[:, 0], FLOOR / 2)
    if policy.top_k is not None and policy.top_k < z.shape[1]:
        lowest = torch.maximum(lowest, z.topk(policy.top_k, dim=-1, sorted=False).values.amin(dim=-1))
    if policy.top_p is not None and policy.top_p < 1:
        renormalised = kept(z, weights, lowest) if policy.top_k is not None else weights
        lowest = torch.maximum(lowest, _top_p_threshold(z, renormalised, policy.top_p))
    if policy.min_p:
        lowest = lowest.clamp(min=math.log(policy.min_p))
    return lowest


def kept(z: torch.Tensor, weights: torch.Tensor, lowest: torch.Tensor | None) -> torch.Tensor:
    """Weights (B, V) of the law: those of tokens with ``z`` below the row's threshold are 0."""
    return weights if lowest is None else weights.masked_fill(z < lowest[:, None], 0.0)


def _top_p_threshold(z: torch.Tensor, weights: torch.Tensor, top_p: float) -> torch.Tensor:
    """Where the mass of the most likely tokens first reaches top_p of the rows' mass, shape (B,).

    Looks at the most likely 64 tokens, then at more of them for the rows that need more, up to the vocabulary.
    Masses are summed in float64: the boundary must not depend on how many tokens were looked at.
    """
    wanted = top_p * weights.sum(dim=-1, dtype=torch.float64)
    found = torch.full_like(z[:, 0], FLOOR)
    rows = torch.arange(len(z), device=z.device)
    for count in (*(c for c in _LOOKS if c < z.shape[1]), z.shape[1]):
        values, ids = (z if len(rows) == len(z) else z[rows]).topk(count, dim=-1)
        mass = weights[rows].gather(1, ids).double().cumsum(dim=-1)
        reached = mass >= wanted[rows, None]
        first = reached.int().argmax(dim=-1, keepdim=True)
        done = reached[:, -1]
        found[rows[done]] = values.gather(1, first)[done, 0]
        # A row that rounding leaves a hair short even with the whole vocabulary keeps all it has.
        rows = rows[~done]
        if not len(rows):
            break
    return found
