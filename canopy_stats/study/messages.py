"""What is wrong in a study file, in words: the key's path, what was found, and what is allowed."""

from __future__ import annotations

import difflib
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from canopy_stats.study.keys import LawKeys

SHOWN = 5

_WANTED = {
    "int_type": "a whole number", "int_from_float": "a whole number", "float_type": "a number",
    "string_type": "a text", "bool_type": "true or false", "list_type": "a list", "dict_type": "a mapping of keys",
    "model_type": "a mapping of keys", "model_attributes_type": "a mapping of keys",
    "string_pattern_mismatch": "a name without slashes",
}
_BOUNDED: Mapping[str, str] = {
    "greater_than_equal": "at least {ge}", "greater_than": "above {gt}", "less_than_equal": "at most {le}",
    "less_than": "below {lt}", "literal_error": "one of {expected}",
}


def explained(error: ValidationError, keys: type[BaseModel]) -> str:
    """Every mistake of a validation, one a line; unknown keys come first, as they explain missing ones."""
    found = sorted(error.errors(include_url=False), key=lambda one: one["type"] != "extra_forbidden")
    lines = [_line(one, keys) for one in found[:SHOWN]]
    more = [f"{len(found) - SHOWN} more mistakes are not shown."] if len(found) > SHOWN else []
    return "\n".join([*lines, *more])


def _line(one: Mapping[str, Any], keys: type[BaseModel]) -> str:
    where, kind = key_path(one["loc"]), one["type"]
    if kind == "extra_forbidden":
        return _unknown(one["loc"], keys)
    if kind == "missing":
        return f"{where} is missing."
    if kind == "value_error":
        return f"{where} {_own_words(one)}." if where else f"{_own_words(one)}."
    if kind in ("too_short", "dict_too_short"):
        return f"{where} is empty; it needs at least one entry."
    return f"{where} is {_short(one['input'])}; it must be {_wanted(kind, one)}."


def _own_words(one: Mapping[str, Any]) -> str:
    """The words of a check of ours; those of the law begin with the key that is wrong."""
    words = str(one["ctx"]["error"]).rstrip(".")
    return f"has a wrong value: {words}" if words.split(" ", 1)[0] in LawKeys.model_fields else words


def _wanted(kind: str, one: Mapping[str, Any]) -> str:
    if kind in _BOUNDED:
        return _BOUNDED[kind].format(**one["ctx"])
    return _WANTED.get(kind, str(one["msg"]))


def key_path(place: Sequence[str | int]) -> str:
    """A place in the file as it is written: ``families[1].tuned.model``."""
    path = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in place if step != "[key]")
    return path.removeprefix(".")


def _unknown(place: Sequence[str | int], keys: type[BaseModel]) -> str:
    """An unknown key, with the known one that looks most like it."""
    known, name = list(_at(keys, place[:-1]).model_fields), str(place[-1])
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"the keys there are {', '.join(known)}."
    return f"{key_path(place)} is not a known key; {hint}"


def _at(keys: type[BaseModel], place: Sequence[str | int]) -> type[BaseModel]:
    """The class that describes the mapping at a place of the file."""
    for step in place:
        if isinstance(step, str) and step in keys.model_fields:
            keys = next(_classes(keys.model_fields[step].annotation), keys)
    return keys


def _classes(annotation: Any) -> Iterator[type[BaseModel]]:
    """The classes of keys inside an annotation such as ``list[FamilyKeys]``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in typing.get_args(annotation):
        yield from _classes(part)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:40]}..."


