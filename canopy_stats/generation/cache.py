"""A key/value cache of slots: every row has its own length, and rows come and go.

Rows are left-aligned (a token's column is its position), keys and values of sliding layers are stored in full and
the window is left to the mask, so that dropping, moving and refilling rows is exact for every layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers import Cache

_GROWTH = {"cpu": (16, 8), "cuda": (128, 2)}
"""Columns are added in steps of at least the first number, and by at least what there is over the second. Small on a
CPU, where attention reads rows that lie close together a tenth faster; large on a GPU, whose allocator would keep many
freed sizes."""


@dataclass(frozen=True, slots=True)
class PrefilledPrompt:
    """One prompt's cache, layer by layer ((1, heads, P, D) keys and values), and its next-token logits (1, V)."""

    layers: list[tuple[torch.Tensor, torch.Tensor]]
    logits: torch.Tensor
    length: int


class PromptCache(Cache):
    """One prompt before every row of a single forward pass.

    What the pass adds is not kept: a layer's keys and values of all rows live for as long as that layer needs them.
    """

    def __init__(self, prompt: PrefilledPrompt, rows: int):
        super().__init__(layers=[])
        self.prompt, self.rows = prompt, rows

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any,
               **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values (rows, heads, P + T, D) of the prompt and of (rows, heads, T, D) new tokens."""
        keys, values = (torch.cat([old.expand(self.rows, -1, -1, -1), new], dim=2) for old, new in zip(
            self.prompt.layers[layer_idx], (key_states, value_states), strict=True))
        return keys, values

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.prompt.length

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        return self.prompt.length + query_length, 0


class SlotCache(Cache):
    """Keys and values of up to ``slots`` rows; the first ``active`` rows take part in the next forward pass.

    ``lengths`` (slots,) int64 on the device holds each row's tokens in the cache: the next token's column and
    position. ``update`` writes one column per active row and returns views of the first ``width`` columns. Buffers
    grow with the longest row, to at most ``columns``, the number that no row exceeds.
    """

    def __init__(self, slots: int, columns: int, device: torch.device):
        super().__init__(layers=[])
        self.slots, self.columns = slots, columns
        self.active = 0
        self.width = 0
        self.lengths = torch.zeros(slots, dtype=torch.long, device=device)
        self.longest = [0] * slots  # the same lengths on the host: asking the device would wait for it
        self._rows = torch.arange(slots, device=device)
        self._keys: list[torch.Tensor] = []
        self._values: list[torch.Tensor] = []

    @property
    def taking_part(self) -> int:
        """How many rows, from the first on, the next forward pass has."""
        return self.active

    @property
    def room(self) -> int:
        """Columns that there are in memory."""
        return self._keys[0].shape[2] if self._keys else 0

    def load(self, slot: int, prompt: PrefilledPrompt) -> None:
        """Put a prompt into a slot; what the slot held before is overwritten or masked."""
        if not self._keys:
            self._keys = [self._allocate(k) for k, _ in prompt.layers]
            self._values = [self._allocate(v) for _, v in prompt.layers]
        self._reserve(prompt.length)
        for layer, (keys, values) in enumerate(prompt.layers):
            self._keys[layer][slot, :, : prompt.length] = keys[0]
            self._values[layer][slot, :, : prompt.length] = values[0]
        self._set_length(slot, prompt.length)

    def move(self, source: int, target: int) -> None:
        """Copy one row over another."""
        length = self.longest[source]
        for buffer in (*self._keys, *self._values):
            buffer[target, :, :length] = buffer[source, :, :length]
        self._set_length(target, length)

    def prepare(self) -> None:
        """Make room for one more column per active row; ``width`` is then what the next forward pass sees."""
        self.width = max(self.longest[: self.active]) + 1
        self._reserve(self.width)

    def advance(self) -> None:
        """Count the column that every active row has just written."""
        self.lengths[: self.active] += 1
        for slot in range(self.active):
            self.longest[slot] += 1

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any,
               **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Write (active, heads, 1, D) keys and values at each row's own column; see the class."""
        taking = self.taking_part
        rows, columns = self._rows[:taking], self.lengths[:taking]
        keys, values = self._keys[layer_idx], self._values[layer_idx]
        keys[rows, :, columns] = key_states[:, :, 0]
        values[rows, :, columns] = value_states[:, :, 0]
        return keys[:taking, :, : self.width], values[:taking, :, : self.width]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.width - 1

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        return self.width, 0

    def _set_length(self, slot: int, length: int) -> None:
        self.lengths[slot].fill_(length)
        self.longest[slot] = length

    def _allocate(self, like: torch.Tensor) -> torch.Tensor:
        _, heads, _, size = like.shape
        return like.new_zeros(self.slots, heads, 0, size)

    def _room_for(self, columns: int) -> int:
        """How many columns to make where so many are needed and there are fewer."""
        least, share = _GROWTH.get(self.lengths.device.type, _GROWTH["cuda"])
        return max(columns, min(self.columns, columns + max(least, self.room // share)))

    def _reserve(self, columns: int) -> None:
        """Grow every buffer to hold at least ``columns``, one layer at a time so that little is held twice."""
        have = self.room
        if columns <= have:
            return
        room = self._room_for(columns)
        for buffers in (self._keys, self._values):
            for layer, old in enumerate(buffers):
                # Zeros, not garbage: a masked NaN would still poison the attention's sum of values.
                new = old.new_zeros(old.shape[0], old.shape[1], room, old.shape[3])
                new[:, :, :have] = old
                buffers[layer] = new


def row_masks(cache: SlotCache, windows: dict[str, int | None],
              additive: torch.dtype | None) -> dict[str, torch.Tensor]:
    """Masks (rows, 1, 1, width) of the next forward pass, one per kind of layer.

    ``windows`` maps the layer kinds to their sliding window (None: everything before). Boolean, or with ``additive``
    a tensor of that dtype with 0 where visible and the lowest finite number elsewhere (for eager attention).
    """
    last = cache.lengths[: cache.taking_part, None]
    columns = torch.arange(cache.width, device=last.device)[None, :]
    visible = columns <= last
    masks = {}
    for kind, window in windows.items():
        mask = visible if window is None else visible & (columns > last - window)
        if additive is not None:
            mask = torch.zeros(mask.shape, dtype=additive, device=mask.device).masked_fill_(
                ~mask, torch.finfo(additive).min)
        masks[kind] = mask[:, None, None, :]
    return masks
