"""Prompts as people write them: a JSONL file or a list, to (id, source) pairs, every mistake with its line."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..schema import UserError

PromptSource = str | list[dict[str, Any]] | list[int]

_EXAMPLE = '{"prompt": "Once upon a time"}'
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd",
               b"PK\x03\x04": "zip"}
_LARGEST_ID = 2**31
_LONGEST_NAME = 200
_DEEPEST = 50


def read_prompts(prompts: str | Path | Sequence[Any]) -> list[tuple[str, PromptSource]]:
    """(id, source) pairs of a JSONL file, or of a list whose items are strings, chat messages or token ids.

    A file's lines are JSON objects with a ``prompt`` (a string, a list of chat messages, or a list of token ids) and an
    optional ``id`` (a text or a whole number; the default is the prompt's index from 0). Only a line feed ends a line;
    blank lines are skipped. A message's ``content`` may be a list of text parts, which are read as one text; what else
    a message holds (``name``, ``tool_calls``, ...) is kept for the chat template. Raises :class:`UserError` with line
    numbers.
    """
    if isinstance(prompts, str | Path):
        return parse_prompts(_bytes(Path(prompts)), f"The prompt file {prompts}", str(prompts))
    return _distinct([(f"prompt {i}", str(i), read_source(item, f"prompt {i}")) for i, item in enumerate(prompts)],
                     "The list of prompts")


def parse_prompts(data: bytes, what: str, name: str = "prompts") -> list[tuple[str, PromptSource]]:
    """The same of a file's bytes; ``what`` and ``name`` say in errors which file it is."""
    entries: list[tuple[str, str, PromptSource]] = []
    given = dict[str, tuple[bool, int]]()
    for number, line in _lines(data, name):
        where = f"{name}, line {number}"
        record = parse_line(line, where)
        if "prompt" not in record:
            raise UserError(f"{where} has no 'prompt' key; write one object a line, such as {_EXAMPLE}.")
        prompt_id = _name(record["id"], where) if "id" in record else str(len(entries))
        has, other = given.setdefault(prompt_id, ("id" in record, number))
        if has != ("id" in record):
            raise UserError(f"{what}: line {number if has else other} has no id and is called by its place, "
                            f"{prompt_id!r}, which is the id of line {other if has else number}. Give ids in all "
                            "lines, or in none.")
        entries.append((f"line {number}", prompt_id, read_source(record["prompt"], where)))
    return _distinct(entries, what)


def _lines(data: bytes, name: str) -> Iterator[tuple[int, str]]:
    """(number, text) of the lines that are not blank."""
    for number, raw in enumerate(data.split(b"\n"), start=1):
        try:
            line = raw.decode("utf-8").strip(" \t\r")
        except UnicodeDecodeError:
            raise UserError(f"{name}, line {number} is no UTF-8 text, so the file can't be read; save it as UTF-8.") \
                from None
        if line:
            yield number, line


def _bytes(path: Path) -> bytes:
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            raise UserError(f"The prompt file {path} is a pipe or a device and can't be read twice; save it as a file.")
        data = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"There is no prompt file {path}. Give a JSONL file whose lines look like "
                        f"{_EXAMPLE}.") from None
    except (OSError, ValueError) as error:
        raise UserError(f"The prompt file {path} can't be read ({error}); give a UTF-8 text file.") from None
    for start, kind in _COMPRESSED.items():
        if data.startswith(start):
            raise UserError(f"The prompt file {path} can't be read (it is compressed with {kind}); unpack it first.")
    return data.removeprefix(b"\xef\xbb\xbf")


# --- one line ---------------------------------------------------------------------------------------------------------


