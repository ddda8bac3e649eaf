"""What an endpoint's reply to one question means: a verdict, a reason to ask again, or a failure."""

from __future__ import annotations

import json
from dataclasses import dataclass

from canopy_stats.metrics.judging import judge_prompt
from canopy_stats.metrics.judging.quoting import last_words
from canopy_stats.metrics.judging.rate_limit import retry_after

LARGEST_REPLY = 1_000_000
"""Bytes of a reply after which it cannot be a verdict."""

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


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back, cut off soon after LARGEST_REPLY bytes, and the header Retry-After where there is one."""

    status: int
    content: bytes
    retry_after: str | None = None


def read_reply(reply: Reply, key: str | None) -> bool:
    """The verdict in a reply; one of this module's exceptions where there is none.

    ``key`` is the API key, of which no message may hold a piece.
    """
    status = reply.status
    if status in _TRY_AGAIN or status >= 500:
        raise Transient(f"HTTP {status}", retry_after(reply.retry_after))
    if 300 <= status < 400:
        raise Refused(f"HTTP {status}, a redirect, which would carry the key elsewhere; give the final base_url")
    if len(reply.content) > LARGEST_REPLY:
        raise NoVerdict("malformed reply")
    if status in _HOPELESS:
        raise Refused(f"HTTP {status}{_quoted(last_words(reply.content, key))}; {_advice(status)}")
    if status != 200:
        raise NoVerdict(f"HTTP {status}", last_words(reply.content, key))
    return _verdict(reply.content, key)


def _advice(status: int) -> str:
    if status in (401, 403, 407):
        return "check the API key and the variable that api_key_env names"
    if status == 402:
        return "the account wants paying"
    return "check the model's name and base_url, to which /chat/completions is added"


def _quoted(words: str) -> str:
    return f' ("{words}")' if words else ""


def _verdict(content: bytes, key: str | None) -> bool:
    """The verdict in a chat completion; broken JSON may be a hiccup on the way, all else is final."""
    try:
        reply = json.loads(content)
    except RecursionError:  # nested beyond all reading
        raise NoVerdict("malformed reply") from None
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
        raise NoVerdict("not a verdict", last_words(str(text).encode(errors="replace"), key))
    return same
