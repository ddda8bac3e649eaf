"""The chain: generate, check, embed, judge, panel, fit, tables, figures, report."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

from canopy_stats import files
from canopy_stats.schema import UserError
from canopy_stats.study import drawn, products, summary, work
from canopy_stats.study.parts import Part, one_row_each, parts_of, stages_of
from canopy_stats.study.prompts import choose_prompts
from canopy_stats.study.record import Study
from canopy_stats.study.result import TIMES, StudyResult, read_result
from canopy_stats.study.stages import Say, Stage, held, timed

__all__ = ["STAGES", "StudyResult", "one_row_each", "run_study"]

STAGES = ("generate", "check", "embed", "judge", "panel", "fit", "tables", "figures", "report")

def run_study(study: Study, out: str | Path, *, redraw: bool = False, say: Say = print,
              progress: bool = True) -> StudyResult:
    """Run or resume every stage of a study in the folder ``out``, and say what it finds.

    What is there is kept as long as what it was made from is unchanged. Runs that were drawn from other settings or
    by other code are refused by name, unless ``redraw`` allows to move them to ``out/stale`` and draw anew.
    """
    parts, seconds = run_stages(study, out, STAGES, redraw=redraw, say=say, progress=progress)
    result = read_result(parts[0], seconds)
    say(summary.closing(result))
    return result


def run_stages(study: Study, out: str | Path, wanted: Sequence[str], *, redraw: bool = False, say: Say = print,
               progress: bool = True) -> tuple[list[Part], dict[str, float]]:
    """Run or resume some stages, on what the others left; gives the study's parts and the seconds of each stage."""
    out, seconds = Path(out), dict[str, float]()
    unknown = [stage for stage in wanted if stage not in STAGES]
    if unknown:
        raise UserError(f"There is no stage {', '.join(unknown)}; choose among {', '.join(STAGES)}.")
    files.make_folder(out)
    parts = parts_of(study, out)
    with held(out), work.quiet():
        _tidy(parts)
        if "generate" in wanted:
            with timed("generate", seconds, say):
                generate(parts, redraw, say, progress)
        for kind, steps in groupby(later_stages(parts, say), key=lambda stage: stage.kind):
            if kind in wanted:
                with timed(kind, seconds, say):
                    for step in steps:
                        step.run(out)
        files.write_atomic(out / TIMES, json.dumps({"seconds": seconds}, indent=1).encode())
    return parts, seconds


_FOLDERS = (".", "prompts", "stages", "panels", "fits", "tables", "figures", "embeddings", "judged",
            "runs/*/tables")


def _tidy(parts: Sequence[Part]) -> None:
    """Remove what a killed call left half-written, and the panels of ablations that the study no longer has."""
    out, known = parts[0].out, {part.name for part in parts}
    for path in (path for part in parts for name in _FOLDERS for path in part.home.glob(f"{name}/.*")):
        if files.is_temporary(path):
            path.unlink(missing_ok=True)
    for path in [path for path in (out / "panels").glob("*") if path.stem not in known]:
        path.unlink()


def later_stages(parts: Sequence[Part], say: Say = lambda line: None) -> Iterator[Stage]:
    """Every stage after the rollouts, in order, those of a kind one after the other."""
    steps = [step for part in parts for step in stages_of(part)]
    for kind in ("check", "embed", "judge", "panel"):
        yield from (step for step in steps if step.kind == kind)
    yield from products.stages_of(parts, say)


def generate(parts: Sequence[Part], redraw: bool, say: Say, progress: bool) -> None:
    """Every run of the study, and of the ablations that need their own; stale ones are looked for before any."""
    own = [part for part in parts if part.lender is None]
    states = {part.name: [drawn.run_state(part.study, part.home, name) for name in part.study.cells()] for part in own}
    for part in own:
        drawn.set_aside(part.study, part.home, [s for s in states[part.name] if s.state == "stale"], redraw, say)
    for part in own:
        _draw(part, [s.name for s in states[part.name] if s.state != "done"], say, progress)
        part.__dict__.pop("runs", None)


def _draw(part: Part, missing: Sequence[str], say: Say, progress: bool) -> None:
    study, home = part.study, part.home
    for task, source in study.tasks.items():
        choose_prompts(source, study.prompts_per_task, work.prompts_of(home, task), study.few_shot, task)
    if not missing:
        return
    if len(part.study.ablations) == 0 and home != part.out:
        say(f" ablation {part.name}")
    if study.workers is None:
        work.draw_here(study, home, missing, say, progress)
    else:
        work.draw_apart(study, home, missing, study.workers, say)
