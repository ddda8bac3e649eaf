"""How fast an endpoint is asked: a steady rate for all threads together, and longer waits after failures."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime


class RateLimiter:
    """Spaces the requests of all threads evenly: at most ``per_minute`` begin in a minute, however many threads ask.

    ``sleep`` waits so many seconds and returns True when waiting is over for good (as ``threading.Event.wait`` does);
    ``clock`` tells seconds that never go back.
    """

    def __init__(self, per_minute: float | None = None, *, clock: Callable[[], float] = time.monotonic,
                 sleep: Callable[[float], object] = time.sleep) -> None:
        self._interval = 60 / per_minute if per_minute else 0.0
        self._clock, self._sleep = clock, sleep
        self._next = self._held_until = float("-inf")
        self._lock = threading.Lock()

    def wait(self) -> None:
        """Return when the next request may begin."""
        with self._lock:
            now = self._clock()
            start = max(now, self._next)
            self._next = start + self._interval
        over = start > now and self._sleep(start - now)
        while not over and (left := self._held_until - self._clock()) > 0:
            over = self._sleep(left)

    def hold(self, seconds: float) -> None:
        """Let no request begin for so many seconds: the endpoint asked for it, and it means everybody."""
        with self._lock:
            self._held_until = max(self._held_until, self._clock() + seconds)
            self._next = max(self._next, self._held_until)


def backoff(attempt: int, first: float, longest: float, key: str) -> float:
    """Seconds before attempt + 1 (attempt = 1, 2, ...): first · 2^(attempt − 1), at most ``longest``, times a jitter
    in [1/2, 1) that a hash of the question decides, so that threads that failed together do not return together."""
    digest = hashlib.sha256(f"{key}/{attempt}".encode()).digest()
    return min(first * 2.0 ** (attempt - 1), longest) * (0.5 + int.from_bytes(digest[:4], "big") / 2**33)


def retry_after(header: str | None, now: datetime | None = None) -> float | None:
    """Seconds that a Retry-After header asks for (a number, or a date as HTTP writes it); None without a usable one."""
    text = (header or "").strip()
    if not text:
        return None
    try:
        return max(0.0, float(text)) if float(text) < float("inf") else None
    except ValueError:
        pass
    try:
        when = parsedate_to_datetime(text)
        when = when if when.tzinfo else when.replace(tzinfo=UTC)
        return max(0.0, (when - (now or datetime.now(UTC))).total_seconds())
    except (ValueError, OverflowError):  # no date, or one that no calendar has
        return None
