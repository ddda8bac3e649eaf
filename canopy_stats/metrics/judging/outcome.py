"""What came back so far, and when so much fails that asking on is a waste of money."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from canopy_stats.schema import UserError

GIVE_UP_AFTER = 25
"""Failures in a row after which an endpoint that never answered, or no longer does, counts as down."""


@dataclass
class Outcome:
    """Verdicts and failures of one context; threads may share it. ``over`` is set when no more should be asked."""

    needed: int
    """Verdicts asked for so far, those in the cache included."""
    max_failed: float
    done: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    words: str = ""
    """What the endpoint last said instead of a verdict."""
    refused: str | None = None
    """Why the endpoint will refuse every request, such as a wrong key."""
    over: threading.Event = field(default_factory=threading.Event)
    _new: int = 0
    _in_a_row: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def expect(self, more: int, *, known: int) -> None:
        """So many more verdicts are needed, ``known`` of which are there already."""
        with self._lock:
            self.needed, self.done = self.needed + more, self.done + known

    def succeeded(self) -> None:
        with self._lock:
            self.done, self._new, self._in_a_row = self.done + 1, self._new + 1, 0

    def failed(self, kind: str, *, answered: bool = False, words: str = "") -> None:
        """One verdict failed; ``answered`` where the endpoint did reply, and gave no verdict."""
        with self._lock:
            self.failures[kind] += 1
            self.words = words or self.words
            # Replies without a verdict, after others with one, say something of the texts, not of the endpoint.
            self._in_a_row = 0 if answered and self._new else self._in_a_row + 1
            if self.too_many or self._in_a_row >= GIVE_UP_AFTER:
                self.over.set()

    def refuse(self, why: str) -> None:
        with self._lock:
            self.refused = self.refused or why
            self.over.set()

    @property
    def failed_total(self) -> int:
        return self.failures.total()

    @property
    def too_many(self) -> bool:
        """Whether more failed than may, whatever the rest brings."""
        return self.failed_total > self.max_failed * self.needed

    def raise_if_refused(self, path: Path) -> None:
        """UserError where the endpoint will refuse every request."""
        if self.refused is not None:
            raise UserError(f"The judge's endpoint refuses: {self.refused}. {self._kept(path)}")

    def _kept(self, path: Path) -> str:
        return f"The {self.done:,} verdicts there are (of {self.needed:,}) are kept in {path}; the same call goes on."

    def raise_if_over(self, path: Path) -> None:
        """UserError where too much failed to go on; ``path`` keeps what was paid for."""
        if not (self.over.is_set() or self.too_many):
            return
        self.raise_if_refused(path)
        kept = self._kept(path)
        counts = ", ".join(f"{kind}: {count:,}" for kind, count in self.failures.most_common())
        said = f' It last said "{self.words}".' if self.words else ""
        if self.too_many:
            raise UserError(f"{self.failed_total:,} of {self.needed:,} verdicts failed ({counts}), more than "
                            f"max_failed={self.max_failed:g} allows, so nothing is scored.{said} {kept} Check the "
                            "endpoint and the model first, or raise max_failed.")
        raise UserError(f"The judge's endpoint gives no verdicts ({counts}, the last {GIVE_UP_AFTER} in a row), so "
                        f"nothing is scored.{said} {kept} Check that it is up.")
