"""Rollouts drawn on this machine: in this process, or by several of one thread each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from canopy_stats.report.folder import MAIN
from canopy_stats.study import worker
from canopy_stats.study.executors.protocol import Say, Wanted


@dataclass(frozen=True)
class Local:
    """As many processes as the study has ``workers``; without the key this one, with all threads."""

    waits = True

    def draw(self, out: Path, wanted: Sequence[Wanted], say: Say, progress: bool) -> None:
        """Draw and check runs, one part of the study after the other."""
        for one in wanted:
            if one.part != MAIN:
                say(f" ablation {one.part}")
            if one.study.workers is None:
                worker.draw_here(one.study, one.home, one.names, say, progress)
            else:
                worker.draw_apart(one.study, one.home, one.names, one.study.workers, say)
