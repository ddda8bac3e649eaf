"""A language model behind an OpenAI-compatible chat-completions endpoint, asked about each pair in both orders."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np

from canopy_stats.files import canonical_json, sha256
from canopy_stats.metrics.judging import wording
from canopy_stats.metrics.judging.asking import Asker, Manners
from canopy_stats.metrics.judging.cache import VerdictFile
from canopy_stats.metrics.judging.cases import MISSING, Case, Sitting, Verdicts
from canopy_stats.metrics.judging.tally import Tally
from canopy_stats.schema import UserError

if TYPE_CHECKING:
    import httpx2


@dataclass(frozen=True, slots=True)
class OpenAIJudge:
    """A model behind ``base_url`` (such as ``https://host/v1``) judges; see judging/wording.py for what it is asked.

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

    def identity(self, sitting: Sitting) -> dict[str, Any]:
        return {"kind": "openai", "base_url": self.base_url, "body": self._body([]), "wording": wording.version()}

    def compare(self, cases: Sequence[Case], sitting: Sitting) -> list[Verdicts]:
        questions = [[_Question.of(self, case, i, j) for i, j in case.pairs] for case in cases]
        distinct = {question.key: question for own in questions for question in own}
        path, key = self._cache_path(sitting), _api_key(self.api_key_env)
        with VerdictFile(path) as verdicts, self._client(key) as client:
            missing = [q for name, q in distinct.items() if name not in verdicts.known]
            tally = Tally(len(distinct), sitting.max_failed, done=len(distinct) - len(missing))
            sitting.say(self._announcement(cases, len(distinct), len(missing)))
            Asker(client, self.url, key, self._manners(), verdicts, tally, sitting.say).ask(missing)
            tally.raise_if_over(path)
            return [_collected(case, own, verdicts.known) for case, own in zip(cases, questions, strict=True)]

    @property
    def url(self) -> str:
        """Where the requests go."""
        return self.base_url.rstrip("/") + "/chat/completions"

    def request(self, case: Case, i: int, j: int) -> bytes:
        """The JSON that asks about distinct text i, shown first, and text j."""
        return canonical_json(self._body(wording.messages(case.task, case.prompt, case.distinct[i], case.distinct[j])))

    def _body(self, messages: list[dict[str, str]]) -> dict[str, Any]:
        whole = {"model": self.model, "messages": messages, "temperature": 0, "max_tokens": self.max_tokens,
                 **self.body}
        return {name: value for name, value in whole.items() if value is not None}

    def _manners(self) -> Manners:
        return Manners(self.timeout, self.attempts, self.concurrency, self.requests_per_minute, self.first_wait,
                       self.longest_wait)

    def _cache_path(self, sitting: Sitting) -> Path:
        if self.cache is not None:
            return Path(self.cache)
        return sitting.run.path / "verdicts" / f"{sha256(canonical_json(self.identity(sitting)))[:12]}.jsonl"

    @contextmanager
    def _client(self, key: str | None) -> Iterator[httpx2.Client]:
        try:
            import httpx2
        except ImportError:
            raise UserError("A judge behind an endpoint needs the package httpx2: pip install 'canopy-stats[judge]'. "
                            "EmbeddingJudge works without.") from None
        headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
        limits = httpx2.Limits(max_connections=self.concurrency, max_keepalive_connections=self.concurrency)
        with httpx2.Client(headers=headers, timeout=self.timeout, limits=limits) as client:
            yield client

    def _announcement(self, cases: Sequence[Case], needed: int, requests: int) -> str:
        m = len(cases[0].code)
        whole = m * (m - 1) * len(cases)
        return (f"{len(cases):,} prompts x m(m-1) = {m * (m - 1):,} verdicts (m = {m}) make {whole:,}; "
                f"{whole - needed:,} need no question (equal or empty texts), {needed - requests:,} are in the cache, "
                f"{requests:,} requests go to {self.model} at {urlsplit(self.base_url).netloc}")


@dataclass(frozen=True, slots=True)
class _Question:
    """A pair of texts, and the hash that names the request about it together with its endpoint. The request itself is
    made when it is sent: all of them together would take gigabytes."""

    key: str
    judge: OpenAIJudge
    case: Case
    first: int
    second: int

    @classmethod
    def of(cls, judge: OpenAIJudge, case: Case, i: int, j: int) -> _Question:
        return cls(sha256(canonical_json(judge.base_url), judge.request(case, i, j)), judge, case, i, j)

    def body(self) -> bytes:
        return self.judge.request(self.case, self.first, self.second)


def _collected(case: Case, questions: Sequence[_Question], known: Mapping[str, bool]) -> Verdicts:
    found = np.full((len(case.distinct), len(case.distinct)), MISSING, np.int8)
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
