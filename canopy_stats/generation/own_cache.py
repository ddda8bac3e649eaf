"""Decoding through the model's own cache, prepared as transformers' generate does: rows of one prompt and one length.

Recurrent states and frequencies that depend on the text's length leave no room for rows of different lengths. Rows of
one prompt have one length until they end, so a batch of them needs none: all are exact, and ended rows are dropped.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from .rows import Axes, batch_axes, select_rows, tensor_bytes
from .transfer import to_device

_CACHES = ("past_key_values", "cache_params", "state", "mems")
"""What models call the cache that they return."""


@dataclass(frozen=True, slots=True)
class PrefilledText:
    """One prompt's ids (1, P), its cache under the model's name for it, and its next-token logits (1, V)."""

    ids: torch.Tensor
    cache: dict[str, Any]
    logits: torch.Tensor


class EqualRows:
    """Rows of one prompt in one cache. Slots are loaded together, before the first step; none is filled again."""

    def __init__(self, axes: Axes):
        self.active = 0
        self.axes = axes
        self.prompt: PrefilledText | None = None
        self.ids: torch.Tensor | None = None
        self.cache: Any = None
        self._row: list[int] = []  # the cache's row of each slot

    def load(self, slot: int, prompt: PrefilledText) -> None:
        """Put the prompt into a slot; the first slot begins a new batch."""
        if slot == 0:
            self.prompt, self.ids, self.cache, self._row = prompt, None, None, []
        assert prompt is self.prompt and slot == len(self._row) and self.cache is None
        self._row.append(slot)

    def move(self, source: int, target: int) -> None:
        """Let one slot stand for another's row."""
        self._row[target] = self._row[source]

    def feed(self, tokens: torch.Tensor) -> torch.Tensor:
        """All ids (rows, length) after one token (active,) for every active slot; drops rows when half have ended."""
        assert self.prompt is not None
        if self.ids is None:
            self._take(self.prompt.ids, self.prompt.cache, [0] * self.active)
        elif 2 * self.active <= len(self.ids):
            self._take(self.ids, self.cache, self._row[: self.active])
        assert self.ids is not None
        fed = self.ids.new_zeros(len(self.ids), 1)
        fed[self.rows(), 0] = tokens
        self.ids = torch.cat([self.ids, fed], dim=1)
        return self.ids

    def rows(self) -> torch.Tensor:
        """The cache's rows of the active slots."""
        assert self.ids is not None
        return to_device(self._row[: self.active], self.ids.device)

    def _take(self, ids: torch.Tensor, cache: Any, rows: list[int]) -> None:
        chosen = to_device(rows, ids.device)
        self.ids, self.cache = ids[chosen], select_rows(cache, self.axes, chosen)
        self._row = list(range(len(rows)))


class OwnCacheDecoder:
    """Runs one token a step through the cache that the model makes for itself."""

    cache = "the model's own (rows of one length)"
    refills = False

    def __init__(self, model: PreTrainedModel, *, most_rows: int | None = None, one_shot: bool = True):
        self.model, self.dtype = model, model.dtype
        self.most_rows, self.one_shot = most_rows, one_shot
        self._asked = inspect.signature(model.forward).parameters
        self._vocabulary = model.config.get_text_config().vocab_size
        first = torch.tensor([[1, 2, 3, 4, 5]], device=model.device) % self._vocabulary
        one, two = (self._forward(first.expand(rows, -1), None) for rows in (1, 2))
        self._axes = batch_axes(*(_cache_of(out) for out in (one, two)))
        if not self._axes:
            raise NotImplementedError(f"{type(model).__name__} returns no cache")

    def prefill(self, token_ids: Sequence[int]) -> PrefilledText:
        """One forward pass over the prompt, by itself."""
        ids = torch.tensor([list(token_ids)], device=self.model.device)
        out = self._forward(ids, None)
        return PrefilledText(ids, _cache_of(out), out.logits[:, -1])

    def batch(self, slots: int, columns: int) -> EqualRows:
        """Empty slots; the cache grows as the model lets it grow."""
        return EqualRows(self._axes)

    def cache_bytes(self) -> tuple[float, float]:
        """Bytes of one row's cache: at length zero, and for each further token."""
        short, long = (tensor_bytes(self.prefill([1 % self._vocabulary] * n).cache) for n in (8, 24))
        slope = max(long - short, 0) / 16
        return max(short - 8 * slope, 0.0), slope

    def step(self, slots: EqualRows, tokens: torch.Tensor) -> torch.Tensor:
        """Logits (active, V) after feeding one token (active,) to every active row."""
        ids = slots.feed(tokens)
        out = self._forward(ids, slots.cache)
        slots.cache = _cache_of(out)
        logits: torch.Tensor = out.logits[slots.rows(), -1]
        return logits

    def _forward(self, ids: torch.Tensor, cache: dict[str, Any] | None) -> Any:
        first = cache is None
        inputs = self.model.prepare_inputs_for_generation(
            ids, next_sequence_length=None if first else 1, is_first_iteration=first, use_cache=True,
            **self._whole_text(ids), **(cache or {}))
        return self.model(**inputs, return_dict=True)

    def _whole_text(self, ids: torch.Tensor) -> dict[str, torch.Tensor]:
        """What generate says of all tokens so far, where the model asks for it."""
        said = {"attention_mask": torch.ones_like(ids),
                "position_ids": torch.arange(ids.shape[1], device=ids.device).expand_as(ids)}
        return {name: value for name, value in said.items() if name in self._asked}


def _cache_of(out: Any) -> dict[str, Any]:
    return {name: out[name] for name in _CACHES if name in out}
