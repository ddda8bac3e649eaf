"""What each request needs between steps, where the logits are: its random key, its law, and its text so far.

vLLM's two model runners both give requests numbered slots, recycle them, stop and resume requests, and ask for tokens
that they then throw away. So nothing here counts calls: all state belongs to a step, and drawing a step twice is the
same as drawing it once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import torch

from ...schema import SamplingPolicy
from ..processors import Past
from ..stop_tables import StopTables
from ..terms import Draws, Workspace, step_terms
from .carry import write_back

WORK_BYTES = 64 << 20
"""The work arrays of a GPU together: vLLM leaves little memory once its cache is there."""
NAME = "canopy"
"""Under this name a request carries its own part in vLLM's ``extra_args``."""


@dataclass(frozen=True, slots=True)
class Carried:
    """What a request tells its logits processor: the random key, the law's name, what ends a rollout, and the state of
    its prompt to stop strings (:mod:`..stop_tables`), whose tables lie in the file ``stops``."""

    key: tuple[int, int]
    law: Mapping[str, Any]
    end_ids: tuple[int, ...]
    stops: str | None = None
    start: int = 0

    def to_args(self) -> dict[str, Any]:
        """As plain values, which vLLM may send to another process."""
        plain = {"key": list(self.key), "law": dict(self.law), "end_ids": list(self.end_ids), "stops": self.stops,
                 "start": self.start}
        return {NAME: plain}

    @classmethod
    def from_args(cls, args: Mapping[str, Any] | None) -> Self | None:
        """None for a request that is none of ours."""
        if not args or NAME not in args:
            return None
        found = args[NAME]
        return cls((int(found["key"][0]), int(found["key"][1])), found["law"], tuple(found["end_ids"]),
                   found["stops"], found["start"])

    @property
    def law_name(self) -> str:
        """Requests of equal names are drawn together."""
        return json.dumps([dict(self.law), self.end_ids, self.stops], sort_keys=True)


class _Law:
    """A law as its requests share it, on the logits' device."""

    def __init__(self, carried: Carried, device: torch.device):
        given: dict[str, Any] = dict(carried.law)
        self.policy = SamplingPolicy(**given)
        self.end_ids = torch.tensor(carried.end_ids, dtype=torch.long, device=device)
        self.tables = StopTables.load(carried.stops) if carried.stops else None
        self._device = device

    @cached_property
    def after(self) -> torch.Tensor:
        assert self.tables is not None
        return torch.from_numpy(self.tables.after).to(self._device)

    @cached_property
    def completing(self) -> torch.Tensor:
        assert self.tables is not None
        return torch.from_numpy(self.tables.completing).to(self._device)


