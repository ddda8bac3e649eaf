"""The sampling law."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from canopy_stats.schema.problems import require


@dataclass(frozen=True, slots=True)
class SamplingPolicy:
    """The sampling law: repetition penalty, minimum length and suppressed tokens; then temperature, top-k, top-p and
    min-p; then the ends: end tokens, stop strings, the length cap.

    What comes before the temperature acts as in transformers' processors of the same names.

    Parameters
    ----------
    temperature : float
        Divides the logits; must be positive and finite.
    top_k : int, optional
        Keep the k most likely tokens; ties at the boundary are kept.
    top_p : float, optional
        Keep the smallest set of most likely tokens whose mass reaches top_p (0 < top_p <= 1); ties are kept.
    min_p : float, optional
        Keep tokens whose probability is at least min_p times that of the most likely one (0 <= min_p <= 1).
    max_new_tokens : int
        The length cap, in tokens; it is part of the law.
    stop_token_ids : sequence of int
        Tokens that end a rollout beside the model's own end tokens.
    stop_strings : sequence of str
        A rollout ends at the token that completes one of these in the text so far, also where the string began in an
        earlier token or in the prompt, and where the token goes on after it. The token is kept.
    repetition_penalty : float, optional
        Logits of the tokens that prompt or rollout already hold are divided by it where positive, else multiplied.
    min_new_tokens : int
        Until so many tokens are drawn, no end token can be: neither the model's own nor one of ``stop_token_ids``.
        Stop strings may still end the rollout.
    suppress_tokens : sequence of int
        Tokens that are never drawn.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    max_new_tokens: int = 4000
    stop_token_ids: tuple[int, ...] = ()
    stop_strings: tuple[str, ...] = ()
    repetition_penalty: float | None = None
    min_new_tokens: int = 0
    suppress_tokens: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        require(0 < self.temperature < float("inf"), "temperature", self.temperature, "a positive, finite number")
        require(_whole(self.max_new_tokens) and self.max_new_tokens >= 1, "max_new_tokens", self.max_new_tokens,
                 "a whole number of at least 1")
        require(self.top_k is None or (_whole(self.top_k) and self.top_k >= 1), "top_k", self.top_k,
                 "a whole number of at least 1, or None for no filter")
        require(self.top_p is None or 0 < self.top_p <= 1, "top_p", self.top_p, "above 0 and at most 1, or None")
        require(self.min_p is None or 0 <= self.min_p <= 1, "min_p", self.min_p, "between 0 and 1, or None")
        penalty = self.repetition_penalty
        require(penalty is None or 0 < penalty < float("inf"), "repetition_penalty", penalty,
                 "a positive, finite number, or None")
        require(_whole(self.min_new_tokens) and 0 <= self.min_new_tokens <= self.max_new_tokens, "min_new_tokens",
                 self.min_new_tokens, f"a whole number from 0 to max_new_tokens ({self.max_new_tokens})")
        for name in ("stop_token_ids", "suppress_tokens"):
            object.__setattr__(self, name, _token_ids(name, getattr(self, name)))
        object.__setattr__(self, "stop_strings", _texts("stop_strings", self.stop_strings))

    @property
    def truncates(self) -> bool:
        """Whether any filter may remove tokens: top-k, top-p or min-p."""
        return self.top_k is not None or (self.top_p or 1.0) < 1 or (self.min_p or 0.0) > 0

    @property
    def penalises(self) -> bool:
        """Whether the law depends on which tokens the text already holds."""
        return self.repetition_penalty not in (None, 1)

    @property
    def processes(self) -> bool:
        """Whether anything acts on the logits before the temperature."""
        return self.penalises or self.min_new_tokens > 0 or bool(self.suppress_tokens)

    def to_dict(self) -> dict[str, Any]:
        """The fields by name. Those that came later are left out at their defaults: a law keeps its dictionary, and so
        its hash, when the package learns of new ones."""
        defaults = {f.name: f.default for f in fields(self) if f.name in _LATER_FIELDS}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()
                if name not in defaults or value != defaults[name]}

    def label(self) -> str:
        """A short name for tables, such as ``T=1 top-k=100 cap=4000``; different laws have different names."""
        numbers = {"rep": self.repetition_penalty, "T": self.temperature, "top-k": self.top_k, "top-p": self.top_p,
                   "min-p": self.min_p, "min": self.min_new_tokens or None}
        lists = {"suppress": self.suppress_tokens, "stop-ids": self.stop_token_ids, "stop": self.stop_strings}
        return " ".join([*(f"{k}={v:g}" for k, v in numbers.items() if v is not None),
                         *(f"{k}={_short_list(v)}" for k, v in lists.items() if v), f"cap={self.max_new_tokens}"])


_LATER_FIELDS = ("stop_token_ids", "stop_strings", "repetition_penalty", "min_new_tokens", "suppress_tokens")


def _short_list(values: tuple[Any, ...]) -> str:
    """The values as JSON where that is short, else their number and the start of a hash."""
    text = json.dumps(values, ensure_ascii=False, separators=(",", ":"))
    return text if len(text) <= 40 else f"{len(values)}#{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _token_ids(name: str, values: Any) -> tuple[int, ...]:
    listed = _listed(name, values, "a list of token ids")
    require(all(_whole(v) and v >= 0 for v in listed), name, values, "a list of token ids, whole numbers from 0")
    return tuple(int(v) for v in listed)


def _texts(name: str, values: Any) -> tuple[str, ...]:
    listed = _listed(name, values, "a list of texts")
    require(all(isinstance(v, str) and v and _encodes(v) for v in listed), name, values,
             "a list of texts, none of them empty or with a lone surrogate")
    return listed


def _listed(name: str, values: Any, wanted: str) -> tuple[Any, ...]:
    require(isinstance(values, Sequence | np.ndarray | set | frozenset) and not isinstance(values, str | bytes), name,
             values, wanted)
    return tuple(sorted(values) if isinstance(values, set | frozenset) else values)


def _encodes(text: str) -> bool:
    try:
        return bool(text.encode())
    except UnicodeEncodeError:
        return False


def _whole(value: object) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)
