"""Walks over a formula's text that leave quoted names and strings alone, and R's spellings in the parser's."""

from __future__ import annotations

import re
from collections.abc import Iterator

from canopy_stats.schema import UserError

QUOTES = "`'\""
OPENING, CLOSING = "([{", ")]}"
_NAME = re.compile(r"[A-Za-z_.][\w.]*$")
_ALIASES = {"as.factor": "factor"}
_INSTEAD = {
    "%%": "np.mod(x, 2)", "%/%": "np.floor_divide(x, 2)", "<-": "a column made before the call",
    "ifelse(": "np.where(x > 0, 1, 0)", "relevel(": "reference={'column': 'level'}", "interaction(": "a:b",
    "as.numeric(": "a column made by pandas.to_numeric", "cut(": "a column made by pandas.cut",
    "ordered(": "an ordered pandas.Categorical", "%*%": "a column made before the call",
    "$": "the column's name alone",
}


def unquoted(text: str) -> Iterator[tuple[int, str, int]]:
    """Place, letter and depth of brackets of each letter outside quotes; a closing bracket has its outer depth.

    Raises UserError where brackets or quotes do not match.
    """
    quote, depth = "", 0
    for place, letter in enumerate(text):
        if quote or letter in QUOTES:
            quote = "" if letter == quote else quote or letter
            continue
        depth += (letter in OPENING) - (letter in CLOSING)
        if depth < 0:
            break
        yield place, letter, depth
    if quote or depth:
        raise UserError(f"The {'quotes' if quote else 'brackets'} in {text.strip()!r} do not match.")


def split_at(text: str, separators: str) -> list[str]:
    """Parts of ``text`` between separators outside brackets and quotes, stripped."""
    cuts = [-1, *(place for place, letter, depth in unquoted(text) if depth == 0 and letter in separators), len(text)]
    return [text[a + 1 : b].strip() for a, b in zip(cuts[:-1], cuts[1:], strict=True)]


def call(text: str, name: str) -> str | None:
    """The arguments of ``name(...)`` where the whole text is that one call, otherwise None."""
    if not re.match(rf"{re.escape(name)}\s*\(", text) or not text.endswith(")"):
        return None
    start = text.index("(")
    ends = [place for place, letter, depth in unquoted(text) if letter == ")" and depth == 0]
    return text[start + 1 : -1].strip() if ends[0] == len(text) - 1 else None


def dots(text: str) -> list[int]:
    """Places of each ``.`` that stands for columns: outside quotes, and no part of a name or a number."""
    alone = {found.start() for found in re.finditer(r"(?<![\w.)`])\.(?![\w.(`])", text)}
    return [place for place, _, _ in unquoted(text) if place in alone]


def with_dots(text: str, columns: str) -> str:
    """The text with ``columns`` in the place of each such dot."""
    cuts = [-1, *dots(text), len(text)]
    return columns.join(text[a + 1 : b] for a, b in zip(cuts[:-1], cuts[1:], strict=True))


def translate(text: str) -> str:
    """R's spellings: ``^`` is a power inside a function's brackets, ``as.factor`` is ``factor``, ``%in%`` is ``:``.

    What has no counterpart is a UserError.
    """
    text = _within(text)
    _refuse_other_spellings(text)
    out: list[str] = []
    start = 0
    for place, letter, inner in in_calls(text):
        if letter == "^" and inner:
            out, start = [*out, text[start:place], "**"], place + 1
    return _with_aliases("".join([*out, text[start:]]))


def in_calls(text: str) -> Iterator[tuple[int, str, bool]]:
    """Place and letter outside quotes, and whether it stands inside a function's brackets."""
    inside: list[bool] = []
    for place, letter, _ in unquoted(text):
        if letter in OPENING:
            inside.append(letter != "(" or bool(_called(text[:place])) or any(inside))
        elif letter in CLOSING:
            inside.pop()
        yield place, letter, any(inside)


def _within(text: str) -> str:
    """R's ``a %in% b``, which is the interaction a:b."""
    starts = [place for place, letter, _ in unquoted(text) if text.startswith("%in%", place)]
    for place in reversed(starts):
        text = f"{text[:place].rstrip()}:{text[place + 4 :].lstrip()}"
    return text


def _called(before: str) -> str | None:
    found = _NAME.search(before.rstrip())
    return found.group() if found else None


def _with_aliases(text: str) -> str:
    for name, ours in _ALIASES.items():
        text = re.sub(rf"(?<![\w.`]){re.escape(name)}\s*\(", f"{ours}(", text)
    return text


def _refuse_other_spellings(text: str) -> None:
    plain = "".join(letter for _, letter, _ in unquoted(text))
    for word, instead in _INSTEAD.items():
        at_name = r"(?<![\w.])" if word[0].isalpha() else ""
        if re.search(at_name + re.escape(word), plain):
            raise UserError(f"The formula has R's {word.rstrip('(')!r} in {text.strip()!r}; write {instead} instead.")
