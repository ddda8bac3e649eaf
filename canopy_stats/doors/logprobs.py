"""Log-probabilities in the forms in which servers write them, to the drawn tokens' and the likeliest tokens'."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from canopy_stats.schema import UserError

_IMPOSSIBLE = -9998.0
"""OpenAI writes -9999 for what it leaves out."""


def plain(value: Any, where: str) -> tuple[Any, list[list[float]] | None]:
    """(drawn, likeliest) of one completion's ``logprobs``: numbers (N,), and a list of them for each step or None.

    Forms: a list of numbers; OpenAI's completions (``tokens``, ``token_logprobs``, ``top_logprobs``) and chats
    (``content`` with ``logprob`` and ``top_logprobs``); vLLM's list of ``{token id: {"logprob": ...}}``, whose first
    entry is the drawn token. A single number stands for a whole completion.
    """
    if value is None or isinstance(value, int | float):
        return value, None
    if isinstance(value, Mapping):
        return _openai(value, where)
    steps = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [None]
    if all(isinstance(s, int | float) for s in steps):
        return [_number(s, where) for s in steps], None
    if all(isinstance(s, Mapping) for s in steps):
        return _steps(steps, where)
    raise UserError(f"{where}: the log-probabilities are in no form that is known (a number for each token, or "
                    "OpenAI's or vLLM's). If some are null, leave logprobs out.")


def _openai(value: Mapping[str, Any], where: str) -> tuple[list[float] | None, list[list[float]] | None]:
    if isinstance(value.get("content"), Sequence):
        return _steps(list(value["content"]), where)
    drawn = value.get("token_logprobs")
    if drawn is None:
        return None, None
    tops = value.get("top_logprobs")
    if not isinstance(drawn, Sequence) or not isinstance(tops or [], Sequence):
        raise UserError(f"{where}: token_logprobs and top_logprobs must be lists.")
    listed = None if not tops else [likeliest(t, where) for t in tops]
    return [_number(d, where) for d in drawn], listed


def _steps(steps: list[Any], where: str) -> tuple[list[float], list[list[float]] | None]:
    if not all(isinstance(s, Mapping) for s in steps):
        raise UserError(f"{where}: a step's log-probability must be an object.")
    if all("logprob" in s for s in steps):
        tops = [s.get("top_logprobs") for s in steps]
        listed = [likeliest(t, where) for t in tops] if steps and all(tops) else None
        return [_number(s["logprob"], where) for s in steps], listed
    # vLLM: the drawn token comes first.
    values = [[_value(v, where) for v in s.values()] for s in steps]
    if not all(values):
        raise UserError(f"{where}: a step has no log-probability; leave logprobs out, or correct it.")
    return [v[0] for v in values], values


def likeliest(value: Any, where: str) -> list[float]:
    """One step's likeliest tokens' log-probabilities: a mapping, a list of numbers, or of ``{"logprob": ...}``."""
    values = value.values() if isinstance(value, Mapping) else value
    if not isinstance(value, Mapping | Sequence) or isinstance(value, str):
        raise UserError(f"{where}: top_logprobs must hold a list or a mapping of log-probabilities for each token.")
    return [v for v in (_value(item, where) for item in values) if v > _IMPOSSIBLE]


def _value(item: Any, where: str) -> float:
    if isinstance(item, Mapping):
        item = item.get("logprob")
    return _number(getattr(item, "logprob", item), where)


def _number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
        raise UserError(f"{where}: a log-probability is {value!r}; it must be a number (natural logarithm).")
    return float(value)
