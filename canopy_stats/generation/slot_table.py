"""What the device knows of the rollout in each slot, so that a step asks the host for nothing."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .stop_tables import StopTables
from .terms import Draws
from .transfer import to_device

_STEP, _TOKEN = 2, 3
"""Columns; the two before them are the key."""


class SlotTable:
    """Of each slot the rollout's key, how many tokens it has drawn, and the latest of them; the first ``active`` rows
    take part."""

    def __init__(self, slots: int, device: torch.device):
        self.active = 0
        self._numbers = torch.zeros(slots, 4, dtype=torch.long, device=device)

    def load(self, key: tuple[int, int]) -> None:
        """Begin a rollout in the slot behind the active ones."""
        self._numbers[self.active].copy_(to_device([*key, 0, 0], self._numbers.device))
        self.active += 1

    def draws(self) -> Draws:
        """What decides the next tokens; valid until :meth:`advance`."""
        return Draws(self._numbers[: self.active, :_STEP], self._numbers[: self.active, _STEP])

    def tokens(self) -> torch.Tensor:
        """The latest token (active,) of every active slot."""
        return self._numbers[: self.active, _TOKEN].clone()

    def advance(self, tokens: torch.Tensor) -> None:
        """Count a token (active,) for every active slot."""
        self._numbers[: self.active, _STEP] += 1
        self._numbers[: self.active, _TOKEN] = tokens

    def keep(self, order: Sequence[int]) -> None:
        """Let the slot ``order[i]`` become slot i, for every i; the others leave."""
        self.active = len(order)
        if order:
            self._numbers[: self.active] = self._numbers[to_device(order, self._numbers.device)]


class StopStates:
    """What the text in each slot means to stop strings, where no text is: a state of the tables."""

    def __init__(self, tables: StopTables, slots: int, device: torch.device):
        self._after = torch.from_numpy(tables.after).to(device)
        self._completing = torch.from_numpy(tables.completing).to(device)
        self._states = torch.zeros(slots, dtype=torch.long, device=device)

    def load(self, slot: int, state: int) -> None:
        """Begin a rollout, after its prompt."""
        self._states[slot].fill_(state)

    def completing(self, rows: int) -> torch.Tensor:
        """For each of the first rows the ids (rows, K) that would complete a string now, -1 to fill a row."""
        return self._completing[self._states[:rows]]

    def advance(self, tokens: torch.Tensor) -> None:
        """One token (B,) for each of the first B rows."""
        rows = len(tokens)
        self._states[:rows] = self._after[self._states[:rows], tokens].long()

    def keep(self, order: Sequence[int]) -> None:
        """As :meth:`SlotTable.keep`."""
        if order:
            self._states[: len(order)] = self._states[to_device(order, self._states.device)]
