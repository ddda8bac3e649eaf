"""From a prompt's source to the model's token ids, and what has to be said of the prompts of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..schema import RENDERED_TEXT, UserError
from .prompt_file import PromptSource, prompt_hash
from .templates import DATE_KEY, ChatFormat, asks_for_the_date, templated, unused_arguments

_TAIL = 16


def encode(source: PromptSource, tokenizer: Any, style: ChatFormat) -> tuple[int, ...]:
    """A source as token ids. Lists of token ids pass through as they are.

    Plain text is tokenised by the tokenizer's own rule (its BOS where it adds one), except that nothing is put after
    it: a text that is to be continued has not ended. A chat is tokenised as the chat template renders it: no second
    BOS is added, except where ``style.chat`` asks for it by name (schema.RENDERED_TEXT).
    """
    if isinstance(source, list) and source and isinstance(source[0], int):
        return tuple(i for i in source if isinstance(i, int))
    if tokenizer is None:
        raise UserError("The prompts are text, but the model came without a tokenizer; give one with tokenizer=, or "
                        "give the prompts as lists of token ids.")
    if style.chat:
        ids = templated(source, tokenizer, style)
    elif isinstance(source, str):
        ids = _plain(source, tokenizer)
    else:
        raise UserError("A prompt is a list of chat messages, but this variant takes plain text; set chat=True, or "
                        "write the prompt as a string.")
    if not ids:
        raise UserError(f"The tokenizer makes no tokens of the prompt {_shown(source)}; remove it.")
    return tuple(int(i) for i in ids)


def _plain(text: str, tokenizer: Any) -> list[int]:
    """The text between what the tokenizer puts before it and what it would put after it."""
    own = list(tokenizer(text, add_special_tokens=False)["input_ids"])
    if not own:
        return []
    whole = list(tokenizer(text)["input_ids"])
    return whole[: len(whole) - _appended(whole, own)]


def _appended(whole: list[int], own: list[int]) -> int:
    """How many ids stand after the text's own in what the tokenizer makes of it."""
    for after in range(len(whole) - len(own) + 1):
        end = len(whole) - after
        if whole[end - len(own):end] == own:
            return after
    return 0


def _shown(source: PromptSource) -> str:
    text = repr(source)
    return text if len(text) <= 80 else f"{text[:76]} ..."


# --- what has to be said ----------------------------------------------------------------------------------------------


_REMARKS: dict[str, str] = {
    "closed": "The tokenizer puts an end token after {}; it was left out, since the text goes on.",
    "doubled": "A second BOS stands at the start of {}: it is in the text and put there once more.",
    "ended": "A token that ends rollouts stands at the end of {}: the model is asked to write after the end.",
    "alike": "The tokenizer does not tell {} from another one: they become the same token ids.",
    "thinking": "",
}
"""What is said of each thing that can be noticed; of a prompt that opens a thought, nothing."""


@dataclass(slots=True)
class Remarks:
    """What was noticed while prompts became token ids. Each set holds the ids of prompts, so that one counts once."""

    tokenizer: Any
    end_ids: Sequence[int]
    style: ChatFormat
    seen: dict[tuple[int, ...], str] = field(default_factory=dict)
    found: dict[str, set[tuple[int, ...]]] = field(default_factory=lambda: {name: set() for name in _REMARKS})

    def look(self, source: PromptSource, ids: tuple[int, ...]) -> None:
        """Look at one prompt and the ids that it became."""
        name = prompt_hash(source)
        known = self.seen.setdefault(ids, name)
        closed = not self.style.chat and isinstance(source, str) and appends(source, self.tokenizer)
        begin = getattr(self.tokenizer, "bos_token_id", None)
        noticed = {"closed": closed, "ended": ids[-1] in self.end_ids,
                   "doubled": begin is not None and ids[:2] == (begin, begin), "alike": known != name,
                   "thinking": self.tokenizer is not None and opens_thought(self.tokenizer.decode(list(ids[-_TAIL:])))}
        for remark in (remark for remark, holds in noticed.items() if holds):
            self.found[remark].add(ids)

    def said(self) -> list[str]:
        """One line for each thing that was noticed and that a user should know."""
        counts = {name: f"{len(ids)} of {len(self.seen)} prompts" for name, ids in self.found.items()}
        lines = [_REMARKS[name].format(counts[name]) for name, ids in self.found.items() if ids and _REMARKS[name]]
        if self.style.chat == RENDERED_TEXT:
            lines.append("Rendered chat text was tokenised again, as asked for (chat='rendered-text'), unlike what the "
                         "template's authors do.")
        if self.style.chat and (unused := unused_arguments(self.tokenizer, self.style)):
            lines.append(f"The chat template does not use {', '.join(unused)}: it changes nothing.")
        if self.style.chat and asks_for_the_date(self.tokenizer):
            lines.append(f"The chat template asks for today's date and is told {self.style.day} on every day; "
                         f"template_kwargs={{'{DATE_KEY}': ...}} sets another.")
        return lines

    def open_thoughts(self) -> bool | list[str]:
        """Whether every prompt (or none) ends in a thought that it opened; else the hashes of those that do."""
        thinking = self.found["thinking"]
        return sorted(self.seen[ids] for ids in thinking) if 0 < len(thinking) < len(self.seen) else bool(thinking)


def appends(text: str, tokenizer: Any) -> bool:
    """Whether the tokenizer puts something after a text."""
    own = list(tokenizer(text, add_special_tokens=False)["input_ids"])
    return _appended(list(tokenizer(text)["input_ids"]), own) > 0


def opens_thought(text: str) -> bool:
    """Whether a prompt's text ends in a thought that it opened: ``<think>`` and white space."""
    return text.rstrip().endswith("<think>")
