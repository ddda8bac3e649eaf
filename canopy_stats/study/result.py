"""What a study found, read from its folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from canopy_stats.study import fits
from canopy_stats.study.parts import Part, read_checks
from canopy_stats.study.record import Study
from canopy_stats.study.stages import stamped

if TYPE_CHECKING:
    import pandas as pd

    from canopy_stats.slope import SlopeChange
    from canopy_stats.store import Run


@dataclass(frozen=True)
class StudyResult:
    """What a study found and where it lies.

    ``runs`` by name, ``changes`` one for each slope model (and tuned variant), ``checks`` one row a run; ``seconds``
    is what each stage took in this call.
    """

    out: Path
    study: Study
    runs: Mapping[str, Run] = field(repr=False)
    panel: pd.DataFrame = field(repr=False)
    slopes: pd.DataFrame = field(repr=False)
    changes: tuple[SlopeChange, ...] = field(repr=False)
    checks: pd.DataFrame = field(repr=False)
    tables: list[Path] = field(repr=False)
    figures: list[Path] = field(repr=False)
    report: list[Path] = field(repr=False)
    seconds: dict[str, float] = field(default_factory=dict)


def read_result(main: Part, seconds: dict[str, float] | None = None) -> StudyResult:
    """What the stages of a study left on the disk."""
    from canopy_stats.panel import read_panel

    tables, figures, report = (files_of(main.out, stage) for stage in ("tables", "figures", "report"))
    return StudyResult(main.out, main.study, main.opened(), read_panel(main.panel_path), fits.read_slopes(main.out),
                       tuple(fits.read_changes(main.out).values()), read_checks(main.out / "checks.csv"),
                       tables, figures, report, seconds or {})


def files_of(out: Path, stage: str) -> list[Path]:
    """The files that a stage left."""
    return [out / path for path in (stamped(out, stage) or {"files": {}})["files"]]
