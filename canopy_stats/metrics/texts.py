"""What is embedded of a rollout: its decoded text, stripped, with or without its thinking part."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from canopy_stats.schema import UserError

if TYPE_CHECKING:
    from canopy_stats.store import Run

THINK = ("keep", "drop")

_THINKING = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL)
_OPENED_BEFORE = re.compile(r"\A(?:(?!<think>).)*?</think>", re.DOTALL)
_ASIDE = re.compile(r"<\|channel\|>(?!final\b).*?(?:<\|(?:end|call|return)\|>|(?=<\|start\|>)|\Z)", re.DOTALL)
_MARKS = re.compile(r"<\|start\|>assistant|<\|channel\|>final(?: [^<]*)?<\|message\|>|<\|(?:end|return)\|>")
_BARE_ASIDE = re.compile(r"\A(?:analysis|commentary).*?assistantfinal", re.DOTALL)


def prepare(texts: Iterable[str], think: str = "keep") -> list[str]:
    """Texts without surrounding white space; ``think="drop"`` also removes ``<think>…</think>`` and the channels beside
    the final one (OpenAI's harmony format, with its marks or after they were skipped in decoding).

    A thinking part that the length cap cut off runs to the end of the text, and one that the chat template opened
    in the prompt begins with it: both are dropped too, the latter where it was closed (see :func:`with_openings`).
    """
    if think not in THINK:
        raise UserError(f"think is {think!r}; it must be 'keep' or 'drop'.")
    return [(without_thinking(t) if think == "drop" else t).strip() for t in texts]


def without_thinking(text: str) -> str:
    """The text without its thinking parts."""
    if "<|channel|>" in text:
        return _MARKS.sub("", _ASIDE.sub("", text))
    return _THINKING.sub("", _OPENED_BEFORE.sub("", _BARE_ASIDE.sub("", text)))


def with_openings(run: Run, texts: Sequence[str], prompt_ids: Sequence[str]) -> list[str]:
    """The rollouts' texts, with ``<think>`` before those whose prompt ends in it: nothing else tells a thought that was
    cut off from an answer. The same for a first channel beside the final one, whose marks decoding has skipped."""
    opened = run.config.model.get("opens_thought", False)
    if isinstance(opened, list):
        of_hash = {p.prompt_id: p.prompt_hash in set(opened) for p in run.prompts()}
        texts = [f"<think>{text}" if of_hash[name] else text for text, name in zip(texts, prompt_ids, strict=True)]
    elif opened:
        texts = [f"<think>{text}" for text in texts]
    return [_channel_opened(text) for text in texts] if run.config.model.get("channels") else list(texts)


def _channel_opened(text: str) -> str:
    cut_off = text.startswith(("analysis", "commentary")) and "assistantfinal" not in text
    return f"<think>{text}" if cut_off else text.removeprefix("final")
