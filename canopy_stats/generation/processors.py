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
from .transfer import to_device

_COLUMNS = 128
"""Of a table of texts, to begin with."""


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
    """Kept on the device, not copied there at every step."""
    return to_device(values, device)


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

    A row's unused columns repeat its first token, which changes nothing. Columns are added as the longest row needs
    them.
    """

    def __init__(self, slots: int, device: torch.device):
        self._ids = torch.zeros(slots, _COLUMNS, dtype=torch.long, device=device)
        self._longest = [0] * slots
        self._lengths = torch.zeros(slots, dtype=torch.long, device=device)  # the same, for the device's own use
        self._rows = torch.arange(slots, device=device)

    def load(self, slot: int, prompt_ids: Sequence[int]) -> None:
        """Begin a row with a prompt."""
        self._reserve(len(prompt_ids))
        self._ids[slot].fill_(prompt_ids[0])
        self._ids[slot, : len(prompt_ids)] = to_device(prompt_ids, self._ids.device)
        self._set_length(slot, len(prompt_ids))

    def append(self, tokens: torch.Tensor) -> None:
        """One token (B,) for each of the first B rows."""
        rows = len(tokens)
        self._reserve(max(self._longest[:rows]) + 1)
        self._ids[self._rows[:rows], self._lengths[:rows]] = tokens
        self._lengths[:rows] += 1
        self._longest[:rows] = [n + 1 for n in self._longest[:rows]]

    def move(self, source: int, target: int) -> None:
        """Copy one row over another."""
        self._ids[target] = self._ids[source]
        self._set_length(target, self._longest[source])

    def first(self, rows: int) -> torch.Tensor:
        """The first rows, up to the longest of them."""
        return self._ids[:rows, : max(self._longest[:rows])]

    def _set_length(self, slot: int, length: int) -> None:
        self._lengths[slot].fill_(length)
        self._longest[slot] = length

    def _reserve(self, columns: int) -> None:
        have = self._ids.shape[1]
        if columns > have:
            more = self._ids[:, :1].expand(-1, max(columns - have, have))
            self._ids = torch.cat([self._ids, more], dim=1)
