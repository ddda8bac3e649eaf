"""What an executor is, and what it is given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from canopy_stats.study.spec import Study

Say = Callable[[str], None]


@dataclass(frozen=True)
class Wanted:
    """Runs of a study, or of one of its ablations, that are to be drawn and checked in the folder ``home``.

    ``part`` is the ablation's name, or ``main``. The prompts are in ``home/prompts`` already.
    """

    part: str
    study: Study
    home: Path
    names: tuple[str, ...]


class Executor(Protocol):
    """Where rollouts are drawn."""

    @property
    def waits(self) -> bool:
        """Whether the runs are drawn once ``draw`` returns; else somebody draws them later."""
        ...

    def draw(self, out: Path, wanted: Sequence[Wanted], say: Say, progress: bool) -> None:
        """Draw and check runs of the study in ``out``; ``say`` is told how far it is, if ``progress`` is wanted."""
        ...
