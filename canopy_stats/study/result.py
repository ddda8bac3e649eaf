"""What a study found, read from its folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from canopy_stats import files
from canopy_stats.notebook import Shown
from canopy_stats.report import summary
from canopy_stats.report.folder import Folder
from canopy_stats.report.missing import missing
from canopy_stats.study.ablations import Part
from canopy_stats.study.executors.slurm import FOLDER as SLURM
from canopy_stats.study.rollouts import STALE
from canopy_stats.study.spec import Study
from canopy_stats.study.stamps import files_of

if TYPE_CHECKING:
    import pandas as pd

    from canopy_stats.slope import SlopeChange
    from canopy_stats.store import Run

TIMES = "times.json"
"""The one file of a study's folder that tells times, beside the manifests of its runs."""


@dataclass(frozen=True)
class StudyResult(Shown):
    """What a study found and where it lies.

    ``runs`` by name, ``changes`` one for each slope model (and tuned variant), ``verdicts`` what the scrutiny of the
    paper's slope says, by tuned variant, ``checks`` one row a run; ``seconds`` is what each stage took in this call;
    ``missing`` says what could not be made, and why.
    """

    out: Path
    study: Study
    runs: Mapping[str, Run] = field(repr=False)
    panel: pd.DataFrame = field(repr=False)
    slopes: pd.DataFrame = field(repr=False)
    changes: tuple[SlopeChange, ...] = field(repr=False)
    verdicts: dict[str, str] = field(repr=False)
    checks: pd.DataFrame = field(repr=False)
    tables: list[Path] = field(repr=False)
    figures: list[Path] = field(repr=False)
    report: list[Path] = field(repr=False)
    seconds: dict[str, float] = field(default_factory=dict)
    missing: tuple[str, ...] = ()

    def _shown(self) -> tuple[str, list[Any]]:
        made = f"{len(self.runs)} runs, {len(self.panel):,} rows of panel; {', '.join(map(str, self.report))}"
        return self.study.title, [made, *self.verdicts.values(), self.slopes, *self.missing]


def read_result(main: Part, seconds: dict[str, float] | None = None) -> StudyResult:
    """What the stages of a study left on the disk."""
    folder, out = Folder(main.out), main.out
    return StudyResult(out, main.study, main.opened(), folder.panel, folder.slopes, tuple(folder.changes.values()),
                       folder.verdicts, summary.checks(folder), files_of(out, "tables"), files_of(out, "figures"),
                       files_of(out, "report"), seconds or {}, tuple(missing(folder)))


NOT_RESULTS = (f"{STALE}/", f"{SLURM}/")
"""Folders of a study that hold none of its results."""
RUN_FILES = ("shards.jsonl", ".verified.json", ".glance.json")
"""Files of a run whose values its content hash covers, or which only say what was looked at."""


def content_hash(out: Path) -> str:
    """SHA-256 over every result in a study's folder: the same for the same study, however often it was interrupted."""
    return files.sha256(files.canonical_json(contents(out)))


def contents(out: Path) -> dict[str, str]:
    """The hash of every result in a study's folder, by its place.

    Of a run its content counts, not when it was drawn nor in which shards; files that tell times or serve the next
    call do not.
    """
    from canopy_stats.store import KINDS, open_run

    runs = {path.parent for path in out.rglob("manifest.json") if STALE not in path.relative_to(out).parts}
    found = {path.relative_to(out).as_posix(): open_run(path).content_hash for path in runs}
    for path in out.rglob("*"):
        name = path.relative_to(out).as_posix()
        told = path.name in (".lock", "manifest.json", *RUN_FILES) or name == TIMES or name.startswith(NOT_RESULTS)
        if path.is_file() and not told and not (path.parent.name in KINDS and path.parents[1] in runs):
            found[name] = str(files.file_sha256(path))
    return found
