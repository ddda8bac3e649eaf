"""How results look when they are printed, and in a notebook."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd


class Shown:
    """A result with a title, sentences and tables: ``print`` gives them as text, a notebook as HTML.

    A class says what it shows by :meth:`_shown`: a text is a paragraph, a frame a table.
    """

    __slots__ = ()

    def _shown(self) -> tuple[str, Iterable[Any]]:
        """The title, and what stands below it."""
        raise NotImplementedError

    def __str__(self) -> str:
        title, parts = self._shown()
        return "\n".join([title, *(text for part in parts if (text := _text(part)))])

    def _repr_html_(self) -> str:
        title, parts = self._shown()
        return "\n".join([f"<h4>{escape(title)}</h4>", *(_html(part) for part in parts if _text(part))])


def table_html(table: pd.DataFrame, *, index: bool = False) -> str:
    """A table of results with four significant digits; whatever stands in it is escaped."""
    return str(table.to_html(index=index, border=0, na_rep="", float_format=_digits, escape=True))


def _digits(value: float) -> str:
    return f"{value:.4g}"


def _text(part: Any) -> str:
    if isinstance(part, str):
        return part
    return str(part.to_string(index=False, na_rep="", float_format=_digits)) if len(part) else ""


def _html(part: Any) -> str:
    return f"<p>{escape(part)}</p>" if isinstance(part, str) else table_html(part)
