"""Rollouts in line: asked for, being drawn, finished."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np

from ..schema import LENGTH, STEP_TERMS, STOP, Prompt, Rollout, RunKey
from .ending import Endings
from .randomness import rollout_key

PromptPairs = tuple[Sequence[Prompt], Sequence[tuple[int, int]]]
"""A shard's prompts, and its (prompt index, rollout index) pairs."""


@dataclass(frozen=True, slots=True)
class Pending:
    """A rollout that is asked for: its shard in the order given, its place in the shard, and its random key."""

    shard: int
    prompt: Prompt
    prompt_index: int
    rollout: int
    key: tuple[int, int]

    @property
    def place(self) -> tuple[int, int, int]:
        return self.shard, self.prompt_index, self.rollout


def asked_of(number: int, shard: PromptPairs, run: RunKey) -> Iterator[Pending]:
    """A shard's rollouts, in their order."""
    prompts, pairs = shard
    return (Pending(number, prompts[p], p, r, rollout_key(run, prompts[p].prompt_hash, r)) for p, r in pairs)


class Line:
    """The rollouts that wait, in the order asked. Those that were begun are remembered until they are finished, so
    that they can be begun again."""

    def __init__(self, asked: Iterable[Pending]):
        self._coming = iter(asked)
        self._waiting: deque[Pending] = deque()
        self._begun: dict[tuple[int, int, int], Pending] = {}

    def look(self, count: int) -> list[Pending]:
        """The next ones, at most ``count``, which stay in line."""
        self._waiting.extend(islice(self._coming, max(count - len(self._waiting), 0)))
        return list(islice(self._waiting, count))

    def begin(self) -> Pending:
        """Take the first one out of the line."""
        first = self.look(1)[0]
        self._waiting.popleft()
        self._begun[first.place] = first
        return first

    def finish(self, asked: Pending) -> None:
        """Forget one that is drawn."""
        del self._begun[asked.place]

    def restart(self) -> None:
        """Put those that were begun and not finished first in line again."""
        self._waiting.extendleft(reversed(self._begun.values()))
        self._begun.clear()


@dataclass(slots=True)
class Row:
    """One rollout being drawn. ``launched`` steps were started for it, and as many tokens as ``token_ids`` holds have
    come back. ``tail`` is what its text so far means to stop strings; ``ended`` whether its last token ended it."""

    asked: Pending
    tail: bytes = b""
    launched: int = 0
    ended: bool = False
    token_ids: list[int] = field(default_factory=list)
    terms: list[np.ndarray] = field(default_factory=list)

    def add(self, token: int, terms: np.ndarray, endings: Endings) -> None:
        self.token_ids.append(token)
        self.terms.append(terms)
        self.ended = endings.ends(self.tail, token)
        self.tail = endings.after(self.tail, token)

    def rollout(self) -> Rollout:
        terms = np.stack(self.terms)
        steps = {name: np.ascontiguousarray(terms[:, i]) for i, name in enumerate(STEP_TERMS)}
        return Rollout(self.asked.prompt_index, self.asked.rollout, np.array(self.token_ids, dtype=np.int32),
                       STOP if self.ended else LENGTH, steps)
