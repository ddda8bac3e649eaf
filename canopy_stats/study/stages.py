"""The table of a study's stages: of each what it is made from, how it is made, and what it needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from canopy_stats import files, slope
from canopy_stats.report import catalogue, summary
from canopy_stats.report.folder import MAIN, Folder
from canopy_stats.report.page import write_report
from canopy_stats.report.source import Source
from canopy_stats.schema import UserError
from canopy_stats.study import fitting, measuring, stamps
from canopy_stats.study.ablations import Part
from canopy_stats.study.stamps import Key, State

KINDS = ("generate", "check", "embed", "judge", "panel", "fit", "tables", "figures", "report")
"""The stages in order; ``generate`` is drawn by :mod:`canopy_stats.study.pipeline`."""


@dataclass(frozen=True)
class Stage:
    """One stage: its ``kind`` (such as panel), the name of its stamp, what it is made from, and how.

    ``key`` gives None as long as something that it is made from is missing; ``needs`` says in words what that is.
    """

    kind: str
    name: str
    key: Callable[[], Key | None]
    make: Callable[[], Sequence[Path]]
    needs: str

    def run(self, out: Path) -> list[Path]:
        """The stage's files, made now if they are not there or stale."""
        key = self.key()
        if key is None:
            raise UserError(f"The stage {self.kind} needs {self.needs}: not there yet, or no longer of this study. Run "
                            "the study without --only, or the stages before this one first.")
        return stamps.staged(out, self.name, key, self.make)

    def state(self, out: Path) -> tuple[State, str]:
        """Whether the stage is done, and if not, why."""
        key = self.key()
        if key is None:
            there = stamps.stamped(out, self.name) is not None
            return ("stale" if there else "missing"), f"waits for {self.needs}"
        return stamps.state(out, self.name, key)


def later_stages(parts: Sequence[Part]) -> Iterator[Stage]:
    """Every stage after the rollouts, in order, those of a kind one after the other."""
    steps = [step for part in parts for step in _of_part(part)]
    for kind in ("check", "embed", "judge", "panel"):
        yield from (step for step in steps if step.kind == kind)
    yield from _of_study(parts)


def _of_part(part: Part) -> Iterator[Stage]:
    """What is made of a part's runs."""
    judges = part.study.asked_judge is not None and part.lender is None
    runs = "every run of " + ("the study" if part.name == MAIN else f"the ablation {part.name}")
    table: dict[str, tuple[Callable[[Part], Key | None], Callable[[Part], list[Path]], bool, str]] = {
        "check": (measuring.check_key, measuring.check, part.lender is None, runs),
        "embed": (measuring.embed_key, measuring.embed, True, runs),
        "judge": (measuring.judge_key, measuring.judge, judges, runs),
        "panel": (measuring.panel_key, measuring.make_panel, True, "the runs, their embeddings and verdicts")}
    for kind, (key, make, wanted, needs) in table.items():
        if wanted:
            yield Stage(kind, part.stamp(kind), partial(key, part), partial(make, part), needs)


def _of_study(parts: Sequence[Part]) -> Iterator[Stage]:
    """What is made of the panels, and of what is made of them."""
    main, out = parts[0], parts[0].out
    yield Stage("fit", "fit", lambda: fitting.fit_key(out), lambda: fitting.fit(out), "the study's panel")
    everything = "the panels, the check of the runs, and the fits"
    yield Stage("tables", "tables", lambda: _shown_key(parts), lambda: _shown("tables", parts), everything)
    yield Stage("figures", "figures", lambda: _shown_key(parts), lambda: _shown("figures", parts), everything)
    yield Stage("report", "report", lambda: _report_key(main), lambda: _report(main), "tables and figures")


# --- tables and figures -----------------------------------------------------------------------------------------


def _shown_key(parts: Sequence[Part]) -> Key | None:
    """What tables and figures are made from: panels, runs, checks, fits, and the code that makes them."""
    out, main = parts[0].out, parts[0]
    hashes: dict[str, dict[str, Any]] = {
        "panels": {part.name: files.file_sha256(part.panel_path) for part in parts},
        "checks": {"checks": files.file_sha256(out / "checks.csv")},
        "fits": {"changes": files.file_sha256(out / "fits" / "changes.json")}}
    if main.contents is None or any(value is None for group in hashes.values() for value in group.values()):
        return None
    return {"runs": main.contents, **hashes, "versions": stamps.versions_of(*fitting.FITTING, "matplotlib"),
            "code": stamps.code_hash("report", "slope", "mixed", "metrics")}


def _shown(kind: catalogue.EntryKind, parts: Sequence[Part]) -> list[Path]:
    """Every table or figure, from everything as the disk has it: kept or just made, the same numbers."""
    source = Source.of(Folder(parts[0].out), slope, [part.name for part in parts if part.name != MAIN])
    return catalogue.write(kind, source, parts[0].out / kind)


# --- report -----------------------------------------------------------------------------------------------------


def _report_key(main: Part) -> Key | None:
    """What the report shows: the study's settings, and every file of the stages that it reads."""
    shown = {stage: stamp["files"] for stage in ("check", "panel", "fit", "tables", "figures")
             if (stamp := stamps.stamped(main.out, stage)) is not None}
    if len(shown) < 5:
        return None
    return {"study": main.study.described(), **shown, "code": stamps.code_hash("report")}


def _report(main: Part) -> list[Path]:
    """study.json, summary.md, and report.html."""
    out = main.out
    files.write_json(out / "study.json", main.study.described())
    files.write_atomic(out / "summary.md", summary.page(Folder(out)).encode())
    return [out / "study.json", out / "summary.md", write_report(out)]
