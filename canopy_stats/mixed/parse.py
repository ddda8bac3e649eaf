"""lme4 formulas as text: the fixed part and the random terms, without data."""

from __future__ import annotations

from dataclasses import dataclass

from canopy_stats.schema import UserError


@dataclass(frozen=True, slots=True)
class RandomTerm:
    """``(columns | a:b)``: formula of the columns, grouping variables, and whether their effects are correlated."""

    columns: str
    groups: tuple[str, ...]
    correlated: bool = True


@dataclass(frozen=True, slots=True)
class Parsed:
    """Response, fixed part (right-hand side only) and random terms of a formula."""

    response: str
    fixed: str
    random: tuple[RandomTerm, ...]


def parse(formula: str) -> Parsed:
    """Split ``y ~ fixed + (columns | groups) + ...`` (lme4's syntax) into its parts."""
    left, tilde, right = formula.partition("~")
    if not tilde or not left.strip() or not right.strip():
        raise UserError(f"The formula {formula!r} needs a response and a right-hand side, as in 'y ~ x + (1|group)'.")
    terms = split_terms(right)
    fixed = " ".join(sign + " " + text for sign, text in terms if not _is_random(text)) or "1"
    random = tuple(part for sign, text in terms if _is_random(text) for part in _random_terms(sign, text))
    return Parsed(left.strip(), fixed.removeprefix("+ "), random)


def split_terms(text: str) -> list[tuple[str, str]]:
    """Top-level terms of a right-hand side as (sign, term)."""
    terms, sign, start, depth = [], "+", 0, 0
    for position, letter in enumerate(text):
        depth += (letter in "([{") - (letter in ")]}")
        if depth == 0 and letter in "+-" and text[start:position].strip():
            terms.append((sign, text[start:position].strip()))
        if depth == 0 and letter in "+-":
            sign, start = letter, position + 1
    if depth:
        raise UserError(f"The brackets in {text.strip()!r} do not match.")
    return [*terms, (sign, text[start:].strip())] if text[start:].strip() else terms


def _is_random(text: str) -> bool:
    """True for a bracketed term with a bar outside inner brackets; a bar anywhere else is an error."""
    if "|" not in text:
        return False
    if not (text.startswith("(") and text.endswith(")")):
        raise UserError(f"Cannot read {text!r}: a random term stands alone in brackets, as in '+ (1 + x | group)'.")
    return True


def _random_terms(sign: str, text: str) -> list[RandomTerm]:
    columns, bar, groups = text[1:-1].partition("|")
    if sign == "-" or "|" in groups.removeprefix("|") or not columns.strip():
        raise UserError(f"Cannot read the random term {sign} {text!r}; write it as '+ (1 + x | group)'.")
    names = _nested(groups.removeprefix("|").strip(), text)
    return [RandomTerm(columns.strip(), group, not groups.startswith("|")) for group in names]


def _nested(groups: str, text: str) -> list[tuple[str, ...]]:
    """``a/b`` is a and a:b; ``a:b`` is one factor of both."""
    parts = [tuple(name.strip(" ()`") for name in level.split(":")) for level in groups.split("/")]
    if not all(name for level in parts for name in level):
        raise UserError(f"The random term {text!r} names no grouping variable; write it as '(1 | group)'.")
    return [sum(parts[: i + 1], ()) for i in range(len(parts))]