class Slots:
    """The requests of ``size`` slots with texts of at most ``columns`` tokens. ``load`` them, then ``draw`` steps."""

    def __init__(self, size: int, columns: int, vocabulary: int, device: torch.device):
        self.device, self._shape = device, (size, columns)
        self._space = Workspace(vocabulary, device, WORK_BYTES if device.type != "cpu" else None)
        self._keys = torch.zeros(size, 2, dtype=torch.long, device=device)
        self._prompts = torch.zeros(size, dtype=torch.long, device=device)
        # The latest step that was drawn or is to be drawn; of stop strings, the state before it and the one after it.
        self._at, self._before, self._after = (torch.zeros(size, dtype=torch.long, device=device) for _ in range(3))
        self._laws: dict[str, _Law] = {}
        self._law_of: list[_Law | None] = [None] * size

    @cached_property
    def _texts(self) -> torch.Tensor:
        """Every slot's tokens (slots, columns): only a repetition penalty needs them."""
        return torch.zeros(self._shape, dtype=torch.int32, device=self.device)

    def holds(self, slot: int) -> bool:
        """Whether a slot's request is one of ours."""
        return self._law_of[slot] is not None

    def clear(self, slot: int) -> None:
        """Forget a slot's request."""
        self._law_of[slot] = None

    def load(self, slot: int, carried: Carried, text: Sequence[int] | torch.Tensor, prompt_length: int) -> None:
        """Begin a request, or resume it: ``text`` are its prompt and the tokens that it has drawn."""
        law = self._laws.get(carried.law_name) or self._laws.setdefault(carried.law_name, _Law(carried, self.device))
        self._law_of[slot] = law
        drawn = len(text) - prompt_length
        state = carried.start
        if law.tables is not None and drawn:
            state = law.tables.read(state, np.asarray(torch.as_tensor(text[prompt_length:]).cpu()).tolist())
        self._keys[slot] = torch.tensor(carried.key, device=self.device)
        for array, value in ((self._prompts, prompt_length), (self._before, state), (self._at, drawn)):
            array[slot] = value
        if law.policy.penalises:
            self._texts[slot, : len(text)] = torch.as_tensor(text, dtype=torch.int32).to(self.device)

    def draw(self, logits: torch.Tensor, slots: Sequence[int], where: torch.Tensor, steps: torch.Tensor) -> None:
        """Draw a token for each row of logits (B, V) float32; it and its terms take their place (:mod:`.carry`).

        ``slots`` are the rows' slots, ``where`` (B,) the same on the device, ``steps`` (B,) int64 how many tokens each
        has drawn. Rows of others' requests stay as they are.
        """
        laws = [self._law_of[slot] for slot in slots]
        if all(law is laws[0] for law in laws) and laws[0] is not None:
            self._draw(logits, laws[0], where, steps)
            return
        for law in {id(law): law for law in laws if law is not None}.values():
            rows = torch.tensor([i for i, other in enumerate(laws) if other is law], device=self.device)
            part = logits[rows]
            self._draw(part, law, where[rows], steps[rows])
            logits[rows] = part

    def _draw(self, logits: torch.Tensor, law: _Law, where: torch.Tensor, steps: torch.Tensor) -> None:
        # Below zero in a prompt, below the latest in a text that is read again: what is drawn there is thrown away.
        given, at, steps = steps, self._at[where], steps.clamp(min=0)
        states = None
        if law.tables is not None:
            states = self._before[where] = torch.where(given > at, self._after[where], self._before[where])
        self._at[where] = torch.maximum(at, given)
        past = self._past(law, where, steps, states)
        tokens, terms = step_terms(logits, law.policy, law.end_ids, draws=Draws(self._keys[where], steps), past=past,
                                   space=self._space)
        if states is not None:
            tokens = self._after_stops(law, where, states, tokens, given >= at)
        if law.policy.penalises:
            column = self._prompts[where] + steps
            self._texts[where, column] = torch.where(given >= at, tokens, self._texts[where, column]).to(torch.int32)
        write_back(logits, tokens, terms)

    def _past(self, law: _Law, where: torch.Tensor, steps: torch.Tensor,
              states: torch.Tensor | None) -> Past | None:
        if not law.policy.processes and states is None:
            return None
        texts = None
        if law.policy.penalises:
            texts = self._texts[where].long()
            there = torch.arange(texts.shape[1], device=self.device) < (self._prompts[where] + steps)[:, None]
            texts = torch.where(there, texts, texts[:, :1])
        return Past(steps, texts, None if states is None else law.completing[states])

    def _after_stops(self, law: _Law, where: torch.Tensor, states: torch.Tensor, tokens: torch.Tensor,
                     counts: torch.Tensor) -> torch.Tensor:
        """The tokens; for texts that a stop string has ended an end token, so that vLLM stops them too. Only rows
        that count (B,) go on to another state."""
        self._after[where] = torch.where(counts, law.after[states, tokens].long(), self._after[where])
        if not len(law.end_ids):
            return tokens
        assert law.tables is not None
        return torch.where(states == law.tables.ended, law.end_ids[0], tokens)
