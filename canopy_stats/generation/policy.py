"""The sampling law as one threshold per row: temperature, then top-k, then top-p, then min-p, ties kept.

Because ties at a boundary are kept, every filter keeps exactly the tokens whose scaled logit reaches some value, and
filters applied one after the other keep those that reach the largest of these values. So a law is the full law with
the weights below a threshold set to 0, and no filter sorts or gathers more of the vocabulary than it must.

Here ``z`` (B, V) are the row's logits minus their maximum, divided by the temperature, in float32: the full law's
log-probabilities up to the row's log-normaliser. The largest is 0; probability zero is ``FLOOR``.
"""

from __future__ import annotations

import math

import torch

from ..schema import SamplingPolicy
from .largest import kth_largest
from .nucleus import top_p_threshold

FLOOR = -200.0
"""Scaled logits are clamped here: exp(-200) is exactly 0 in float32, and 0 * FLOOR is 0 where 0 * inf is NaN."""


def scaled(logits: torch.Tensor, temperature: float, out: torch.Tensor) -> torch.Tensor:
    """Write ``z`` (B, V) into ``out`` (float32); the rows' maxima (B,), not finite where a row is unusable."""
    top = logits.amax(dim=-1)
    if logits.dtype == torch.float32:
        torch.sub(logits, top[:, None], out=out)
    else:
        out.copy_(logits).sub_(top[:, None].float())
    if temperature != 1.0:
        out.div_(temperature)
    out.clamp_(min=FLOOR)
    return top


def apply_filters(z: torch.Tensor, weights: torch.Tensor, policy: SamplingPolicy, scratch: torch.Tensor) -> None:
    """Set the weights (B, V), given as exp(z), of the tokens that the law removes to 0, in place.

    ``scratch`` (B, V) float32 is overwritten.
    """
    least = torch.full_like(z[:, 0], FLOOR)
    if policy.top_k is not None and policy.top_k < z.shape[1]:
        least = kth_largest(z, policy.top_k, scratch)
        _remove_below(z, weights, least, scratch)
    if policy.top_p is not None and policy.top_p < 1:
        _remove_below(z, weights, top_p_threshold(z, weights, least, policy.top_p, FLOOR, scratch), scratch)
    if policy.min_p:
        _remove_below(z, weights, torch.full_like(z[:, 0], math.log(policy.min_p)), scratch)


def _remove_below(z: torch.Tensor, weights: torch.Tensor, lowest: torch.Tensor, scratch: torch.Tensor) -> None:
    """Ties with ``lowest`` (B,) are kept. On a CPU, five times as fast as a Boolean mask."""
    weights.mul_(torch.ge(z, lowest[:, None], out=scratch))
