"""A model's prompts a second time: what a stored run is checked against shares no code with what drew it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..schema import RENDERED_TEXT


def plain_prompt(tokenizer: Any, source: Any, *, chat: bool | str | None, system: str | None = None,
                 arguments: Mapping[str, Any] | None = None) -> tuple[int, ...]:
    """A prompt's token ids in two separate steps: the template as text, then that text without any special tokens
    (with the tokenizer's own where ``chat`` is "rendered-text")."""
    if isinstance(source, list) and isinstance(source[0], int):
        return tuple(source)
    if not chat:
        return tuple(tokenizer(source)["input_ids"])
    messages = [{"role": "user", "content": source}] if isinstance(source, str) else source
    if system is not None:
        messages = [{"role": "system", "content": system}, *messages]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **(arguments or {}))
    return tuple(tokenizer(text, add_special_tokens=chat == RENDERED_TEXT)["input_ids"])
