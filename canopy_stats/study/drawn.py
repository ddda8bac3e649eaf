"""Which of a study's runs are drawn, from the stamps alone: no model is loaded to find that nothing is missing.

A stamp says what was asked when a run was begun, and the run's content hash once it is complete. A run that was asked
for otherwise is stale. Rollouts are dear: they are never drawn over unless that is asked for, and never deleted.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from canopy_stats import files
from canopy_stats.schema import UserError
from canopy_stats.study import stages
from canopy_stats.study.prompts import prompt_lines
from canopy_stats.study.record import Checkpoint, Study

if TYPE_CHECKING:
    from canopy_stats.store import Run

Drawn = Literal["done", "partial", "stale", "missing"]


@dataclass(frozen=True, slots=True)
class RunState:
    """How far one run is: ``rollouts`` and ``tokens`` stored of ``wanted`` rollouts, and what changed if stale."""

    name: str
    state: Drawn
    rollouts: int
    tokens: int
    wanted: int
    why: str = ""


def asked(study: Study, name: str) -> dict[str, Any] | None:
    """Everything in a study that decides a run; None where the model is a loaded object, which the engine hashes."""
    task, family, checkpoint = study.cells()[name]
    if not isinstance(checkpoint.model, (str, Path)):
        return None
    prompts = prompt_lines(study.tasks[task], study.prompts_per_task, study.few_shot, task)
    return {"task": task, "family": family.name, **_identity(checkpoint), "prompts": files.sha256(prompts),
            "law": study.policy.to_dict(), "rollouts": study.n_rollouts, "seed": study.seed, "engine": study.engine,
            "batch_size": study.batch_size, "device": study.device, "code": _code_version()}


def _identity(checkpoint: Checkpoint) -> dict[str, Any]:
    """A checkpoint with the content of its files in the place of their paths."""
    found = {name: stages.model_identity(path) if path is not None else None
             for name in ("model", "adapter", "tokenizer") for path in [getattr(checkpoint, name)]}
    return {**asdict(checkpoint), **found}


def _code_version() -> str:
    from canopy_stats.runs import code_version

    return code_version()


def begin(study: Study, out: Path, name: str) -> None:
    """Stamp what is asked, before the first rollout; a run that is there keeps the stamp that it has."""
    key = asked(study, name)
    if key is not None and not (out / "runs" / name / "manifest.json").is_file():
        stages.write_stamp(out, _stamp(name), _note(key, None))


def finish(study: Study, out: Path, name: str, run: Run) -> None:
    """Stamp a complete run with its content."""
    key = asked(study, name)
    if key is not None:
        stages.write_stamp(out, _stamp(name), _note(key, run.content_hash))


def _note(key: Mapping[str, Any], content: str | None) -> dict[str, Any]:
    return {"key": stages.digest(key), "made_from": dict(key), "files": {}, "content": content}


def _stamp(name: str) -> str:
    return f"generate-{name}"


# --- what is there ----------------------------------------------------------------------------------------------


def run_state(study: Study, out: Path, name: str) -> RunState:
    """How far a run is; every file of it is compared with its hash."""
    task = study.cells()[name][0]
    wanted = len(prompt_lines(study.tasks[task], study.prompts_per_task).splitlines()) * study.n_rollouts
    run = stored(out, name)
    if run is None:
        return RunState(name, "missing", 0, 0, wanted)
    rollouts, tokens = (sum(s[what] for s in run.shards) for what in ("n_rollouts", "n_tokens"))
    state, why = _judged(asked(study, name), stages.stamped(out, _stamp(name)), run)
    return RunState(name, state, rollouts, tokens, wanted, why)


def _judged(key: Mapping[str, Any] | None, stamp: Mapping[str, Any] | None, run: Run) -> tuple[Drawn, str]:
    if key is not None and stamp is not None and stamp["key"] != stages.digest(key):
        return "stale", f"changed: {', '.join(stages.differing(stamp['made_from'], key))}"
    if run.damaged:
        return "partial", f"{len(run.damaged)} shards are damaged"
    if not run.complete or run.manifest["finished"] is None:
        return "partial", ""
    if stamp is None or stamp.get("content") != run.content_hash:
        return "partial", "complete, but not yet compared with the study"
    return "done", ""


def stored(out: Path, name: str) -> Run | None:
    """A run as far as it is there; None where there is none that can be read."""
    from canopy_stats.store import open_run

    try:
        return open_run(out / "runs" / name, allow_partial=True)
    except UserError:
        return None


def finished(study: Study, out: Path) -> dict[str, Run] | None:
    """Every run of a study, opened; None as long as one is missing, unfinished or stale."""
    runs = {}
    for name in study.cells():
        run = stored(out, name)
        if run is None:
            return None
        key, stamp = asked(study, name), stages.stamped(out, _stamp(name))
        complete = run.complete and run.manifest["finished"] is not None
        if not (complete if key is None else _judged(key, stamp, run)[0] == "done"):
            return None
        runs[name] = run
    return runs


# --- runs that were asked for otherwise -------------------------------------------------------------------------


def set_aside(study: Study, out: Path, stale: Sequence[RunState], redraw: bool, say: stages.Say) -> None:
    """Move stale runs to OUT/stale, where that was allowed; UserError otherwise."""
    if stale and not redraw:
        listed = "; ".join(f"{s.name} ({s.why})" for s in stale[:3]) + ("; ..." if len(stale) > 3 else "")
        raise UserError(
            f"{len(stale)} of {len(study.cells())} runs in {out / 'runs'} were drawn from something else: {listed}. "
            "Nothing was changed. Draw them again with --redraw, which moves the old ones to "
            f"{out / 'stale'}; or undo the change, or choose another --out.")
    for one in stale:
        say(f"  {one.name}: stale ({one.why}); moved to stale/{_move(out, one.name)}")


def _move(out: Path, name: str) -> str:
    files.make_folder(out / "stale")
    taken = sum(1 for _ in (out / "stale").glob(f"{name}-*"))
    target = out / "stale" / f"{name}-{taken + 1}"
    os.replace(out / "runs" / name, target)
    (out / "stages" / f"{_stamp(name)}.json").unlink(missing_ok=True)
    return target.name
