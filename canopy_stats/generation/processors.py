"""What acts on the logits before the temperature: repetition penalty, minimum length, suppressed tokens.

In this order and in float32, as transformers' RepetitionPenaltyLogitsProcessor, MinNewTokensLengthLogitsProcessor and
SuppressTokensLogitsProcessor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from ..schema import SamplingPolicy


@dataclass(frozen=True, slots=True)
class Past:
    """What a law needs to know of each row's text so far, on the logits' device.

    ``steps`` (B,) int64: tokens drawn so far. ``tokens`` (B, T) int64: the ids of prompt and rollout in any order, any
    of them repeated to fill a row; only a repetition penalty needs them. ``completing`` (B, K) int64: the ids that
    would complete a stop string, -1 to fill a row; None where none can.
    """

    steps: torch.Tensor
    tokens: torch.Tensor | None = None
    completing: torch.Tensor | None = None

    def part(self, rows: slice) -> Past:
        tokens, completing = (None if x is None else x[rows] for x in (self.tokens, self.completing))
        return Past(self.steps[rows], tokens, completing)


def process(logits: torch.Tensor, policy: SamplingPolicy, end_ids: torch.Tensor, past: Past,
            out: torch.Tensor) -> torch.Tensor:
    """The logits (B, V) as the law changes them before the temperature, in ``out`` (float32)."""
    out.copy_(logits)
    if policy.repetition_penalty is not None and policy.penalises:
        assert past.tokens is not None, "a repetition penalty needs the tokens so far"
        held = out.gather(1, past.tokens)
        out.scatter_(1, past.tokens, torch.where(held < 0, held * policy.repetition_penalty,
                                                 held / policy.repetition_penalty))
    if policy.min_new_tokens:
        early = (past.steps < policy.min_new_tokens)[:, None]
        out.index_copy_(1, end_ids, out.index_select(1, end_ids).masked_fill_(early, -torch.inf))
    if policy.suppress_tokens:
        out.index_fill_(1, _ids(policy.suppress_tokens, out.device), -torch.inf)
    return out


@lru_cache(maxsize=8)
def _ids(values: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """Kept on the device: copying them there at every step would wait for it."""
    return torch.tensor(values, dtype=torch.long, device=device)


def padded(rows: Sequence[np.ndarray], device: torch.device) -> torch.Tensor | None:
    """Rows of ids as one tensor (B, K), filled with -1; None where all are empty."""
    width = max(map(len, rows), default=0)
    if not width:
        return None
    table = np.full((len(rows), width), -1, dtype=np.int64)
    for row, ids in zip(table, rows, strict=True):
        row[: len(ids)] = ids
    return torch.from_numpy(table).to(device)


class TokenTable:
    """The tokens of every slot's text (slots, columns): what a repetition penalty looks at.

    A row's unused columns repeat its first token, which changes nothing.
    """

    def __init__(self, slots: int, columns: int, device: torch.device):
        self._ids = torch.zeros(slots, columns, dtype=torch.long, device=device)
        self._longest = [0] * slots

    def load(self, slot: int, prompt_ids: Sequence[int]) -> None:
        """Begin a row with a prompt."""
        self._ids[slot] = prompt_ids[0]
        self._ids[slot, : len(prompt_ids)] = torch.tensor(prompt_ids, device=self._ids.device)
        self._longest[slot] = len(prompt_ids)

    def append(self, tokens: torch.Tensor) -> None:
        """One token (B,) for each of the first B rows."""
        rows = len(tokens)
        columns = torch.tensor(self._longest[:rows], device=tokens.device)
        self._ids[torch.arange(rows, device=tokens.device), columns] = tokens
        self._longest[:rows] = [n + 1 for n in self._longest[:rows]]

    def move(self, source: int, target: int) -> None:
        """Copy one row over another."""
        self._ids[target] = self._ids[source]
        self._longest[target] = self._longest[source]

    def first(self, rows: int) -> torch.Tensor:
        """The first rows, up to the longest of them."""
        return self._ids[:rows, : max(self._longest[:rows])]
