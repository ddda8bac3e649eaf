"""Stop strings as tables: what a text so far means to them is one state, and each token leads to another state.

The states are the proper first parts of the strings, the empty one first; a text is in the state of the longest one
that it ends with (Aho and Corasick 1975). No step waits for the host, where tokens become texts: the tables lie where
the logits are. They say the same as :class:`.ending.StopStrings`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np


@dataclass(frozen=True, slots=True)
class StopTables:
    """``after`` (S + 1, V) int32: the state after a token; ``completing`` (S + 1, K) int64: the ids that would complete
    a string, -1 to fill a row. The last state is that of a text that a string has ended; every token stays in it."""

    after: np.ndarray
    completing: np.ndarray

    @classmethod
    def of(cls, strings: Sequence[str], pieces: Sequence[bytes], aside: Iterable[int]) -> Self:
        """``pieces`` are the tokens' bytes by id; ids in ``aside`` are left out of ``completing``."""
        moves, matches = _automaton([s.encode() for s in strings])
        ended = len(moves)
        after = np.full((ended + 1, len(pieces)), ended, dtype=np.int32)
        outside = ~np.isin(np.arange(len(pieces)), list(aside))
        columns, ids = _columns(pieces), []
        for state in range(ended):
            reached, complete = _read(moves, matches, state, columns, len(pieces))
            after[state] = np.where(complete, ended, reached)
            ids.append(np.flatnonzero(complete & outside))
        completing = np.full((ended + 1, max(map(len, ids))), -1, dtype=np.int64)
        for state, found in enumerate(ids):
            completing[state, : len(found)] = found
        return cls(after, completing)

    @property
    def ended(self) -> int:
        """The state of a text that a string has ended."""
        return len(self.after) - 1

    def read(self, state: int, token_ids: Iterable[int]) -> int:
        """The state after further tokens, none of which ended the text."""
        for token in token_ids:
            state = int(self.after[state, token])
        return state

    def save(self, path: Path) -> None:
        """As NumPy's own format, without pickles."""
        np.savez(path, after=self.after, completing=self.completing)

    @classmethod
    def load(cls, path: str) -> Self:
        with np.load(path, allow_pickle=False) as stored:
            return cls(stored["after"], stored["completing"])


def start_state(strings: Sequence[str], tail: bytes) -> int:
    """The state of a text that ends with ``tail`` (of at least the longest string's length but one, or the whole text).
    A string that lies in it has ended nothing."""
    parts = _parts([s.encode() for s in strings])
    return next(parts.index(tail[k:]) for k in range(len(tail) + 1) if tail[k:] in parts)


def _parts(strings: Sequence[bytes]) -> list[bytes]:
    return sorted({s[:k] for s in strings for k in range(len(s))}, key=lambda part: (len(part), part))


def _automaton(strings: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Moves (S, 256) from state to state by one byte, and whether that byte completes a string (S, 256)."""
    number = {part: i for i, part in enumerate(_parts(strings))}
    moves, matches = np.zeros((len(number), 256), dtype=np.int32), np.zeros((len(number), 256), dtype=bool)
    for part, state in number.items():
        for byte in {b for s in strings for b in s}:
            text = part + bytes([byte])
            matches[state, byte] = any(text.endswith(s) for s in strings)
            moves[state, byte] = next(number[text[k:]] for k in range(len(text) + 1) if text[k:] in number)
    return moves, matches


ByteColumn = tuple[np.ndarray, np.ndarray]


def _columns(pieces: Sequence[bytes]) -> list[ByteColumn]:
    """For each place within tokens, which of them reach so far, and their bytes there."""
    found: list[ByteColumn] = []
    there = list(range(len(pieces)))
    while there := [i for i in there if len(pieces[i]) > len(found)]:
        found.append((np.array(there), np.array([pieces[i][len(found)] for i in there], dtype=np.uint8)))
    return found


def _read(moves: np.ndarray, matches: np.ndarray, state: int, columns: Sequence[ByteColumn],
          vocabulary: int) -> tuple[np.ndarray, np.ndarray]:
    """From one state: the state after each token (V,), and whether the token completes a string (V,)."""
    states, complete = np.full(vocabulary, state), np.zeros(vocabulary, dtype=bool)
    for there, byte in columns:
        complete[there] |= matches[states[there], byte]
        states[there] = moves[states[there], byte]
    return states, complete
