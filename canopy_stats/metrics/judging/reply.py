"""What an endpoint's reply to one question means: a verdict, a reason to ask again, or a failure."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

from canopy_stats.metrics.judging import judge_prompt
from canopy_stats.metrics.judging.rate_limit import retry_after

if TYPE_CHECKING:
    import httpx2

LARGEST_REPLY = 1_000_000
"""Bytes of a reply after which it cannot be a verdict."""

_SHOWN = 160
_KEY_PIECE = 6
_TRY_AGAIN = {408, 409, 425, 429}
_HOPELESS = {401, 402, 403, 404, 405, 407, 410}
_CUT_SHORT = {"length": "cut short by max_tokens", "content_filter": "withheld by a filter"}


class Transient(Exception):
    """The request failed and may do better later; ``wait`` is what the endpoint asked for, in seconds."""

    def __init__(self, kind: str, wait: float | None = None) -> None:
        super().__init__(kind)
        self.kind, self.wait = kind, wait


class NoVerdict(Exception):
    """The endpoint answered, and the answer is no verdict; asking the same again would hardly change it."""

    def __init__(self, kind: str, words: str = "") -> None:
        super().__init__(kind)
        self.kind, self.words = kind, words


class Refused(Exception):
    """The endpoint will refuse every request alike."""


def read_reply(response: httpx2.Response, deadline: float, key: str | None) -> bool:
    """The verdict in a streamed reply; one of this module's exceptions where there is none.

    ``deadline`` is a time of ``time.monotonic``; ``key`` the API key, of which no message may hold a piece.
    """
    status = response.status_code
    if status in _TRY_AGAIN or status >= 500:
        raise Transient(f"HTTP {status}", retry_after(response.headers.get("Retry-After")))
    if 300 <= status < 400:
        raise Refused(f"HTTP {status}, a redirect, which would carry the key elsewhere; give the final base_url")
    content = _read_until(response, deadline)
    if status in _HOPELESS:
        raise Refused(f"HTTP {status}{_quoted(last_words(content, key))}; {_advice(status)}")
    if status != 200:
        raise NoVerdict(f"HTTP {status}", last_words(content, key))
    return _verdict(content, key)


def _advice(status: int) -> str:
    if status in (401, 403, 407):
        return "check the API key and the variable that api_key_env names"
    if status == 402:
        return "the account wants paying"
    return "check the model's name and base_url, to which /chat/completions is added"


def _quoted(words: str) -> str:
    return f' ("{words}")' if words else ""


def last_words(content: bytes, key: str | None) -> str:
    """The beginning of an error's text on one line; nothing where it repeats a piece of the key, masked or not."""
    text = " ".join(content.decode(errors="replace").split())
    pieces = {key[i:i + _KEY_PIECE] for i in range(max(1, len(key) - _KEY_PIECE + 1))} if key else set()
    if any(piece in text for piece in pieces):
        return ""
    return text[:_SHOWN] + ("..." if len(text) > _SHOWN else "")


def _read_until(response: httpx2.Response, deadline: float) -> bytes:
    """The reply's bytes, if they are all there in time: a slow trickle would never run into a read timeout."""
    content = b""
    for part in response.iter_bytes():
        content += part
        if time.monotonic() > deadline:
            raise Transient("timed out")
        if len(content) > LARGEST_REPLY:
            raise NoVerdict("malformed reply")
    return content


def _verdict(content: bytes, key: str | None) -> bool:
    """The verdict in a chat completion; broken JSON may be a hiccup on the way, all else is final."""
    try:
        reply = json.loads(content)
    except ValueError:
        raise Transient("malformed reply") from None
    try:
        choice = reply["choices"][0]
        reason, text = choice.get("finish_reason"), choice["message"]["content"]
    except (KeyError, IndexError, TypeError, AttributeError):
        raise NoVerdict("malformed reply", last_words(content, key)) from None
    if isinstance(reason, str) and reason in _CUT_SHORT:
        raise NoVerdict(_CUT_SHORT[reason])
    same = judge_prompt.read_verdict(text) if isinstance(text, str) else None
    if same is None:
        raise NoVerdict("not a verdict", last_words(str(text).encode(), key))
    return same
