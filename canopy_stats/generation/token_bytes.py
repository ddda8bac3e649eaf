"""What each token id adds to a text, as bytes: a token may hold a part of a character."""

from __future__ import annotations

import re
from typing import Any

_ANCHOR = "abcdef"
"""Decoders strip or add a space at the start of a text: a token is read behind this one."""
_ONE_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def token_bytes(tokenizer: Any, vocabulary: int) -> list[bytes]:
    """The bytes of the ids 0 to ``vocabulary`` - 1, special tokens as they are written; empty where there is no token.

    Three kinds of vocabulary: byte-level BPE writes each byte as a character, SentencePiece's byte fallback writes
    ``<0x0A>``, and all others hold text.
    """
    names: list[str | None] = [None] * vocabulary
    for name, token in tokenizer.get_vocab().items():
        if token < vocabulary:
            names[token] = name
    decoder = repr(getattr(getattr(tokenizer, "backend_tokenizer", None), "decoder", None))
    alphabet = _byte_alphabet() if "ByteLevel" in decoder and "ByteFallback" not in decoder else None
    anchor = list(tokenizer(_ANCHOR, add_special_tokens=False)["input_ids"])
    before = _text(tokenizer, anchor)
    found = []
    for token, name in enumerate(names):
        if name is None:
            found.append(b"")
        elif alphabet is not None and all(c in alphabet for c in name):
            found.append(bytes(alphabet[c] for c in name))
        elif "ByteFallback" in decoder and (byte := _ONE_BYTE.fullmatch(name)):
            found.append(bytes([int(byte[1], 16)]))
        else:
            found.append(_text(tokenizer, [*anchor, token])[len(before):].encode(errors="replace"))
    return found


def _text(tokenizer: Any, ids: list[int]) -> str:
    text: str = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return text


def _byte_alphabet() -> dict[str, int]:
    """The characters in which byte-level BPE writes the 256 bytes: printable Latin-1 stands for itself, the other bytes
    for the characters from U+0100 on (Radford et al. 2019)."""
    shown = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {**{chr(byte): byte for byte in shown}, **{chr(256 + i): byte for i, byte in enumerate(hidden)}}
