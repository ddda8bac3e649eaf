"""A language model behind an OpenAI-compatible chat-completions endpoint, asked about pairs of texts."""

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
from canopy_stats.metrics.judging.comparisons import MISSING, NOT_ASKED, SAME, Comparison, JudgeContext, Verdicts
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
    both_orders : ask about every pair in both orders. Two texts share a cluster only if both orders say SAME, so the
        second order is otherwise asked only where the first said so: the same clusters for about half the requests
        where most texts differ
    probe : first ask about a text and itself, and stop if the answer is DIFFERENT

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
    both_orders: bool = False
    probe: bool = True

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
        return {"kind": "openai", "base_url": self.base_url, "body": self._body([]), "wording": judge_prompt.version(),
                **({"both_orders": True} if self.both_orders else {})}

    def compare(self, comparisons: Sequence[Comparison], context: JudgeContext) -> list[Verdicts]:
        need_client()
        path, key = self._cache_path(context), _api_key(self.api_key_env)
        with VerdictFile(path) as verdicts:
            pool = RequestPool(self.url, key, self._request_limits(), verdicts, context.say)
            self._ask_probe(comparisons, pool)
            outcome = Outcome(0, context.max_failed)
            first = [[_PairQuestion.of(self, c, *pair) for pair in (c.pairs if self.both_orders else c.first_orders)]
                     for c in comparisons]
            context.say(self._announcement(comparisons, first, verdicts.known))
            _ask(pool, first, outcome)
            second = [[q.reversed() for q in own if verdicts.known.get(q.key) and not self.both_orders]
                      for own in first]
            _ask(pool, second, outcome)
            outcome.raise_if_over(path)
            asked = [[*one, *other] for one, other in zip(first, second, strict=True)]
            return [_collected(c, own, verdicts.known) for c, own in zip(comparisons, asked, strict=True)]

    def _ask_probe(self, comparisons: Sequence[Comparison], pool: RequestPool) -> None:
        """UserError if the judge calls a text different from itself: no verdict of it would be worth its price."""
        first = next((c for c in comparisons if c.first_orders), None)
        if not self.probe or first is None:
            return
        question, outcome = _PairQuestion.of(self, first, 0, 0), Outcome(1, max_failed=1.0)
        _ask(pool, [[question]], outcome)
        outcome.raise_if_refused(pool.verdicts.path)
        if pool.verdicts.known.get(question.key) is False:
            raise UserError(f"The judge {self.model} says of a text and itself that they differ: it does not do what "
                            "it is asked. Choose another model, or look at its settings (body).")

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

    def _announcement(self, comparisons: Sequence[Comparison], first: Sequence[Sequence[_PairQuestion]],
                      known: Mapping[str, bool]) -> str:
        m, needed = len(comparisons[0].code), {q.key for own in first for q in own}
        orders = 1 + self.both_orders
        each, begin = orders * m * (m - 1) // 2, len(needed - known.keys())
        then = "" if self.both_orders else ", then one more for each pair found the same, in the other order"
        return (f"{len(comparisons):,} prompts x {each:,} {'ordered ' if self.both_orders else ''}pairs (m = {m}) make "
                f"{each * len(comparisons):,}; {each * len(comparisons) - len(needed):,} need no question (equal or "
                f"empty texts), {len(needed) - begin:,} are in the cache, {begin:,} requests go to {self.model} at "
                f"{urlsplit(self.base_url).netloc}{then}")


@dataclass(frozen=True, slots=True)
class _PairQuestion:
    """A pair of texts, and the hash that names the request about it together with its endpoint. The request itself is
    made when it is sent: all of them together would take gigabytes."""

    key: str
    judge: OpenAIJudge
    comparison: Comparison
    first: int
    second: int

    @classmethod
    def of(cls, judge: OpenAIJudge, comparison: Comparison, i: int, j: int) -> _PairQuestion:
        return cls(sha256(canonical_json(judge.base_url), judge.request(comparison, i, j)), judge, comparison, i, j)

    def body(self) -> bytes:
        return self.judge.request(self.comparison, self.first, self.second)

    def reversed(self) -> _PairQuestion:
        """The same two texts in the other order."""
        return self.of(self.judge, self.comparison, self.second, self.first)


def _ask(pool: RequestPool, questions: Sequence[Sequence[_PairQuestion]], outcome: Outcome) -> None:
    """Ask those that have no verdict yet, each once, unless too much has failed already."""
    distinct = {question.key: question for own in questions for question in own}
    missing = [question for key, question in distinct.items() if key not in pool.verdicts.known]
    outcome.expect(len(distinct), known=len(distinct) - len(missing))
    pool.ask(missing, outcome)


def _collected(comparison: Comparison, asked: Sequence[_PairQuestion], known: Mapping[str, bool]) -> Verdicts:
    found = np.full((len(comparison.distinct), len(comparison.distinct)), NOT_ASKED, np.int8)
    np.fill_diagonal(found, SAME)
    for question in asked:
        found[question.first, question.second] = int(known[question.key]) if question.key in known else MISSING
    return found


def _positive(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < float("inf")


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        said = url.isprintable() and " " not in url and parts.port != 0
    except ValueError:  # brackets that do not match, a port that is none
        said = False
    if not said:
        raise UserError("base_url is no address: give one such as https://host/v1 or http://localhost:8000/v1.")
    if parts.scheme not in ("http", "https") or not parts.hostname:
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
