"""The decode step in tensors whose sizes and places stay: what torch.compile and CUDA graphs ask for.

Every slot takes part in every step, active or not, and every step looks at all columns that there are. Columns double
when the longest row needs more, and the step is compiled again then; the buffers serve one batch after the other.
transformers' StaticCache is no way to this: it keeps one length for the whole batch.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedModel

from .cache import SlotCache
from .decoding import SlotDecoder

_COLUMNS = 256
"""To begin with."""


class FixedSlots(SlotCache):
    """A :class:`SlotCache` in which all slots take part; the inactive ones write where nothing is read."""

    def __init__(self, slots: int, columns: int, device: torch.device):
        super().__init__(slots, columns, device)
        self.fed = torch.zeros(slots, dtype=torch.long, device=device)
        _stay(self.fed, self.lengths)

    @property
    def taking_part(self) -> int:
        return self.slots

    def empty(self) -> None:
        """Forget all rows, to begin another batch in the same place."""
        self.active, self.longest = 0, [0] * self.slots
        self.lengths.zero_()

    def prepare(self) -> None:
        """Make room for one more column; the next forward pass sees all that there are."""
        super().prepare()
        self.width = self.room

    def _room_for(self, columns: int) -> int:
        return max(_COLUMNS, 1 << (columns - 1).bit_length())

    def _reserve(self, columns: int) -> None:
        before = self.room
        super()._reserve(columns)
        if self.room != before:
            _stay(*self._keys, *self._values)


def _stay(*tensors: torch.Tensor) -> None:
    """CUDA graphs write into tensors only where they are told that these stay where they are."""
    for tensor in tensors:
        torch._dynamo.mark_static_address(tensor)


class FixedSlotDecoder(SlotDecoder):
    """Decodes through :class:`FixedSlots`, by a compiled step once :meth:`compile` was called."""

    def __init__(self, model: PreTrainedModel):
        super().__init__(model)
        self._slots: FixedSlots | None = None
        self._step: Any = self.forward

    def compile(self, **how: Any) -> None:
        """``how`` are arguments of torch.compile. It happens at the first step, and again when columns are added."""
        self.cache = f"slots of fixed sizes, compiled ({', '.join(how.values())})"
        self._step = torch.compile(self.forward, dynamic=False, **how)

    def batch(self, slots: int, columns: int) -> FixedSlots:
        """Empty slots, at least so many: those of the batch before, if they suffice."""
        if self._slots is None or self._slots.slots < slots:
            self._slots = None  # free the old one before the new one is made
            self._slots = FixedSlots(slots, columns, self.model.device)
        self._slots.empty()
        return self._slots

    def step(self, slots: SlotCache, tokens: torch.Tensor) -> torch.Tensor:
        """Logits (active, V) after feeding one token (active,) to every active row."""
        assert isinstance(slots, FixedSlots)
        slots.prepare()
        slots.fed[: slots.active] = tokens
        logits: torch.Tensor = self._step(slots, slots.fed)
        slots.advance()
        return logits[: slots.active]
