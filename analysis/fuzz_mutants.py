"""Mutants of valid values for analysis/fuzz.py: some strange, some that a careful stranger could have written."""

from __future__ import annotations

import copy
import random
from typing import Any

STRANGE: list[Any] = [None, True, -1, 0, 1e308, float("nan"), float("inf"), 10**30, "", "x" * 300, "\x1b[2J", "a\0b",
                      "../x", "/", ".", "$frac{a", "\ud800", [], {}, [[]], {"a": {}}, "org/x", "auto",
                      "torch", "nan", "=1+1"]
TEXTS = ["", " ", "-1", "0", "1", "2", "1.5", "nan", "inf", "1e400", "9" * 5000, "²", "auto", "/", ".", "..", "a/b",
         "\x1b[2J", "a,b", "3,4", "x" * 300, "\ud800", "{}", '{"a": 1}', "[" * 5000, "cpu", "cuda:99999", "tfidf",
         "R_bar", "=1", "choice=x", "slope model=main", "-", "--", "None", "1_0", "０", "a\tb", "a\nb", "<b>|", "$x$"]


def mutated(value: Any, rng: random.Random, strange: float = 0.5) -> Any:
    """A copy with one to three places changed; ``strange`` is the share of copies that get strange values."""
    made, own = copy.deepcopy(value), strange if rng.random() < strange else 0.0
    for _ in range(rng.randint(1, 3)):
        made = _changed(made, rng, own)
    return made


def _changed(value: Any, rng: random.Random, strange: float) -> Any:
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(list(value))
        action = rng.random() if strange else 1.0
        if action < 0.1:
            value.pop(key)
        elif action < 0.2:
            value[rng.choice(["extra", "", "a.b"])] = rng.choice(STRANGE)
        else:
            value[key] = _changed(value[key], rng, strange)
        return value
    if isinstance(value, list) and value and rng.random() < 0.9:
        place = rng.randrange(len(value))
        value[place] = _changed(value[place], rng, strange)
        return value
    return copy.deepcopy(rng.choice(STRANGE)) if strange else _other(value, rng)


def _other(value: Any, rng: random.Random) -> Any:
    """Another value of the same kind."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return rng.randint(0, 2 * abs(value) + 2)
    if isinstance(value, float):
        return value * rng.uniform(0.5, 2)
    return value + rng.choice(["", "", "b"]) if isinstance(value, str) else value


def torn(data: bytes, rng: random.Random) -> bytes:
    """The bytes cut, flipped, doubled, or with others between them."""
    place, action = rng.randrange(len(data) + 1), rng.random()
    if action < 0.4:
        return data[:place]
    if action < 0.6:
        return data[:place] + bytes([rng.randrange(256)]) + data[place + 1:]
    more = rng.choice([b"\0", b"\xff", b"\n", b"[" * 3000])
    return data + data if action < 0.7 else data[:place] + more + data[place:]
