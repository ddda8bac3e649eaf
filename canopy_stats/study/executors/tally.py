"""How far a study is over all who draw for it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from canopy_stats.progress import SECONDS_BETWEEN_LINES, duration


@dataclass
class Tally:
    """Counts shards and tokens of all workers, and those that were lost. ``clock`` gives seconds."""

    shards: int
    """that are to be drawn, as far as is known"""
    done: int = 0
    tokens: int = 0
    lost: int = 0
    workers: int = 0
    between: float = SECONDS_BETWEEN_LINES
    clock: float = field(default_factory=time.monotonic)
    _told: float = field(default_factory=time.monotonic)

    def drew(self, shards: int, tokens: int) -> None:
        """Some more shards."""
        self.done += shards
        self.tokens += tokens

    def due(self) -> bool:
        """Whether enough time has gone by since the last line."""
        if time.monotonic() - self._told < self.between:
            return False
        self._told = time.monotonic()
        return True

    def line(self) -> str:
        """Such as ``  12 of 40 shards, 5,312 tokens/s by 4 workers, 3 min 20 s left, 1 worker lost``."""
        took = max(time.monotonic() - self.clock, 1e-9)
        left = [f"{duration(took / self.done * (self.shards - self.done))} left"] if 0 < self.done < self.shards else []
        lost = [f"{self.lost} worker{'s' if self.lost > 1 else ''} lost"] if self.lost else []
        many = f"{self.workers} worker{'' if self.workers == 1 else 's'}"
        return "  " + ", ".join([f"{self.done:,} of {self.shards:,} shards",
                                 f"{self.tokens / took:,.0f} tokens/s by {many}", *left, *lost])
