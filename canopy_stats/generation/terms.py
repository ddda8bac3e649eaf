"""From next-token logits to the exact terms of one step, where the logits are.

Reductions run in float32 over a bounded number of rows at a time: of [B, V] logits, a few floats per row leave the
device, and extra memory does not grow with the batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..schema import STEP_TERMS, SamplingPolicy, UserError
from .draw import block_masses, draw
from .policy import kept, scaled, threshold

_CHUNK_BYTES = {"cpu": 2 << 20, "cuda": 256 << 20}
"""Size of one float32 [rows, V] work array. Small on a CPU, so that successive passes find it in the cache."""


@dataclass(frozen=True, slots=True)
class Draws:
    """What decides a batch's tokens: rollout keys (B, 2) and steps (B,), int64 on the logits' device."""

    keys: torch.Tensor
    steps: torch.Tensor


@dataclass(frozen=True, slots=True)
class Law:
    """One law over the vocabulary: ``weights`` (B, V), 0 where removed and exp(``z``) elsewhere, their block sums,
    their sum (B,) and the law's entropy (B,) in nats."""

    z: torch.Tensor
    weights: torch.Tensor
    masses: torch.Tensor
    total: torch.Tensor
    entropy: torch.Tensor

    def logprob(self, tokens: torch.Tensor) -> torch.Tensor:
        """Log-probabilities (B,) of one token a row; minus infinity where the law gives it no mass."""
        chosen = tokens[:, None]
        logprob = self.z.gather(1, chosen)[:, 0] - self.total.log()
        return logprob.masked_fill_(self.weights.gather(1, chosen)[:, 0] == 0, -torch.inf)

    def surprisal_variance(self) -> torch.Tensor:
        """Variance (B,) of minus the log-probability, which is that of z: they differ by the normaliser alone."""
        deviation = self.z - (self.total.log() - self.entropy)[:, None]
        return torch.linalg.vecdot(self.weights * deviation, deviation) / self.total

    def probability(self, ids: torch.Tensor) -> torch.Tensor:
        """Summed probability (B,) of the given token ids."""
        return self.weights.index_select(1, ids).sum(dim=-1) / self.total


def law_of(z: torch.Tensor, weights: torch.Tensor) -> Law:
    """The law of some weights: ``log s - (sum w z) / s`` is its entropy, with s the sum of the weights."""
    masses = block_masses(weights)
    total = masses.sum(dim=-1)
    # Rounding can leave a certain token's entropy a hair below zero.
    entropy = (total.log() - torch.linalg.vecdot(weights, z) / total).clamp_(min=0.0)
    return Law(z, weights, masses, total, entropy)


def step_terms(logits: torch.Tensor, policy: SamplingPolicy, end_ids: torch.Tensor, *, draws: Draws | None = None,
               tokens: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens (B,) int64 and terms (B, len(STEP_TERMS)) float32 of one step, from logits (B, V).

    With ``draws`` the tokens are drawn; with ``tokens`` the given ones are scored. The terms of a row that holds NaN or
    plus infinity, or nothing but minus infinity, are NaN: see :func:`bad_logits`.
    """
    rows = max(1, _CHUNK_BYTES.get(logits.device.type, 64 << 20) // (4 * logits.shape[1]))
    parts = [_chunk_terms(logits[i : i + rows], policy, end_ids, _slice(draws, i, rows),
                          None if tokens is None else tokens[i : i + rows]) for i in range(0, len(logits), rows)]
    if len(parts) == 1:
        return parts[0]
    return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])


def _slice(draws: Draws | None, start: int, rows: int) -> Draws | None:
    return draws and Draws(draws.keys[start : start + rows], draws.steps[start : start + rows])


def _chunk_terms(logits: torch.Tensor, policy: SamplingPolicy, end_ids: torch.Tensor, draws: Draws | None,
                 tokens: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    z, top = scaled(logits, policy.temperature)
    full = law_of(z, z.exp())
    lowest = threshold(z, full.weights, policy)
    law = full if lowest is None else law_of(z, kept(z, full.weights, lowest))
    if tokens is None:
        assert draws is not None, "either tokens to score or randomness to draw them with"
        tokens = draw(z, law.weights, law.masses, draws.keys, draws.steps)
    kept_mass = (law.total / full.total).clamp_(max=1.0)
    columns = {
        "entropy": law.entropy,
        "surprisal_variance": law.surprisal_variance(),
        "logprob": law.logprob(tokens),
        "stop_probability": law.probability(end_ids),
        "kept_mass": kept_mass,
        "entropy_full_offpolicy": full.entropy,
        "logprob_full_offpolicy": full.logprob(tokens),
        "stop_probability_full_offpolicy": full.probability(end_ids),
    }
    terms = torch.stack([columns[name] for name in STEP_TERMS], dim=1)
    # An unusable row marks itself, so that looking for one costs no extra wait for the device.
    return tokens, terms.masked_fill_(~top.isfinite()[:, None], torch.nan)


def bad_logits(prompt_id: str, step: int, dtype: torch.dtype) -> UserError:
    """The error of a row whose terms came back NaN."""
    advice = {
        torch.float16: "float16 overflows above 65,504: load the model with dtype='bfloat16' or 'float32'",
        torch.bfloat16: "try dtype='float32'; if it stays, the checkpoint's weights are damaged",
    }.get(dtype, "the checkpoint's weights are damaged, or the model does not suit this version of transformers")
    return UserError(f"The model's logits are not numbers (NaN or infinite) at step {step} of prompt {prompt_id!r}, in "
                     f"{str(dtype).removeprefix('torch.')}; {advice}.")
