"""How far a long task is: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Any, Self

SECONDS_BETWEEN_LINES = 30.0


class Progress:
    """Counts rollouts and tokens, and tells how fast they come and how long the rest takes.

    ``total`` and ``done`` count rollouts; ``done`` are those that were stored before. With ``show=False`` it is silent.
    """

    def __init__(self, label: str, total: int, done: int = 0, *, show: bool = True) -> None:
        self.label, self.total, self.done, self.tokens = label, total, done, 0
        self._start = self._last_line = time.monotonic()
        self._first = done
        self._show = show and total > done
        self._bar = self._make_bar() if self._show and sys.stderr.isatty() else None

    def _make_bar(self) -> Any:
        from tqdm import tqdm

        return tqdm(total=self.total, initial=self.done, desc=self.label, unit=" rollouts", dynamic_ncols=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.close()
        elif self._show and error[0] is None:
            self._print()

    def add(self, tokens: int) -> None:
        """One more rollout, of so many tokens."""
        self.done += 1
        self.tokens += tokens
        if self._bar is not None:
            self._bar.set_postfix_str(f"{self.rate:,.0f} tokens/s", refresh=False)
            self._bar.update()
        elif self._show and time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES:
            self._print()

    @property
    def rate(self) -> float:
        """Tokens per second since the start."""
        return self.tokens / max(time.monotonic() - self._start, 1e-9)

    def line(self) -> str:
        """Such as ``base/math: 120 of 2,400 rollouts, 5,312 tokens/s, 3 min 20 s left``."""
        took = time.monotonic() - self._start
        new = max(self.done - self._first, 1)
        ending = f"{duration(took / new * (self.total - self.done))} left" if self.done < self.total else duration(took)
        return f"{self.label}: {self.done:,} of {self.total:,} rollouts, {self.rate:,.0f} tokens/s, {ending}"

    def _print(self) -> None:
        self._last_line = time.monotonic()
        print(self.line(), file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """``3 min 20 s``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
