"""A study and its ablations as parts: each with its settings, its runs and its panel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from canopy_stats.report.folder import MAIN, Folder
from canopy_stats.schema import UserError
from canopy_stats.study import rollouts
from canopy_stats.study.rollouts import RunState
from canopy_stats.study.spec import Study

if TYPE_CHECKING:
    from canopy_stats.store import Run


@dataclass(eq=False)
class Part:
    """The study itself (named ``main``), or one ablation of it.

    ``home`` holds its prompts and runs, which an ablation that draws nothing shares with the study (``lender``);
    ``out`` is the study's folder.
    """

    name: str
    study: Study
    out: Path
    lender: Part | None = None

    @property
    def home(self) -> Path:
        """The folder of the part's prompts, runs and checks."""
        if self.lender is not None:
            return self.lender.home
        return self.out if self.name == MAIN else self.out / "ablations" / self.name

    @property
    def panel_path(self) -> Path:
        return Folder(self.out).panel_path(self.name)

    @cached_property
    def states(self) -> dict[str, RunState]:
        """How far each run is, by name."""
        return self.lender.states if self.lender is not None else rollouts.run_states(self.study, self.home)

    @cached_property
    def contents(self) -> dict[str, str] | None:
        """Content hash of each run; None as long as they are not all drawn from this study."""
        if self.lender is not None:
            return self.lender.contents
        return rollouts.finished(self.study, self.home, self.states)

    @cached_property
    def runs(self) -> dict[str, Run] | None:
        """The part's runs by name, opened; None as long as they are not all drawn from this study."""
        from canopy_stats.store import open_run

        if self.lender is not None:
            return self.lender.runs
        if self.contents is None:
            return None
        return {name: open_run(self.home / "runs" / name, allow_partial=True) for name in self.contents}

    def opened(self) -> Mapping[str, Run]:
        """The runs; UserError as long as they are not all there."""
        if self.runs is None:
            raise UserError(f"The runs of {self.name} are not all drawn.")
        return self.runs

    def redrawn(self) -> None:
        """Look at the runs again: some were drawn."""
        for name in ("states", "runs", "contents"):
            self.__dict__.pop(name, None)

    def stamp(self, kind: str) -> str:
        """The name of a stage's stamp."""
        return kind if self.name == MAIN else f"{kind}-{self.name}"

    def table(self, kind: str) -> Path:
        """Where a stage keeps a row for each run or prompt."""
        return self.out / kind / f"{self.name}.csv"


def parts_of(study: Study, out: Path) -> list[Part]:
    """The study and each of its ablations."""
    main = Part(MAIN, study, out)
    return [main, *(Part(a.name, study.ablated(a), out, None if a.redraws else main) for a in study.every_ablation)]
