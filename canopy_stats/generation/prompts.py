"""Prompts: from a JSONL file or a list to (id, source) pairs, and from a source to the model's token ids."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..schema import RENDERED_TEXT, UserError

Source = str | list[dict[str, str]] | list[int]


def read_prompts(prompts: str | Path | Sequence[Any]) -> list[tuple[str, Source]]:
    """(id, source) pairs of a JSONL file, or of a list whose items are strings, chat messages or token ids.

    A file's lines are JSON objects with a ``prompt`` (a string, or a list of chat messages) and an optional ``id``;
    the default id is the prompt's index from 0. Blank lines are skipped. Raises :class:`UserError` with line numbers.
    """
    if isinstance(prompts, str | Path):
        return _read_file(Path(prompts))
    return _distinct([(f"prompt {i}", str(i), _source(item, f"prompt {i}")) for i, item in enumerate(prompts)],
                     "The list of prompts")


def _read_file(path: Path) -> list[tuple[str, Source]]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise UserError(f"There is no prompt file {path}. Give a JSONL file whose lines look like "
                        '{"prompt": "Once upon a time"}.') from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"The prompt file {path} can't be read ({error}); give a UTF-8 text file.") from None
    entries: list[tuple[str, str, Source]] = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            record = _parse(line, f"{path}, line {number}")
            source = _source(record["prompt"], f"{path}, line {number}")
            entries.append((f"line {number}", str(record.get("id", len(entries))), source))
    return _distinct(entries, f"The prompt file {path}")


def _parse(line: str, where: str) -> dict[str, Any]:
    """One line as an object that has a prompt."""
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"{where} is not valid JSON ({error.msg} at column {error.colno}); write one object a line, "
                        'such as {"prompt": "Once upon a time"}.') from None
    if not isinstance(record, dict) or "prompt" not in record:
        raise UserError(f"{where} has no 'prompt' key; write one object a line, such as "
                        '{"prompt": "Once upon a time"}.')
    return record


def _source(item: Any, where: str) -> Source:
    """The item, checked to be a non-empty string, list of chat messages, or list of token ids."""
    if isinstance(item, str):
        if not item.strip():
            raise UserError(f"{where}: the prompt is empty; remove it or write something.")
        return item
    if isinstance(item, Sequence) and not item:
        raise UserError(f"{where}: the prompt is empty; remove it or write something.")
    if isinstance(item, Sequence) and all(_is_message(m) for m in item):
        return [{"role": m["role"], "content": m["content"]} for m in item]
    if hasattr(item, "__iter__") and not isinstance(item, Mapping):
        ids = list(item)
        if ids and all(hasattr(i, "__index__") and not isinstance(i, bool) for i in ids):
            return [int(i) for i in ids]
    raise UserError(f"{where}: a prompt is a string, a list of chat messages "
                    '({"role": "user", "content": "..."}), or a list of token ids.')


def _is_message(item: Any) -> bool:
    return isinstance(item, Mapping) and isinstance(item.get("role"), str) and isinstance(item.get("content"), str)


def _distinct(entries: list[tuple[str, str, Source]], what: str) -> list[tuple[str, Source]]:
    """(id, source) of (where, id, source) entries: some, with no id and no source twice."""
    if not entries:
        raise UserError(f"{what} holds no prompts; add at least one.")
    seen: dict[tuple[str, str], str] = {}
    for where, prompt_id, source in entries:
        for key, twice in [(("prompt", json.dumps(source)), "The same prompt"),
                           (("id", prompt_id), f"The id {prompt_id!r}")]:
            if key in seen:
                raise UserError(f"{what}: {twice[0].lower() + twice[1:]} stands twice, at {seen[key]} and {where}; "
                                "prompts and ids must be distinct, so remove or rename one.")
            seen[key] = where
    return [(prompt_id, source) for _, prompt_id, source in entries]


@dataclass(frozen=True, slots=True)
class ChatFormat:
    """How sources become token ids: with the tokenizer's chat template and its arguments, or as plain text."""

    chat: bool | str
    system: str | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.chat and (self.system is not None or self.arguments):
            raise UserError("A system prompt, enable_thinking and template_kwargs only exist inside a chat template; "
                            "drop them, or set chat=True.")


def check_template(tokenizer: Any, style: ChatFormat) -> None:
    """Refuse a chat format that the tokenizer can't produce."""
    if style.chat and (tokenizer is None or not getattr(tokenizer, "chat_template", None)):
        raise UserError("Prompts should go through a chat template (chat=None means the template for variants other "
                        "than 'base'), but the tokenizer has none; set chat=False, or give the tokenizer of a chat "
                        "model with tokenizer=.")


def encode(source: Source, tokenizer: Any, style: ChatFormat) -> tuple[int, ...]:
    """A source as token ids. Lists of token ids pass through as they are.

    Plain text is tokenised by the tokenizer's own rule (its BOS where it adds one). A chat is tokenised by the chat
    template in one go: text rendered from a template is never tokenised again, so no second BOS can appear, except
    where ``style.chat`` asks for it by name (schema.RENDERED_TEXT).
    """
    if isinstance(source, list) and source and isinstance(source[0], int):
        return tuple(i for i in source if isinstance(i, int))
    if tokenizer is None:
        raise UserError("The prompts are text, but the model came without a tokenizer; give one with tokenizer=, or "
                        "give the prompts as lists of token ids.")
    if isinstance(source, str) and not style.chat:
        ids = tokenizer(source)["input_ids"]
    elif style.chat:
        ids = _templated(source, tokenizer, style)
    else:
        raise UserError("A prompt is a list of chat messages, but this variant takes plain text; set chat=True, or "
                        "write the prompt as a string.")
    if not ids:
        raise UserError(f"The tokenizer makes no tokens of the prompt {source!r}; remove it.")
    return tuple(int(i) for i in ids)


def _templated(source: Any, tokenizer: Any, style: ChatFormat) -> list[int]:
    messages = [{"role": "user", "content": source}] if isinstance(source, str) else list(source)
    if style.system is not None:
        if messages[0]["role"] == "system":
            raise UserError("A prompt brings its own system message and a system prompt was given too; drop one.")
        messages = [{"role": "system", "content": style.system}, *messages]
    if style.chat == RENDERED_TEXT:
        return list(tokenizer(_applied(messages, tokenizer, style, tokenize=False))["input_ids"])
    return list(_applied(messages, tokenizer, style, tokenize=True, return_dict=True)["input_ids"])


def _applied(messages: list[dict[str, str]], tokenizer: Any, style: ChatFormat, **how: bool) -> Any:
    try:
        return tokenizer.apply_chat_template(messages, add_generation_prompt=True, **how, **style.arguments)
    except Exception as error:  # templates are programs, and refuse in their own words
        raise UserError(f"The chat template refuses the prompt ({error}); change its messages, or set chat=False "
                        "for plain text.") from error
