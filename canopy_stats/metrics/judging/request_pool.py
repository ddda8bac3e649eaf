"""Questions to verdicts: threads that ask, wait and ask again, until all is known or the outcome is over."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Protocol

from canopy_stats.metrics.judging.connection import Connection, connect
from canopy_stats.metrics.judging.outcome import Outcome
from canopy_stats.metrics.judging.rate_limit import RateLimiter, backoff
from canopy_stats.metrics.judging.reply import NoVerdict, Refused, Transient, read_reply
from canopy_stats.metrics.judging.verdict_file import VerdictFile
from canopy_stats.progress import SECONDS_BETWEEN_LINES, duration


class Question(Protocol):
    """``key`` names the question together with its endpoint; ``body()`` is the request's JSON."""

    @property
    def key(self) -> str: ...

    def body(self) -> bytes: ...


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """How an endpoint is treated; see OpenAIJudge."""

    timeout: float
    attempts: int
    concurrency: int
    requests_per_minute: float | None
    first_wait: float
    longest_wait: float


class RequestPool:
    """Asks each question until it has a verdict, which goes to the file, or has failed, which goes to the outcome."""

    def __init__(self, url: str, key: str | None, limits: RequestLimits, verdicts: VerdictFile,
                 say: Callable[[str], None]) -> None:
        self.url, self.limits, self.verdicts = url, limits, verdicts
        self.limiter = RateLimiter(limits.requests_per_minute, sleep=lambda seconds: self.outcome.over.wait(seconds))
        self._key, self._say = key, say

    def ask(self, questions: Sequence[Question], outcome: Outcome) -> None:
        """Ask them all; whatever ends it early, threads that wait are woken and requests under way end by themselves,
        so that what they cost is kept."""
        self.outcome = outcome
        if not questions:
            return
        waiting: SimpleQueue[Question] = SimpleQueue()
        for question in questions:
            waiting.put(question)
        self._began = self._last_line = time.monotonic()
        with ThreadPoolExecutor(self.limits.concurrency, "judge") as pool:
            try:
                for worker in [pool.submit(self._work, waiting) for _ in range(self.limits.concurrency)]:
                    worker.result()
            except BaseException:
                self.outcome.over.set()
                raise

    def _work(self, waiting: SimpleQueue[Question]) -> None:
        with connect(self._key, self.limits.timeout) as connection:
            self._ask_on(connection, waiting)

    def _ask_on(self, connection: Connection, waiting: SimpleQueue[Question]) -> None:
        total = waiting.qsize()
        while not self.outcome.over.is_set():
            try:
                self._settle(connection, waiting.get_nowait())
            except Empty:
                return
            except BaseException:
                self.outcome.over.set()
                raise
            self._report(total - waiting.qsize(), total)

    def _settle(self, connection: Connection, question: Question) -> None:
        """One verdict, whatever it takes."""
        for attempt in range(1, self.limits.attempts + 1):
            self.limiter.wait()
            if self.outcome.over.is_set():
                return
            try:
                self.verdicts.put(question.key, self._request(connection, question.body()))
                return self.outcome.succeeded()
            except Transient as trouble:
                if attempt == self.limits.attempts or (trouble.wait or 0) > self.limits.longest_wait:
                    return self.outcome.failed(trouble.kind)
                self._wait(trouble, attempt, question.key)
            except NoVerdict as trouble:
                return self.outcome.failed(trouble.kind, answered=True, words=trouble.words)
            except Refused as trouble:
                return self.outcome.refuse(str(trouble))

    def _wait(self, trouble: Transient, attempt: int, key: str) -> None:
        own = backoff(attempt, self.limits.first_wait, self.limits.longest_wait, key)
        if trouble.wait is not None:
            self.limiter.hold(trouble.wait)
        self.outcome.over.wait(max(own, trouble.wait or 0.0))

    def _request(self, connection: Connection, body: bytes) -> bool:
        """One request and the verdict in its reply."""
        import httpx2

        try:
            return read_reply(connection.post(self.url, body), self._key)
        except (TimeoutError, httpx2.TimeoutException):
            raise Transient("timed out") from None
        except httpx2.DecodingError:
            raise Transient("malformed reply") from None
        except httpx2.InvalidURL:
            raise Refused("base_url is no valid address") from None
        except httpx2.TransportError:
            raise Transient("connection failed") from None

    def _report(self, begun: int, total: int) -> None:
        now = time.monotonic()
        if now - self._last_line < SECONDS_BETWEEN_LINES:
            return
        self._last_line = now
        rate = begun / (now - self._began)
        failed = f", {self.outcome.failed_total:,} failed" if self.outcome.failed_total else ""
        self._say(f"{begun:,} of {total:,} verdicts, {rate:.1f} a second, {duration((total - begun) / rate)} "
                  f"left{failed}")
