"""lme4 formulas as text: response, fixed part, offsets and random terms, without data."""

from __future__ import annotations

import re
from dataclasses import dataclass

from canopy_stats.mixed.formulas.scan import call, dots, in_calls, split_at, translate, unquoted
from canopy_stats.schema import UserError


@dataclass(frozen=True, slots=True)
class RandomTerm:
    """``(columns | a:b)``: formula of the columns, grouping variables, and whether their effects are correlated."""

    columns: str
    groups: tuple[str, ...]
    correlated: bool = True


@dataclass(frozen=True, slots=True)
class Parsed:
    """Response, fixed part (right-hand side only), random terms and offsets (expressions) of a formula.

    ``response`` is one expression, or two for ``cbind(successes, failures)``.
    """

    response: tuple[str, ...]
    fixed: str
    random: tuple[RandomTerm, ...]
    offsets: tuple[str, ...] = ()


def parse(formula: str) -> Parsed:
    """Split ``y ~ fixed + offset(z) + (columns | groups) + ...`` (lme4's syntax) into its parts.

    ``^`` has R's meaning: a power inside a function's brackets, an interaction of that order elsewhere.
    """
    left, right = _sides(formula)
    terms = split_terms(translate(right))
    plain = [(sign, text) for sign, text in terms if not _is_random(text) and call(text, "offset") is None]
    fixed = join_terms(plain) or "1"
    random = tuple(part for sign, text in terms if _is_random(text) for part in _random_terms(sign, text))
    offsets = tuple(_offset(sign, text) for sign, text in terms if call(text, "offset") is not None)
    _refuse_inner_offsets([fixed, *(term.columns for term in random)])
    _refuse_inner_dots(fixed, [term.columns for term in random])
    return Parsed(_responses(translate(left)), fixed, random, offsets)


def parse_right(text: str, what: str) -> str:
    """The right-hand side of a formula with fixed terms only, from '~ x' or 'x'; ``what`` names it in messages."""
    right = translate(text.strip().removeprefix("~").strip())
    if not right:
        raise UserError(f"The {what} {text!r} is empty; write '~ 1' for a constant.")
    terms = split_terms(right)
    if any("|" in split_outside(term) for _, term in terms):
        raise UserError(f"The {what} {text!r} has a random term; only fixed terms are possible there.")
    if dots(right):
        raise UserError(f"The {what} {text!r} has '.'; name its columns instead.")
    _refuse_inner_offsets([right])
    return right


def _sides(formula: str) -> tuple[str, str]:
    if not isinstance(formula, str):
        raise UserError(f"The formula is a {type(formula).__name__}, not text; write it as 'y ~ x + (1|group)'.")
    sides = split_at(formula, "~")
    if len(sides) != 2 or not all(sides):
        raise UserError(f"The formula {formula!r} needs a response and a right-hand side, as in 'y ~ x + (1|group)'.")
    return sides[0], sides[1]


def split_terms(text: str) -> list[tuple[str, str]]:
    """Top-level terms of a right-hand side as (sign, term)."""
    terms, sign, start = [], "+", 0
    for position, letter, depth in unquoted(text):
        if depth == 0 and letter in "+-":
            if text[start:position].strip():
                terms.append((sign, text[start:position].strip()))
            sign, start = letter, position + 1
    return [*terms, (sign, text[start:].strip())] if text[start:].strip() else terms


def join_terms(terms: list[tuple[str, str]]) -> str:
    """A right-hand side from (sign, term)."""
    return " ".join(f"{sign} {text}" for sign, text in terms).removeprefix("+ ")


def split_outside(text: str) -> str:
    """The letters of ``text`` outside quotes."""
    return "".join(letter for _, letter, _ in unquoted(text))


def _responses(text: str) -> tuple[str, ...]:
    """The response as one expression, or successes and failures."""
    inner = call(text, "cbind")
    if inner is None:
        return (text,)
    parts = split_at(inner, ",")
    if len(parts) != 2 or not all(parts):
        raise UserError(f"The response {text!r} needs two columns, as in 'cbind(successes, failures)'.")
    return parts[0], parts[1]


def _offset(sign: str, text: str) -> str:
    inner = call(text, "offset")
    if sign == "-" or not inner:
        raise UserError(f"Cannot read '{sign} {text}'; write an offset as '+ offset(log(n))', or '+ offset(-x)'.")
    return inner


def _refuse_inner_offsets(texts: list[str]) -> None:
    for text in texts:
        if re.search(r"(?<![\w.])offset\s*\(", split_outside(text)):
            raise UserError(f"Cannot read offset() in {text!r}; it stands alone in the formula of the mean, as in"
                            " 'y ~ x + offset(log(n)) + (1|group)'.")


def _refuse_inner_dots(fixed: str, random: list[str]) -> None:
    """Refuse ``.`` where it is no term: inside a function's brackets, and in a random term."""
    places = dots(fixed)
    if any(inner and place in places for place, _, inner in in_calls(fixed)) or any(dots(text) for text in random):
        raise UserError("'.' stands for all other columns as terms of the mean; name the columns inside a function or a"
                        " random term.")


def _is_random(text: str) -> bool:
    """True for a bracketed term with a bar outside inner brackets; a bar anywhere else is an error."""
    if "|" not in split_outside(text):
        return False
    if not (text.startswith("(") and text.endswith(")")):
        raise UserError(f"Cannot read {text!r}: a random term stands alone in brackets, as in '+ (1 + x | group)'.")
    return True


def _random_terms(sign: str, text: str) -> list[RandomTerm]:
    parts = split_at(text[1:-1], "|")
    correlated = len(parts) == 2
    readable = correlated or (len(parts) == 3 and not parts[1] and "||" in text)
    if sign == "-" or not readable or not parts[0]:
        raise UserError(f"Cannot read the random term {sign} {text!r}; write it as '+ (1 + x | group)'.")
    return [RandomTerm(parts[0], group, correlated) for group in _nested(parts[-1], text)]


def _nested(groups: str, text: str) -> list[tuple[str, ...]]:
    """``a/b`` is a and a:b; ``a:b`` is one factor of both."""
    parts = [tuple(_grouping(name, text) for name in split_at(_bare(level), ":")) for level in split_at(groups, "/")]
    return [tuple(dict.fromkeys(sum(parts[: i + 1], ()))) for i in range(len(parts))]


def _bare(text: str) -> str:
    """``text`` without brackets around the whole of it."""
    while text.startswith("(") and call("f" + text, "f") is not None:
        text = text[1:-1].strip()
    return text


def _grouping(text: str, term: str) -> str:
    """Name of one grouping variable: plain, in backticks or in ``factor()``, whose levels any grouping has anyway."""
    name = _bare(text)
    inner = call(name, "factor")
    name = name if inner is None else inner
    if not name:
        raise UserError(f"The random term {term!r} names no grouping variable; write it as '(1 | group)'.")
    if name.startswith("`") and name.endswith("`"):
        return name.strip("`")
    if not re.fullmatch(r"[^\W\d][\w.]*", name):
        raise UserError(f"Cannot group by {name!r} in {term!r}; name columns, joined by ':' or '/', as in (1 | a:b).")
    return name
