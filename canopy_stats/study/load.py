"""The study file: YAML to a :class:`Study`, with every mistake named by its key, in words."""

from __future__ import annotations

import difflib
import os
import typing
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from canopy_stats import files
from canopy_stats.schema import UserError
from canopy_stats.study.spec import Law, Study

SHOWN = 5
LARGEST = 1 << 20
"""Bytes of a study file, and how many values it may hold once its aliases are written out."""
MOST_VALUES = 100_000


@dataclass(frozen=True, slots=True)
class StudyFile:
    """A study as its file has it, with the folder that the file names for the results (None: it names none)."""

    path: Path
    study: Study

    def folder(self, out: str | Path | None = None) -> Path:
        """Where results go: ``out``, else what the file says, else runs/<name of the file> here."""
        own = (Path("runs") / self.path.stem if self.study.out is None
               else self.path.resolve().parent / files.place(self.study.out))
        found = own if out is None else files.place(out)
        if os.path.isfile(found):
            raise UserError(f"{found} is a file; a study needs a folder. Choose another --out.")
        return found


def read_study(path: str | Path) -> StudyFile:
    """Read and validate a study file. UserError names the key, what was found, and what is allowed."""
    path = files.place(path)
    values = _loaded(path)
    try:
        study = Study.model_validate(values, context={"folder": path.resolve().parent})
    except ValidationError as error:
        raise UserError(f"{path}: {explained(error, Study)}") from None
    return StudyFile(path, study)


def _loaded(path: Path) -> Mapping[str, Any]:
    """The file's YAML as plain values."""
    import yaml

    try:
        text = files.read_text(path, "study file", LARGEST)
    except UserError as error:
        hint = " analysis/studies has examples." if not path.exists() else ""
        raise UserError(f"{error}{hint}") from None
    try:
        values = yaml.load(text, Loader=_strict_loader())
    except RecursionError:
        raise UserError(f"{path} is nested too deeply for a study file.") from None
    except (yaml.YAMLError, ValueError) as error:  # a number or date that Python cannot hold is a ValueError
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}. Mend that place.") from None
    if not isinstance(values, Mapping):
        raise UserError(f"{path} holds {type(values).__name__ if values is not None else 'nothing'}; a study file is a "
                        "mapping of keys such as 'title:', 'families:' and 'tasks:'.")
    _refuse_strange(values, path)
    return values


def _refuse_strange(values: Mapping[Any, Any], path: Path) -> None:
    """Refuse keys that are no text, and aliases that would be more than a file of this size holds."""
    waiting, seen = [values], 0
    while waiting:
        one: Any = waiting.pop()
        seen += 1
        if seen > MOST_VALUES:
            raise UserError(f"{path} holds more than {MOST_VALUES:,} values once its aliases (*name) are written out; "
                            "a study file has a few dozen.")
        if isinstance(one, Mapping):
            if wrong := [key for key in one if not isinstance(key, str)]:
                raise UserError(f"{path} has the key {wrong[0]!r}, which is no text; put it in quotation marks.")
            waiting.extend(one.values())
        elif isinstance(one, list):
            waiting.extend(one)


def _strict_loader() -> Any:
    """YAML's safe loader, which also refuses a key that stands twice: the first value would be lost in silence."""
    import yaml

    class Loader(yaml.SafeLoader):
        pass

    def mapping(loader: Any, node: Any) -> dict[Any, Any]:
        texts = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if twice := [k for k, n in Counter(texts).items() if n > 1]:
            raise yaml.constructor.ConstructorError(None, None, f"the key {twice[0]!r} stands twice", node.start_mark)
        made: dict[Any, Any] = loader.construct_mapping(node, deep=True)
        return made

    Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, mapping)
    return Loader


# --- mistakes in words ------------------------------------------------------------------------------------------

_WANTED = {
    "int_type": "a whole number", "int_from_float": "a whole number", "float_type": "a number",
    "string_type": "a text", "bool_type": "true or false", "list_type": "a list", "dict_type": "a mapping of keys",
    "tuple_type": "a list", "model_type": "a mapping of keys", "model_attributes_type": "a mapping of keys",
    "finite_number": "a finite number",
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
    """The words of a check of ours; those of the law or a judge begin with the key that is wrong."""
    words = str(one["ctx"]["error"]).rstrip(".")
    first = words.split(" ", 1)[0]
    return f"has a wrong value: {words}" if first in Law.model_fields or one["loc"][-1:] == ("judge",) and (
        not words.startswith("of kind")) else words


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
    return f"{key_path(place)[:200]} is not a known key; {hint}"


def _at(keys: type[BaseModel], place: Sequence[str | int]) -> type[BaseModel]:
    """The class that describes the mapping at a place of the file."""
    for step in place:
        if isinstance(step, str) and step in keys.model_fields:
            keys = next(_classes(keys.model_fields[step].annotation), keys)
    return keys


def _classes(annotation: Any) -> Iterator[type[BaseModel]]:
    """The records inside an annotation such as ``list[ModelFamily]``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in typing.get_args(annotation):
        yield from _classes(part)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:40]}..."
