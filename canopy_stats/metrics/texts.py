"""What is embedded of a rollout: its decoded text, stripped, with or without its thinking part."""

from __future__ import annotations

import re
from collections.abc import Iterable

from canopy_stats.schema import UserError

THINK = ("keep", "drop")

_THINKING = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL)
_OPENED_BY_TEMPLATE = re.compile(r"\A(?:(?!<think>).)*?</think>", re.DOTALL)


def prepare(texts: Iterable[str], think: str = "keep") -> list[str]:
    """Texts without surrounding white space; ``think="drop"`` also removes ``<think>…</think>``.

    A thinking part that the length cap cut off runs to the end of the text, and one that the chat template opened
    in the prompt begins with it: both are dropped too.
    """
    if think not in THINK:
        raise UserError(f"think is {think!r}; it must be 'keep' or 'drop'.")
    return [(without_thinking(t) if think == "drop" else t).strip() for t in texts]


def without_thinking(text: str) -> str:
    """The text without its thinking parts."""
    return _THINKING.sub("", _OPENED_BY_TEMPLATE.sub("", text))
