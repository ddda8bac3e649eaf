"""Questions to verdicts: threads that ask, wait and ask again, until all is known or the tally is over."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Protocol

from canopy_stats.metrics.judging.cache import VerdictFile
from canopy_stats.metrics.judging.pace import Pace, backoff
from canopy_stats.metrics.judging.reply import NoVerdict, Refused, Transient, read_reply
from canopy_stats.metrics.judging.tally import Tally
from canopy_stats.progress import SECONDS_BETWEEN_LINES, duration

if TYPE_CHECKING:
    import httpx2


class Question(Protocol):
    """``key`` names the question together with its endpoint; ``body()`` is the request's JSON."""

    @property
    def key(self) -> str: ...

    def body(self) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Manners:
    """How an endpoint is treated; see OpenAIJudge."""

    timeout: float
    attempts: int
    concurrency: int
    requests_per_minute: float | None
    first_wait: float
    longest_wait: float


class Asker:
    """Asks each question until it has a verdict, which goes to the file, or has failed, which goes to the tally."""

    def __init__(self, client: httpx2.Client, url: str, key: str | None, manners: Manners, verdicts: VerdictFile,
                 tally: Tally, say: Callable[[str], None]) -> None:
        self.client, self.url, self.manners = client, url, manners
        self.verdicts, self.tally = verdicts, tally
        self.pace = Pace(manners.requests_per_minute, sleep=tally.over.wait)
        self._key, self._say = key, say

    def ask(self, questions: Sequence[Question]) -> None:
        """Ask them all; whatever ends it early, threads that wait are woken and requests under way end by themselves,
        so that what they cost is kept."""
        waiting: SimpleQueue[Question] = SimpleQueue()
        for question in questions:
            waiting.put(question)
        self._began = self._last_line = time.monotonic()
        with ThreadPoolExecutor(self.manners.concurrency, "judge") as pool:
            try:
                for worker in [pool.submit(self._work, waiting) for _ in range(self.manners.concurrency)]:
                    worker.result()
            except BaseException:
                self.tally.over.set()
                raise

    def _work(self, waiting: SimpleQueue[Question]) -> None:
        total = waiting.qsize()
        while not self.tally.over.is_set():
            try:
                self._settle(waiting.get_nowait())
            except Empty:
                return
            except BaseException:
                self.tally.over.set()
                raise
            self._report(total - waiting.qsize(), total)

    def _settle(self, question: Question) -> None:
        """One verdict, whatever it takes."""
        for attempt in range(1, self.manners.attempts + 1):
            self.pace.wait()
            if self.tally.over.is_set():
                return
            try:
                self.verdicts.put(question.key, self._request(question.body()))
                return self.tally.succeeded()
            except Transient as trouble:
                if attempt == self.manners.attempts or (trouble.wait or 0) > self.manners.longest_wait:
                    return self.tally.failed(trouble.kind)
                self._wait(trouble, attempt, question.key)
            except NoVerdict as trouble:
                return self.tally.failed(trouble.kind, answered=True, words=trouble.words)
            except Refused as trouble:
                return self.tally.refuse(str(trouble))

    def _wait(self, trouble: Transient, attempt: int, key: str) -> None:
        own = backoff(attempt, self.manners.first_wait, self.manners.longest_wait, key)
        if trouble.wait is not None:
            self.pace.hold(trouble.wait)
        self.tally.over.wait(max(own, trouble.wait or 0.0))

    def _request(self, body: bytes) -> bool:
        """One request and the verdict in its reply."""
        import httpx2

        deadline = time.monotonic() + self.manners.timeout
        try:
            with self.client.stream("POST", self.url, content=body) as response:
                return read_reply(response, deadline, self._key)
        except httpx2.TimeoutException:
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
        failed = f", {self.tally.failed_total:,} failed" if self.tally.failed_total else ""
        self._say(f"{begun:,} of {total:,} verdicts, {rate:.1f} a second, {duration((total - begun) / rate)} "
                  f"left{failed}")
