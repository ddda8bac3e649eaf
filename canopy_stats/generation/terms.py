"""From next-token logits to the exact terms of one step, where the logits are.

Reductions run in float32 over a bounded number of rows at a time: of [B, V] logits, a few floats per row leave the
device, and extra memory does not grow with the batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..schema import STEP_TERMS, SamplingPolicy, UserError
from .draw import block_masses, draw
from .policy import apply_filters, scaled
from .processors import Past, process

_CHUNK_BYTES = {"cpu": 3 << 20, "cuda": 256 << 20}
"""Size of one float32 [rows, V] work array. Small on a CPU, so that one pass finds in the cache what the last left."""


@dataclass(frozen=True, slots=True)
class Draws:
    """What decides a batch's tokens: rollout keys (B, 2) and steps (B,), int64 on the logits' device."""

    keys: torch.Tensor
    steps: torch.Tensor

    def part(self, rows: slice) -> Draws:
        return Draws(self.keys[rows], self.steps[rows])


class Workspace:
    """Three work arrays of some rows, kept from step to step: on a CPU, fresh memory costs more than the arithmetic."""

    def __init__(self, vocabulary: int, device: torch.device, nbytes: int | None = None):
        """``nbytes`` is the size of the three together, where it is not what suits the device."""
        each = nbytes // 3 if nbytes else _CHUNK_BYTES.get(device.type, _CHUNK_BYTES["cuda"])
        self.rows = max(1, each // (4 * vocabulary))
        self._arrays = torch.empty(3, self.rows, vocabulary, device=device)

    def first(self, rows: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """``z``, weights and scratch (rows, V), as the latest use left them."""
        z, weights, scratch = self._arrays[:, :rows]
        return z, weights, scratch


@dataclass(frozen=True, slots=True)
class LawSums:
    """One law's sums: of the weights by block (B, blocks) and over all (B,), and of weights times z (B,)."""

    masses: torch.Tensor
    total: torch.Tensor
    weighted: torch.Tensor

    @classmethod
    def of(cls, z: torch.Tensor, weights: torch.Tensor) -> LawSums:
        masses = block_masses(weights)
        return cls(masses, masses.sum(dim=-1), torch.linalg.vecdot(weights, z))

    def entropy(self) -> torch.Tensor:
        """``log s - (sum w z) / s`` with s the sum of the weights; rounding can leave it a hair below zero."""
        return (self.total.log() - self.weighted / self.total).clamp_(min=0.0)

    def surprisal_variance(self, z: torch.Tensor, weights: torch.Tensor, scratch: torch.Tensor) -> torch.Tensor:
        """Variance (B,) of minus the log-probability, which is that of z: they differ by the normaliser alone."""
        deviation = torch.sub(z, (self.weighted / self.total)[:, None], out=scratch)
        variance: torch.Tensor = torch.linalg.vecdot(weights, deviation.mul_(deviation)) / self.total
        return variance

    def logprob(self, z: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Log-probabilities (B,) of tokens with these z and weights (B,); minus infinity where the weight is 0."""
        return (z - self.total.log()).masked_fill_(weight == 0, -torch.inf)

    def stopping(self, weights: torch.Tensor, end_ids: torch.Tensor, completing: torch.Tensor | None) -> torch.Tensor:
        """Summed probability (B,) of the ids (E,) and of each row's own ids (B, K), where -1 stands for none."""
        mass = weights.index_select(1, end_ids).sum(dim=-1)
        if completing is not None:
            mass = mass + (weights.gather(1, completing.clamp(min=0)) * (completing >= 0)).sum(dim=-1)
        return mass / self.total


def step_terms(logits: torch.Tensor, policy: SamplingPolicy, end_ids: torch.Tensor, *, draws: Draws | None = None,
               tokens: torch.Tensor | None = None, past: Past | None = None,
               space: Workspace | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens (B,) int64 and terms (B, len(STEP_TERMS)) float32 of one step, from logits (B, V).

    With ``draws`` the tokens are drawn; with ``tokens`` the given ones are scored. ``end_ids`` (E,) are all ids that
    end a rollout, the law's own among them. A law that looks at the text so far needs ``past`` (see :class:`.Past`).
    The terms of a row that holds NaN or plus infinity, or nothing but minus infinity, are NaN: see :func:`bad_logits`.
    """
    space = space or Workspace(logits.shape[1], logits.device)
    whole = _StepInputs(logits, draws, tokens, past)
    parts = [_chunk_terms(whole.part(slice(i, i + space.rows)), policy, end_ids, space)
             for i in range(0, len(logits), space.rows)]
    return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])


@dataclass(frozen=True, slots=True)
class _StepInputs:
    """What :func:`step_terms` is given, for some rows."""

    logits: torch.Tensor
    draws: Draws | None
    tokens: torch.Tensor | None
    past: Past | None

    def part(self, rows: slice) -> _StepInputs:
        return _StepInputs(self.logits[rows], self.draws and self.draws.part(rows),
                           None if self.tokens is None else self.tokens[rows], self.past and self.past.part(rows))


def _chunk_terms(rows: _StepInputs, policy: SamplingPolicy, end_ids: torch.Tensor,
                 space: Workspace) -> tuple[torch.Tensor, torch.Tensor]:
    logits, draws, tokens, past = rows.logits, rows.draws, rows.tokens, rows.past
    z, weights, scratch = space.first(len(logits))
    if policy.processes:
        assert past is not None, "this law looks at the text so far"
        logits = process(logits, policy, end_ids, past, out=scratch)
    completing = None if past is None else past.completing
    top = scaled(logits, policy.temperature, out=z)
    torch.exp(z, out=weights)
    full = law = LawSums.of(z, weights)
    full_stop = full.stopping(weights, end_ids, completing)
    if policy.truncates:
        apply_filters(z, weights, policy, scratch)
        law = LawSums.of(z, weights)
    if tokens is None:
        assert draws is not None, "either tokens to score or randomness to draw them with"
        tokens = draw(z, weights, law.masses, draws.keys, draws.steps)
    chosen_z, chosen_weight = (x.gather(1, tokens[:, None])[:, 0] for x in (z, weights))
    columns = {
        "entropy": law.entropy(),
        "surprisal_variance": law.surprisal_variance(z, weights, scratch),
        "logprob": law.logprob(chosen_z, chosen_weight),
        "stop_probability": law.stopping(weights, end_ids, completing),
        "kept_mass": (law.total / full.total).clamp_(max=1.0),
        "entropy_full_offpolicy": full.entropy(),
        "logprob_full_offpolicy": full.logprob(chosen_z, chosen_z.exp()),
        "stop_probability_full_offpolicy": full_stop,
    }
    terms = torch.stack([columns[name] for name in STEP_TERMS], dim=1)
    # An unusable row marks itself, so that looking for one costs no extra wait for the device.
    return tokens, terms.masked_fill_(~top.isfinite()[:, None], torch.nan)


def bad_logits(prompt_id: str, step: int, dtype: torch.dtype, policy: SamplingPolicy) -> UserError:
    """The error of a row whose terms came back NaN."""
    advice = {
        torch.float16: "float16 overflows above 65,504: load the model with dtype='bfloat16' or 'float32'",
        torch.bfloat16: "try dtype='float32'; if it stays, the checkpoint's weights are damaged",
    }.get(dtype, "the checkpoint's weights are damaged, or the model does not suit this version of transformers")
    if policy.suppress_tokens or policy.min_new_tokens > step:
        advice = f"or min_new_tokens and suppress_tokens leave no token that the model can draw; else {advice}"
    return UserError(f"The model's logits are not numbers (NaN or infinite) at step {step} of prompt {prompt_id!r}, in "
                     f"{str(dtype).removeprefix('torch.')}; {advice}.")
