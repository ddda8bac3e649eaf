"""A language model behind an OpenAI-compatible chat-completions endpoint, asked about each pair in both orders."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from canopy_stats.files import canonical_json, sha256
from canopy_stats.metrics.judging import judge_prompt
from canopy_stats.metrics.judging.comparisons import MISSING, Comparison, JudgeContext, Verdicts
from canopy_stats.metrics.judging.connection import need_client
from canopy_stats.metrics.judging.outcome import Outcome
from canopy_stats.metrics.judging.request_pool import RequestLimits, RequestPool
from canopy_stats.metrics.judging.verdict_file import VerdictFile
from canopy_stats.schema import UserError


@dataclass(frozen=True, slots=True)
class OpenAIJudge:
    """A model behind ``base_url`` (such as ``https://host/v1``) judges; ``judge_prompt`` holds what it is asked.

    Parameters
    ----------
    api_key_env : the *name* of the environment variable that holds the key; None for an endpoint without one. The key
        goes into the Authorization header and nowhere else
    max_tokens : room for a one-word verdict; a reasoning model needs far more
    body : further fields of the request, such as ``{"reasoning_effort": "low"}``; None removes a field, as in
        ``{"max_tokens": None, "max_completion_tokens": 2000}``
    timeout : seconds that one request may take from beginning to end
    attempts : requests for one verdict before it counts as failed
    concurrency : requests under way at a time
    requests_per_minute : a limit on all of them together, repeated ones included; None for no limit
    first_wait, longest_wait : seconds of the exponential back-off. A Retry-After is honoured up to ``longest_wait``;
        beyond it the verdict fails
    cache : file of the verdicts; None keeps it in the run's folder

    Requests are made with temperature 0. A verdict fails if the reply is not one (other words, malformed, cut short)
    or none comes: nothing is guessed. Every verdict is kept as soon as it is there, by a hash of the endpoint and the
    whole request, so that no call asks twice.
    """

    base_url: str
    model: str
    api_key_env: str | None = None
    max_tokens: int = 16
    body: Mapping[str, Any] = field(default_factory=dict)
    timeout: float = 60.0
    attempts: int = 6
    concurrency: int = 8
    requests_per_minute: float | None = None
    first_wait: float = 1.0
    longest_wait: float = 120.0
    cache: str | Path | None = None

    def __post_init__(self) -> None:
        _check_url(self.base_url)
        for name in ("max_tokens", "attempts", "concurrency"):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)!r}; it must be a whole number of at least 1.")
        for name in ("timeout", "first_wait", "longest_wait", "requests_per_minute"):
            value = getattr(self, name)
            if not (value is None and name == "requests_per_minute" or _positive(value)):
                raise UserError(f"{name} is {value!r}; it must be a positive number.")

    def identity(self, context: JudgeContext) -> dict[str, Any]:
        return {"kind": "openai", "base_url": self.base_url, "body": self._body([]), "wording": judge_prompt.version()}

    def compare(self, comparisons: Sequence[Comparison], context: JudgeContext) -> list[Verdicts]:
        questions = [[_Question.of(self, comparison, i, j) for i, j in comparison.pairs] for comparison in comparisons]
        distinct = {question.key: question for own in questions for question in own}
        path, key = self._cache_path(context), _api_key(self.api_key_env)
        need_client()
        with VerdictFile(path) as verdicts:
            missing = [q for name, q in distinct.items() if name not in verdicts.known]
            outcome = Outcome(len(distinct), context.max_failed, done=len(distinct) - len(missing))
            context.say(self._announcement(comparisons, len(distinct), len(missing)))
            RequestPool(self.url, key, self._request_limits(), verdicts, outcome, context.say).ask(missing)
            outcome.raise_if_over(path)
            return [_collected(comparison, own, verdicts.known)
                    for comparison, own in zip(comparisons, questions, strict=True)]

    @property
    def url(self) -> str:
        """Where the requests go."""
        return self.base_url.rstrip("/") + "/chat/completions"

    def request(self, comparison: Comparison, i: int, j: int) -> bytes:
        """The JSON that asks about distinct text i, shown first, and text j."""
        texts = comparison.distinct[i], comparison.distinct[j]
        return canonical_json(self._body(judge_prompt.messages(comparison.task, comparison.prompt, *texts)))

    def _body(self, messages: list[dict[str, str]]) -> dict[str, Any]:
        whole = {"model": self.model, "messages": messages, "temperature": 0, "max_tokens": self.max_tokens,
                 **self.body}
        return {name: value for name, value in whole.items() if value is not None}

    def _request_limits(self) -> RequestLimits:
        return RequestLimits(self.timeout, self.attempts, self.concurrency, self.requests_per_minute, self.first_wait,
                       self.longest_wait)

    def _cache_path(self, context: JudgeContext) -> Path:
        if self.cache is not None:
            return Path(self.cache)
        return context.run.path / "verdicts" / f"{sha256(canonical_json(self.identity(context)))[:12]}.jsonl"

    def _announcement(self, comparisons: Sequence[Comparison], needed: int, requests: int) -> str:
        m = len(comparisons[0].code)
        whole = m * (m - 1) * len(comparisons)
        return (f"{len(comparisons):,} prompts x m(m-1) = {m * (m - 1):,} verdicts (m = {m}) make {whole:,}; "
                f"{whole - needed:,} need no question (equal or empty texts), {needed - requests:,} are in the cache, "
                f"{requests:,} requests go to {self.model} at {urlsplit(self.base_url).netloc}")


@dataclass(frozen=True, slots=True)
class _Question:
    """A pair of texts, and the hash that names the request about it together with its endpoint. The request itself is
    made when it is sent: all of them together would take gigabytes."""

    key: str
    judge: OpenAIJudge
    comparison: Comparison
    first: int
    second: int

    @classmethod
    def of(cls, judge: OpenAIJudge, comparison: Comparison, i: int, j: int) -> _Question:
        return cls(sha256(canonical_json(judge.base_url), judge.request(comparison, i, j)), judge, comparison, i, j)

    def body(self) -> bytes:
        return self.judge.request(self.comparison, self.first, self.second)


def _collected(comparison: Comparison, questions: Sequence[_Question], known: Mapping[str, bool]) -> Verdicts:
    found = np.full((len(comparison.distinct), len(comparison.distinct)), MISSING, np.int8)
    for question in questions:
        if question.key in known:
            found[question.first, question.second] = int(known[question.key])
    return found


def _positive(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < float("inf")


def _check_url(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise UserError("base_url must begin with http:// or https:// and name a host, such as https://host/v1.")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise UserError("base_url carries more than an address (a user, a password or a query). It is written into "
                        "the run's folder: keep the key in an environment variable and give its name as api_key_env.")


def _api_key(variable: str | None) -> str | None:
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key:
        raise UserError("The environment variable that api_key_env names is not set or empty: put the endpoint's API "
                        "key there (api_key_env takes the variable's name, not the key).")
    if not (key.isascii() and key.isprintable()):
        raise UserError(f"The environment variable {variable} holds characters that no API key has: set it again.")
    return key
