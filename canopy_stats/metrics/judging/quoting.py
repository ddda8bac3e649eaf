"""What may be shown of an endpoint's own words: a line of printable text that gives nothing of the API key away."""

from __future__ import annotations

import base64
import codecs
import html
import re
from urllib.parse import unquote

SHOWN = 160
"""Characters of a text that are quoted."""

_PIECE = 6
_RUN = re.compile(r"[A-Za-z0-9+/=_%-]{12,}")
_SEPARATORS = re.compile(r"[^A-Za-z0-9]+")


def last_words(content: bytes, key: str | None) -> str:
    """The beginning of a text on one line, without control characters.

    Nothing is quoted where it repeats a piece of the key: as it is, masked, reversed, spelt with separators, in hex,
    base64, base32, ROT13, percent or HTML encoding. With a key, every long run that mixes letters and digits is left
    out as well, whatever it may be.
    """
    text = " ".join("".join(c if c.isprintable() else " " for c in content.decode(errors="replace")).split())
    if key:
        if _repeats(text, key):
            return ""
        text = _RUN.sub(_hidden, text)
    return text[:SHOWN] + ("..." if len(text) > SHOWN else "")


def _hidden(run: re.Match[str]) -> str:
    return "…" if re.search(r"\d", run[0]) and re.search(r"[A-Za-z]", run[0]) else run[0]


def _repeats(text: str, key: str) -> bool:
    """Whether a piece of the key stands in a text, in one of the forms in which a key is echoed."""
    read = {_plain(form) for form in (text, unquote(text), html.unescape(text))}
    pieces = {piece for form in _forms(key) for piece in _pieces(_plain(form))}
    return any(piece in form for piece in pieces for form in read)


def _forms(key: str) -> list[str]:
    raw = key.encode()
    # The letters of base64 depend on where in a group of three the key begins.
    based = [base64.b64encode(b"\0" * shift + raw).decode()[2 * shift:] for shift in range(3)]
    forms = [key, raw.hex(), base64.b32encode(raw).decode(), codecs.encode(key, "rot13"), *based]
    return forms + [form[::-1] for form in forms]


def _plain(text: str) -> str:
    """Letters and digits alone, in lower case: no separator hides a piece."""
    return _SEPARATORS.sub("", text).lower()


def _pieces(text: str) -> set[str]:
    return {text[i:i + _PIECE] for i in range(max(1, len(text) - _PIECE + 1))} - {""}
