"""A study from rollouts to report: the one place that orders the stages, runs them, and says how far they are."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from canopy_stats import files
from canopy_stats.report import summary
from canopy_stats.report.folder import MAIN, Folder
from canopy_stats.report.missing import missing
from canopy_stats.report.printed import console
from canopy_stats.schema import UserError
from canopy_stats.study import rollouts, stamps, worker
from canopy_stats.study.ablations import Part, parts_of
from canopy_stats.study.executors import Executor, Wanted, executor_of, slurm
from canopy_stats.study.prompts import choose_prompts
from canopy_stats.study.ready import ready
from canopy_stats.study.result import TIMES, StudyResult, read_result
from canopy_stats.study.spec import Study
from canopy_stats.study.stages import KINDS, later_stages
from canopy_stats.study.taken import source_of

if TYPE_CHECKING:
    import pandas as pd

Say = Callable[[str], None]
LOCK = ".lock"


def run_study(study: Study, out: str | Path, *, redraw: bool = False, executor: str | Executor = "local",
              say: Say = print, progress: bool = True) -> StudyResult:
    """Run or resume every stage of a study in the folder ``out``, and say what it finds.

    What is there is kept as long as what it was made from is unchanged. Runs that were drawn from other settings are
    refused by name, unless ``redraw`` allows to move them to ``out/stale`` and draw anew.

    ``executor`` says where rollouts are drawn: "local" (the study's ``workers``), "ray" (workers of a Ray cluster), or
    a :class:`canopy_stats.study.executors.Ray`. It changes no result.
    """
    if not executor_of(executor).waits:
        raise UserError("Slurm draws later than this call lasts: run the stage generate alone (--only generate), and "
                        "the whole study when its jobs are done.")
    parts, seconds = run_stages(study, out, KINDS, redraw=redraw, executor=executor, say=say, progress=progress)
    say(summary.closing(Folder(parts[0].out), seconds))
    return read_result(parts[0], seconds)


def run_stages(study: Study, out: str | Path, wanted: Sequence[str], *, redraw: bool = False,
               executor: str | Executor = "local", say: Say = print,
               progress: bool = True) -> tuple[list[Part], dict[str, float]]:
    """Run or resume some stages, on what the others left; gives the study's parts and the seconds of each stage."""
    out, seconds = Path(out), dict[str, float]()
    unknown = [stage for stage in wanted if stage not in KINDS]
    if unknown:
        raise UserError(f"There is no stage {', '.join(unknown)}; choose among {', '.join(KINDS)}.")
    if "generate" in wanted or "judge" in wanted:
        for problem in ready(study):
            raise UserError(problem)
    files.make_folder(out)
    parts = parts_of(study, out)
    with held(out), worker.quiet():
        _tidy(parts)
        if "generate" in wanted:
            with timed("generate", seconds, say):
                generate(parts, executor_of(executor), redraw, say, progress)
        for kind, steps in groupby(later_stages(parts), key=lambda stage: stage.kind):
            if kind in wanted:
                with timed(kind, seconds, say):
                    for step in steps:
                        step.run(out)
        files.write_json(out / TIMES, {"seconds": seconds})
    return parts, seconds


_FOLDERS = (".", "prompts", "stages", "panels", "fits", "tables", "figures", "embeddings", "judged",
            "runs/*/tables", "runs/*/tables/*")


def _tidy(parts: Sequence[Part]) -> None:
    """Remove what a killed call left half-written, and the panels of ablations that the study no longer has."""
    out, known = parts[0].out, {part.stamp("panel") for part in parts}
    for path in (path for part in parts for name in _FOLDERS for path in part.home.glob(f"{name}/.*")):
        if files.is_temporary(path):
            path.unlink(missing_ok=True)
    for name in stamps.names(out):
        if name.startswith("panel-") and name not in known:
            stamps.discard(out, name)


def generate(parts: Sequence[Part], executor: Executor, redraw: bool, say: Say, progress: bool) -> None:
    """Every run of the study, and of the ablations that need their own; stale ones are looked for before any."""
    own = [part for part in parts if part.lender is None]
    states = {part.name: list(part.states.values()) for part in own}
    for part in own:
        stale = [s for s in states[part.name] if s.state == "stale"]
        for line in rollouts.set_aside(part.study, part.home, stale, redraw):
            say(line)
    for part in own:
        _put_prompts(part)
    wanted = [Wanted(part.name, part.study, part.home, _to_draw(part, states[part.name], say)) for part in own]
    executor.draw(parts[0].out, [one for one in wanted if one.names], say, progress)
    for part in own:
        part.redrawn()


def _to_draw(part: Part, states: Sequence[rollouts.RunState], say: Say) -> tuple[str, ...]:
    """The names of what must be drawn; what is only taken is taken here, whoever draws the rest."""
    missing = [one.name for one in states if one.state != "done"]
    copied = [name for name in missing if source_of(part.study.runs[name]) is not None]
    for name in copied:
        worker.draw(part.study, part.home, name)
        say(f"  {name}: taken as it is")
    return tuple(name for name in missing if name not in copied)


def _put_prompts(part: Part) -> None:
    study = part.study
    for task, source in study.tasks.items():
        choose_prompts(source, study.prompts_per_task, worker.prompts_of(part.home, task), study.few_shot, task)


# --- one call at a time, and what it says -----------------------------------------------------------------------


@contextmanager
def held(out: Path) -> Iterator[None]:
    """Hold the study's folder: two calls would make the same stages."""
    with files.held(out, LOCK, f"Another process is at work in {out}. Wait for it or stop it, then run this again."):
        yield


@contextmanager
def explained(kind: str) -> Iterator[None]:
    """Failures to read or write in a stage, as to a colleague."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        where = f" {error.filename}" if error.filename else ""
        raise UserError(f"{kind} could not go on: {error.strerror or error}{where}. Mend that (free some space on a "
                        "full disk) and run the same command again: it resumes.") from error


@contextmanager
def timed(stage: str, seconds: dict[str, float], say: Say) -> Iterator[None]:
    """Say when a stage begins and how long it took."""
    say(f"{stage} ...")
    began = time.monotonic()
    with explained(stage):
        yield
    seconds[stage] = round(time.monotonic() - began, 1)
    say(f"{stage}: {seconds[stage]:.1f} s")


# --- how far it is ----------------------------------------------------------------------------------------------


def runs_status(parts: Sequence[Part]) -> pd.DataFrame:
    """A row for each run: part, run, state (done, partial, stale, missing), rollouts, wanted, tokens, why."""
    import pandas as pd

    states = [(part.name, state) for part in parts if part.lender is None for state in part.states.values()]
    return pd.DataFrame([{"part": part, "run": s.name, "state": s.state, "rollouts": s.rollouts, "wanted": s.wanted,
                          "tokens": s.tokens, "why": s.why} for part, s in states])


def stages_status(parts: Sequence[Part]) -> pd.DataFrame:
    """A row for each later stage: stage, state (done, incomplete, stale, missing), why."""
    import pandas as pd

    rows: list[dict[str, str]] = []
    for stage in later_stages(parts):
        state: str
        state, why = stage.state(parts[0].out)
        before = _unfinished(stage.kind, rows)
        if state == "done" and before:
            state, why = "stale", f"waits for {before[0]}"
        elif state == "done" and stage.kind in ("fit", "tables", "figures"):
            lacking = missing(Folder(parts[0].out), (stage.kind,))
            state, why = ("incomplete", f"missing: {'; '.join(lacking)}") if lacking else (state, why)
        rows.append({"stage": stage.name, "state": state, "why": why})
    return pd.DataFrame(rows)


def _unfinished(kind: str, rows: list[dict[str, str]]) -> list[str]:
    """The earlier stages whose results will be made anew, and which this one reads from the disk."""
    waiting = [row["stage"] for row in rows if row["state"] not in ("done", "incomplete")]
    return {"fit": [name for name in waiting if name == "panel"], "tables": waiting, "figures": waiting,
            "report": waiting}.get(kind, [])


def status(study: Study, out: Path) -> str:
    """Both tables for the terminal, and how far the whole is. Nothing is loaded and nothing changed."""
    parts = parts_of(study, out)
    runs, later = runs_status(parts), stages_status(parts)
    if (runs["part"] == MAIN).all():
        runs = runs.drop(columns="part")
    shown = runs.assign(rollouts=[f"{a:,} of {b:,}" for a, b in zip(runs["rollouts"], runs["wanted"], strict=True)],
                        tokens=runs["tokens"].map("{:,}".format)).drop(columns="wanted")
    done, tokens = (runs["state"] == "done").sum(), runs["tokens"].sum()
    lacking = later.loc[later["state"] == "incomplete", "stage"].tolist()
    later = later.assign(why=later["why"].where(later["state"] != "incomplete", "see below"))
    return "\n".join([
        f"{study.title}: {out}", "", console(shown), "", console(later), "",
        f"{done} of {len(runs)} runs are done, {tokens:,} tokens so far; "
        f"{later['state'].isin(['done', 'incomplete']).sum()} of {len(later)} later stages are done.",
        *(summary.incomplete(Folder(out)) if lacking else []),
        *slurm.told(out),
        *(f"Before it can run: {problem}" for problem in ready(study))])


def status_frame(study: Study, out: Path) -> pd.DataFrame:
    """The same as one table: kind (run or stage), name, state, why, and of runs rollouts, wanted and tokens."""
    import pandas as pd

    parts = parts_of(study, out)
    runs = runs_status(parts).rename(columns={"run": "name"})
    later = stages_status(parts).rename(columns={"stage": "name"})
    return pd.concat([runs.assign(kind="run"), later.assign(kind="stage")], ignore_index=True)[
        ["kind", "part", "name", "state", "rollouts", "wanted", "tokens", "why"]]


def complete(study: Study, out: Path) -> bool:
    """Whether everything is done."""
    parts = parts_of(study, out)
    return bool((runs_status(parts)["state"] == "done").all() and (stages_status(parts)["state"] == "done").all())
