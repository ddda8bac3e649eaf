"""What is said to whoever uses the package: mistakes, cautions, and text that a terminal may show."""

from __future__ import annotations

import re


class UserError(ValueError):
    """Input that cannot be used. The message is one or two lines: what is wrong, and what to do next."""


class Caution(UserWarning):
    """Something that is no mistake and that whoever asked should know: given as a warning, in one line."""


def require(holds: bool, name: str, value: object, wanted: str) -> None:
    """UserError that names the value, unless it ``holds``."""
    if not holds:
        raise UserError(f"{name} is {value!r}; it must be {wanted}.")


def printable(text: str) -> str:
    """Text that may go to a terminal: control characters and escapes are written out, as ``\\x1b``; line breaks and
    tabs stay."""
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


_CONTROLS = re.compile("[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\u200e\\u200f\\u202a-\\u202e\\u2066-\\u2069\\ud800-\\udfff]")