def parse_line(line: str, where: str) -> dict[str, Any]:
    """One line of JSON as an object in which no key stands twice."""
    try:
        record = json.loads(line, object_pairs_hook=_once, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise UserError(f"{where} is not valid JSON ({error.msg} at column {error.colno}); write one object a line, "
                        f"such as {_EXAMPLE}.") from None
    except RecursionError:
        raise UserError(f"{where} is nested too deeply to be a prompt; write one object a line, such as "
                        f"{_EXAMPLE}.") from None
    except ValueError as error:
        why = " ".join(str(error).split())[:120]
        raise UserError(f"{where} is not valid JSON ({why}); write one object a line, such as {_EXAMPLE}.") from None
    if not isinstance(record, dict):
        raise UserError(f"{where} has no 'prompt' key; write one object a line, such as {_EXAMPLE}.")
    return record


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        twice = next(key for i, (key, _) in enumerate(pairs) if key in dict(pairs[:i]))
        raise ValueError(f"the key {twice[:40]!r} stands twice")
    return record


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON value")


def _name(value: Any, where: str) -> str:
    """An id as text: a text or a whole number."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    name = str(value) if whole or isinstance(value, str) else ""
    if not name.strip() or len(name) > _LONGEST_NAME or not name.isprintable():
        raise UserError(f"{where}: the id is {_shown(value)}; an id is a whole number or a text of at most "
                        f"{_LONGEST_NAME} printable characters. Correct it, or leave it out.")
    return name


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:56]} ..."


# --- one source -------------------------------------------------------------------------------------------------------


def read_source(item: Any, where: str) -> PromptSource:
    """The item, checked to be a non-empty string, list of chat messages, or list of token ids."""
    if isinstance(item, str):
        _refuse_half_characters([item], where)
        if not item.strip():
            raise UserError(f"{where}: the prompt is empty; remove it or write something.")
        return item
    if isinstance(item, Sequence) and not item:
        raise UserError(f"{where}: the prompt is empty; remove it or write something.")
    if isinstance(item, Sequence) and all(isinstance(m, Mapping) and isinstance(m.get("role"), str) for m in item):
        return [_message(m, where, i) for i, m in enumerate(item, start=1)]
    if hasattr(item, "__iter__") and not isinstance(item, Mapping | bytes):
        ids = list(item)
        if ids and all(hasattr(i, "__index__") and not isinstance(i, bool) for i in ids):
            return _ids([int(i) for i in ids], where)
    raise UserError(f"{where}: a prompt is a string, a list of chat messages "
                    '({"role": "user", "content": "..."}), or a list of token ids.')


def _ids(ids: list[int], where: str) -> list[int]:
    if min(ids) < -_LARGEST_ID or max(ids) >= _LARGEST_ID:
        raise UserError(f"{where}: a token id has more digits than any vocabulary; correct the prompt.")
    return ids


def _message(message: Mapping[str, Any], where: str, number: int) -> dict[str, Any]:
    """A message with its content as one text, and with whatever else it holds that is not empty."""
    content = _content(message.get("content"), bool(message.get("tool_calls")), where, number)
    more = {str(key): value for key, value in message.items() if value is not None and value not in ("", [], {})}
    whole = {**more, "role": message["role"], "content": content}
    _refuse_half_characters(_texts(whole, where), where)
    return whole


def _content(content: Any, calls_tools: bool, where: str, number: int) -> str:
    if isinstance(content, str):
        return content
    if content is None and calls_tools:
        return ""
    if isinstance(content, list) and content and all(isinstance(p, Mapping) for p in content):
        return "".join(_part(part, where, number) for part in content)
    raise UserError(f"{where}: a prompt is a string, a list of chat messages with a text as content, or a list of "
                    f"token ids; the content of message {number} is {_kind(content)}.")


def _part(part: Mapping[str, Any], where: str, number: int) -> str:
    text = part.get("text")
    if part.get("type", "text") != "text" or not isinstance(text, str):
        raise UserError(f"{where}: a part of message {number} is of the type {str(part.get('type'))[:40]!r}; only "
                        'texts can be read ({"type": "text", "text": "..."}).')
    return text


def _kind(value: Any) -> str:
    return {type(None): "missing", dict: "an object", list: "a list that is no list of parts"}.get(
        type(value), f"a {type(value).__name__}")


def _texts(value: Any, where: str, depth: int = 0) -> Iterator[str]:
    """Every text in a nested value, keys included."""
    if depth > _DEEPEST:
        raise UserError(f"{where} is nested more than {_DEEPEST} levels deep; write texts.")
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for part in value.items() if isinstance(value, Mapping) else value:
            yield from _texts(part, where, depth + 1)


def _refuse_half_characters(texts: Iterable[str], where: str) -> None:
    """Refuse halves of surrogate pairs, which JSON can spell and no text can hold."""
    for text in texts:
        half = next((c for c in text if "\ud800" <= c <= "\udfff"), None)
        if half is not None:
            raise UserError(f"{where} holds half of a character (\\u{ord(half):04x}); write the whole one.")


def prompt_hash(source: PromptSource) -> str:
    """SHA-256 of the canonical JSON of a source alone: it names the prompt across files, families and variants."""
    text = json.dumps(source, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


# --- all of them ------------------------------------------------------------------------------------------------------


def _distinct(entries: list[tuple[str, str, PromptSource]], what: str) -> list[tuple[str, PromptSource]]:
    """(id, source) of (where, id, source) entries: some, with no id and no source twice."""
    if not entries:
        raise UserError(f"{what} holds no prompts; add at least one.")
    seen: dict[tuple[str, str], str] = {}
    for where, prompt_id, source in entries:
        for key, twice in [(("prompt", _canonical(source, where)), "the same prompt"),
                           (("id", prompt_id), f"the id {prompt_id!r}")]:
            if key in seen:
                raise UserError(f"{what}: {twice} stands twice, at {seen[key]} and {where}; prompts and ids must be "
                                "distinct, so remove or rename one.")
            seen[key] = where
    return [(prompt_id, source) for _, prompt_id, source in entries]


def _canonical(source: PromptSource, where: str) -> str:
    try:
        return json.dumps(source, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise UserError(f"{where}: the prompt holds what JSON cannot ({error}); write texts, numbers, lists and "
                        "objects.") from None
