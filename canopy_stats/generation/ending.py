"""What ends a rollout: end tokens, and tokens that complete a stop string in the text so far.

A stop string is completed by a token when it lies in the text with that token and did not lie in the text without it.
So either the token holds it whole, or some first part of it ends the text so far and the token begins with the rest:
with the tokens sorted by their bytes, each such rest is one range of them. Texts are compared as bytes, because a token
may end within a character. The prompt counts as text, as in transformers' StopStringCriteria.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from ..schema import SamplingPolicy, UserError
from .stop_tables import StopTables, start_state
from .token_bytes import token_bytes

_NONE = np.zeros(0, dtype=np.int64)


class StopStrings:
    """Which token ids complete one of some strings, given the end of the text so far.

    ``pieces`` are the tokens' bytes by id (:mod:`.token_bytes`); ids in ``aside`` are left out of the answers.
    """

    def __init__(self, strings: Sequence[str], pieces: Sequence[bytes], aside: Iterable[int] = ()):
        self.strings = [s.encode() for s in strings]
        self.pieces = pieces
        self._aside = np.array(sorted(aside), dtype=np.int64)
        self._order = sorted(range(len(pieces)), key=pieces.__getitem__)
        self._sorted = [pieces[i] for i in self._order]
        self._beyond = b"\xff" * (1 + max(map(len, pieces), default=0))
        self._whole = {s: np.array([i for i, piece in enumerate(pieces) if s in piece], dtype=np.int64)
                       for s in self.strings}
        self._known: dict[tuple[bytes, ...], np.ndarray] = {}
        self.remembered = max(map(len, self.strings)) - 1
        """Bytes of the text so far that matter: the longest string but its last byte."""

    def start(self, token_ids: Sequence[int]) -> bytes:
        """The end of a prompt's text."""
        tail = b""
        for token in reversed(token_ids):
            tail = self._piece(token) + tail
            if len(tail) >= self.remembered:
                break
        return self._end(tail)

    def after(self, tail: bytes, token: int) -> bytes:
        """The end of the text after one more token."""
        return self._end(tail + self._piece(token))

    def completed(self, tail: bytes, token: int) -> bool:
        """Whether the token completes a string."""
        piece = self._piece(token)
        # A string that lay in the text before the token is longer than what is looked at of that text.
        return any(s in tail[len(tail) - min(len(tail), len(s) - 1):] + piece for s in self.strings)

    def completing(self, tail: bytes) -> np.ndarray:
        """The ids that complete a string after this text, ascending."""
        rests = tuple(dict.fromkeys(s[k:] for s in self.strings for k in range(1, len(s)) if tail.endswith(s[:k])))
        if rests not in self._known:
            parts = [*self._whole.values(), *map(self._beginning, rests)]
            self._known[rests] = np.setdiff1d(np.concatenate(parts), self._aside)
        return self._known[rests]

    def impossible(self) -> list[str]:
        """Strings that no token can complete."""
        return [s.decode() for s in self.strings
                if not len(self._whole[s]) and not any(len(self._beginning(s[k:])) for k in range(1, len(s)))]

    def _piece(self, token: int) -> bytes:
        return self.pieces[token]

    def _end(self, text: bytes) -> bytes:
        return text[len(text) - min(len(text), self.remembered):]

    def _beginning(self, rest: bytes) -> np.ndarray:
        """The ids whose bytes begin with ``rest``."""
        first, last = bisect_left(self._sorted, rest), bisect_left(self._sorted, rest + self._beyond)
        return np.array(self._order[first:last], dtype=np.int64)


class Endings:
    """What ends a rollout: the ids ``ids`` at any time, and what completes a stop string.

    ``tail`` below is the end of the text so far, as :meth:`start` and :meth:`after` give it.
    """

    def __init__(self, ids: Iterable[int], strings: Sequence[str] = (), pieces: Sequence[bytes] = ()):
        self.ids = tuple(sorted(set(ids)))
        self._set = frozenset(self.ids)
        self._texts = tuple(strings)
        self.strings = StopStrings(strings, pieces, self.ids) if strings else None
        if self.strings and (never := self.strings.impossible()):
            raise UserError(f"No token of this model's tokenizer can complete the stop string {never[0]!r}; correct "
                            "stop_strings, or give the model's own tokenizer.")

    def start(self, prompt_ids: Sequence[int]) -> bytes:
        """What is remembered of a prompt."""
        return self.strings.start(prompt_ids) if self.strings else b""

    @cached_property
    def tables(self) -> StopTables:
        """What the strings mean, for a device that cannot wait for texts."""
        assert self.strings is not None
        return StopTables.of(self._texts, self.strings.pieces, self.ids)

    def state(self, tail: bytes) -> int:
        """The state of :attr:`tables` that a tail is."""
        return start_state(self._texts, tail)

    def after(self, tail: bytes, token: int) -> bytes:
        """What is remembered after one more token."""
        return self.strings.after(tail, token) if self.strings else b""

    def ends(self, tail: bytes, token: int) -> bool:
        """Whether a token ends the rollout."""
        return token in self._set or (self.strings is not None and self.strings.completed(tail, token))

    def ended(self, text: Sequence[int], token: int) -> bool:
        """Whether a token ends the rollout, given all ids before it."""
        return self.ends(self.start(text), token)

    def completing(self, tail: bytes) -> np.ndarray:
        """The ids beside :attr:`ids` that would end the rollout now, ascending."""
        return self.strings.completing(tail) if self.strings else _NONE


def endings_of(policy: SamplingPolicy, end_ids: Iterable[int], vocabulary: int, tokenizer: Any) -> Endings:
    """What ends a rollout of a model with these end tokens under a law."""
    pieces = token_bytes(tokenizer, vocabulary) if policy.stop_strings else ()
    return Endings({*end_ids, *policy.stop_token_ids}, policy.stop_strings, pieces)


def refuse_impossible(policy: SamplingPolicy, end_ids: Iterable[int], vocabulary: int, tokenizer: Any) -> None:
    """Refuse a law that names tokens the model lacks, leaves none to draw, or reads texts without a tokenizer."""
    for name, ids in (("stop_token_ids", policy.stop_token_ids), ("suppress_tokens", policy.suppress_tokens)):
        if ids and max(ids) >= vocabulary:
            raise UserError(f"{name} holds the token id {max(ids)}, but the model's ids run from 0 to "
                            f"{vocabulary - 1}; correct the list.")
    early = {*end_ids, *policy.stop_token_ids} if policy.min_new_tokens else set()
    if len({*policy.suppress_tokens, *early}) >= vocabulary:
        raise UserError("suppress_tokens and min_new_tokens leave no token to draw; shorten the list.")
    if policy.stop_strings and tokenizer is None:
        raise UserError("stop_strings need a tokenizer; give one with tokenizer=, or use stop_token_ids.")
