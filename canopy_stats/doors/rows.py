"""A row of a log, as a mapping with forgiving names, to its completions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from numbers import Integral
from typing import Any

import numpy as np

from canopy_stats.doors.arguments import check_mapping
from canopy_stats.doors.logprobs import likeliest, plain
from canopy_stats.doors.records import FIELDS, PER_COMPLETION, Logged
from canopy_stats.schema import UserError, printable

Fields = Mapping[str, str]


def check_fields(fields: Fields) -> None:
    """UserError for a field that there is none of."""
    check_mapping(fields)
    if unknown := sorted(set(fields) - set(FIELDS)):
        raise UserError(f"There is no field {unknown[0]!r} to give a name for; there are {', '.join(FIELDS)}.")


def completions(row: Mapping[str, Any], where: str, fields: Fields) -> Iterator[Logged]:
    """The completions of one row: one (``completion`` or ``token_ids``) or several (``completions``)."""
    prompt = _found(row, "prompt", fields)
    ids = _plain(_found(row, "prompt_token_ids", fields))
    if prompt is None and ids is None:
        raise UserError(f"{where} has no prompt: looked for {', '.join(_names('prompt', fields))}, and found "
                        f"{_listed(row)}. Name its field with fields={{'prompt': NAME}} (--map prompt=NAME).")
    shared = {"prompt": _plain(prompt) if prompt is not None else ids, "prompt_token_ids": ids,
              "prompt_id": _name(_found(row, "prompt_id", fields), where)}
    if ids is not None and not (isinstance(ids, list) and all(map(_is_whole, ids))):
        raise UserError(f"{where}: prompt_token_ids must be a list of whole numbers from 0 on.")
    many = _plain(_found(row, "completions", fields))
    if many is None or isinstance(many, str):
        yield _one(row, where, fields, shared, many)
    elif isinstance(many, list):
        yield from _several(many, row, where, fields, shared)
    else:
        raise UserError(f"{where}: completions are {_kind(many)}; give a list of them.")


def _several(many: list[Any], row: Mapping[str, Any], where: str, fields: Fields,
             shared: Mapping[str, Any]) -> Iterator[Logged]:
    if not many:
        raise UserError(f"{where} has an empty list of completions; remove the row.")
    beside = {name: _plain(_found(row, name, fields)) for name in PER_COMPLETION}
    for name, values in beside.items():
        if values is not None and not (isinstance(values, list) and len(values) == len(many)):
            count = f"{len(values)} entries" if isinstance(values, list) else "one value"
            raise UserError(f"{where}: {name} has {count} for {len(many)} completions; give one for each completion.")
    for i, item in enumerate(many):
        own = {name: values[i] for name, values in beside.items() if values is not None}
        yield _one(own | _as_row(item), f"{where}, completion {i}", fields, shared, None)


def _as_row(item: Any) -> dict[str, Any]:
    """A completion that is a text, a list of token ids, or a mapping of its own."""
    if isinstance(item, Mapping):
        return dict(item)
    return {"completion": item} if isinstance(item, str) else {"token_ids": item}


def _one(row: Mapping[str, Any], where: str, fields: Fields, shared: Mapping[str, Any], text: str | None) -> Logged:
    text = text if text is not None else _found(row, "completion", fields)
    ids = _plain(_found(row, "token_ids", fields))
    if isinstance(text, Sequence | np.ndarray) and not isinstance(text, str):
        text, ids = None, _plain(text)
    _refuse_kinds(text, ids, where)
    if text is None and ids is None:
        raise UserError(f"{where} has no completion: looked for {', '.join(_names('completion', fields))} and "
                        f"{', '.join(_names('token_ids', fields))}, and found {_listed(row)}. Name its field with "
                        "fields={'completion': NAME} (--map completion=NAME).")
    drawn, tops = plain(_plain(_found(row, "logprobs", fields)), where)
    given = _plain(_found(row, "top_logprobs", fields))
    if given is not None and not isinstance(given, list):
        raise UserError(f"{where}: top_logprobs are {_kind(given)}; give a list for each token.")
    tops = [likeliest(t, where) for t in given] if given is not None else tops
    reason = _found(row, "finish_reason", fields)
    return Logged(where, **shared, text=text, token_ids=ids, logprobs=drawn, top_logprobs=tops,
                  finish_reason=None if reason is None else str(reason),
                  entropy=_plain(_found(row, "entropy", fields)))


def _refuse_kinds(text: Any, ids: Any, where: str) -> None:
    if text is not None and not isinstance(text, str):
        raise UserError(f"{where}: the completion is {_kind(text)}; give a text, or its token ids as a list.")
    if text is not None and not whole_text(text):
        raise UserError(f"{where}: the completion holds half a character (a lone surrogate); write the log as UTF-8.")
    if ids is not None and not isinstance(ids, list):
        raise UserError(f"{where}: token_ids are {_kind(ids)}; give a list of whole numbers.")


def text_of(content: Any, where: str) -> str | None:
    """A message's text: itself, or what its parts say; None where it says nothing."""
    if content is None or isinstance(content, str):
        return content
    if not isinstance(content, list) or not all(isinstance(part, Mapping) for part in content):
        raise UserError(f"{where}: the content of a message is {_kind(content)}; give a text, or a list of parts.")
    texts = [part.get("text") for part in content if part.get("type", "text") in ("text", "output_text")]
    return "".join(str(text or "") for text in texts) if texts else None


def whole_text(text: str) -> bool:
    """Whether a text can be written as UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31


def _kind(value: Any) -> str:
    return "an object" if isinstance(value, Mapping) else f"a {type(value).__name__}"


def _names(field: str, fields: Fields) -> Sequence[str]:
    """Where a field is looked for: under the user's name first. A row's own lists are handed down under ours."""
    return (fields[field], *FIELDS[field]) if field in fields else FIELDS[field]


def _found(row: Mapping[str, Any], field: str, fields: Fields) -> Any:
    """The first of the field's names that the row has; a name may go into nested objects, as ``meta.prompt``."""
    for name in _names(field, fields):
        value: Any = row.get(name)
        if value is None and "." in name:
            value = _inside(row, name.split("."))
        if value is not None and not (isinstance(value, float) and np.isnan(value)):
            return value
    return None


def _inside(value: Any, path: Sequence[str]) -> Any:
    for part in path:
        if isinstance(value, Mapping):
            value = value.get(part)
        elif isinstance(value, Sequence) and not isinstance(value, str) and part.isdigit() and int(part) < len(value):
            value = value[int(part)]
        else:
            return None
    return value


def _plain(value: Any) -> Any:
    """Arrays of other libraries as lists, also inside lists."""
    value = value.tolist() if hasattr(value, "tolist") else list(value) if isinstance(value, tuple) else value
    nested = isinstance(value, list) and any(hasattr(v, "tolist") for v in value)
    return [_plain(v) for v in value] if nested else value


def _name(value: Any, where: str) -> str | None:
    """A prompt's name: a text or a whole number, as in prompt files."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, str | Integral):
        raise UserError(f"{where}: the prompt's id is {_kind(value)}; give a text or a whole number.")
    name = str(value)
    if not name.strip() or not name.isprintable() or not whole_text(name):
        raise UserError(f"{where}: the prompt's id {printable(name[:40])!r} is no name; give a printable text.")
    return name


def _listed(row: Mapping[str, Any]) -> str:
    names = [str(name)[:40] for name in row][:12]
    return ", ".join(names) if names else "nothing"
