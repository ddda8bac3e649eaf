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

_FIRST_TOP_P = 64
_TOP_P_GROWTH = 8


def scaled(logits: torch.Tensor, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    """``z`` (B, V) float32, a new tensor, and the rows' maxima (B,), which are not finite where a row is unusable."""
    top = logits.amax(dim=-1)
    z = logits.float() - top.float()[:, None]
    if temperature != 1.0:
        z.div_(temperature)
    return z.clamp_(min=FLOOR), top


def threshold(z: torch.Tensor, policy: SamplingPolicy) -> torch.Tensor | None:
    """The smallest kept ``z`` of each row, shape (B,), or None where nothing can be removed."""
    if not policy.truncates:
        return None
    # Above FLOOR, so that tokens of probability zero are never kept.
    lowest = torch.full_like(z[:, 0], FLOOR / 2)
    if policy.top_k is not None and policy.top_k < z.shape[1]:
        lowest = torch.maximum(lowest, z.topk(policy.top_k, dim=-1, sorted=False).values.amin(dim=-1))
    if policy.top_p is not None and policy.top_p < 1:
        lowest = _top_p_threshold(z, policy.top_p, lowest)
    if policy.min_p:
        lowest = lowest.clamp(min=math.log(policy.min_p))
    return lowest


def _top_p_threshold(z: torch.Tensor, top_p: float, lowest: torch.Tensor) -> torch.Tensor:
    """Where the mass of the most likely tokens first reaches top_p of the mass that ``z >= lowest`` keeps.

    Sorts the most likely 64 tokens, then eight times as many for the rows that need more, up to the vocabulary.
    """
    kept = torch.where(z >= lowest[:, None], z, FLOOR)
    wanted = top_p * kept.exp().sum(dim=-1, dtype=torch.float64)
    found = lowest.clone()
    rows, count = torch.arange(len(z), device=z.device), _FIRST_TOP_P
    while len(rows):
        count = min(count, z.shape[1])
        values = kept[rows].topk(count, dim=-1).values
        reached = values.double().exp().cumsum(dim=-1) >= wanted[rows, None]
        done = reached[:, -1]
        first = reached.int().argmax(dim=-1, keepdim=True)
        found[rows[done]] = values.gather(1, first)[done, 0]
        # At the whole vocabulary, rounding may leave a row short of its mass by a hair: it keeps all it has.
        rows = rows[:0] if count == z.shape[1] else rows[~done]
        count *= _TOP_P_GROWTH
    return torch.maximum(found, lowest)


def restricted(z: torch.Tensor, lowest: torch.Tensor | None) -> torch.Tensor:
    """``z`` with removed tokens at FLOOR: the law's log-probabilities up to the row's normaliser (ties kept)."""
    return z if lowest is None else torch.where(z >= lowest[:, None], z, FLOOR)


def boundary_margin(z: torch.Tensor, policy: SamplingPolicy) -> torch.Tensor:
    """How far each row (B,) is from keeping other tokens: infinite without filters.

    Top-k and min-p: the distance in log-probability between the boundary and the nearest token that would change
    sides (for top-k, that of the last kept to the first removed). Top-p: the distance in probability of the kept and
    of the next smaller mass from top_p. A step with a margin near the logits' rounding error may legitimately keep
    other tokens when the same logits are computed another way.
    """
    ordered = z.sort(dim=-1, descending=True).values
    margin = torch.full_like(z[:, 0], torch.inf)
    if policy.top_k is not None and policy.top_k < z.shape[1]:
        margin = torch.minimum(margin, ordered[:, policy.top_k - 1] - ordered[:, policy.top_k])
        ordered = restricted(ordered, ordered[:, policy.top_k - 1])
    if policy.top_p is not None and policy.top_p < 1:
        mass = ordered.double().exp().cumsum(dim=-1)
        shares = mass / mass[:, -1:]
        last = (shares < policy.top_p).sum(dim=-1, keepdim=True).clamp(max=z.shape[1] - 2)
        margin = torch.minimum(margin, (shares - policy.top_p).abs().amin(dim=-1).float())
        margin = torch.minimum(margin, (ordered.gather(1, last) - ordered.gather(1, last + 1))[:, 0])
        ordered = restricted(ordered, ordered.gather(1, last)[:, 0])
    if policy.min_p:
        margin = torch.minimum(margin, (ordered - math.log(policy.min_p)).abs().amin(dim=-1))
    return margin
