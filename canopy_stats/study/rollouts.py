"""Which of a study's runs are drawn, from the stamps alone: no model is loaded to find that nothing is missing.

A run's stamp says what was asked when it was begun, and the run's content hash once it is complete. Where more rollouts
or more prompts are asked for, a run is partial: it grows. A run that was asked for otherwise is stale. Rollouts are
dear: they are never drawn over unless that is asked for, and never deleted.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from canopy_stats import files
from canopy_stats.schema import UserError
from canopy_stats.study import growth, stamps, taken
from canopy_stats.study.prompts import Chosen, chosen
from canopy_stats.study.spec import Checkpoint, Study

if TYPE_CHECKING:
    from canopy_stats.store import Run

Standing = Literal["done", "partial", "stale", "missing"]
StageKey = dict[str, Any]
STALE = "stale"
"""Folder of the runs that were moved aside."""
_WHERE = ("code", "engine", "device", "batch_size")


@dataclass(frozen=True, slots=True)
class RunState:
    """How far one run is: ``rollouts`` and ``tokens`` stored of ``wanted`` rollouts, and what changed if stale."""

    name: str
    state: Standing
    rollouts: int
    tokens: int
    wanted: int
    why: str = ""


def asked(study: Study, name: str) -> StageKey | None:
    """Everything in a study that decides a run; None where the model is a loaded object, which the engine hashes."""
    run = study.runs[name]
    if (folder := taken.source_of(run)) is not None:
        found = taken.opened(run, folder)
        return {"taken": found.content_hash, "rollouts": found.config.n_rollouts}
    if not isinstance(run.checkpoint.model, str):
        return None
    prompts = _prompts(study, run.task)
    return {"task": run.task, "family": run.family, **_identity(run.checkpoint), "prompts": prompts.sha256,
            "law": study.policy.to_dict(), "rollouts": study.rollouts, "seed": study.seed, "engine": study.engine,
            "batch_size": study.batch_size, "device": study.device}


def _prompts(study: Study, task: str) -> Chosen:
    return chosen(study.tasks[task], study.prompts_per_task, study.few_shot, task)


def _identity(checkpoint: Checkpoint) -> StageKey:
    """A checkpoint with the content of its files in the place of their paths."""
    found = {name: stamps.model_identity(path) if path is not None else None
             for name in ("model", "adapter", "tokenizer") for path in [getattr(checkpoint, name)]}
    later = {"template_kwargs"} if not checkpoint.template_kwargs else set()  # stamps of before know no such key
    later |= {"runs"}  # where other tasks come from decides nothing here
    return {**checkpoint.model_dump(exclude=later), **found}


# --- stamps of runs ---------------------------------------------------------------------------------------------


def begin(study: Study, out: Path, name: str, prompts: Path) -> StageKey | None:
    """Stamp what is asked, before the first rollout, and give it; a run that goes on keeps the stamp that it has, and
    one that grows gets another. ``prompts`` is the file that is drawn from: the study's own copy."""
    key, stamp = asked(study, name), stamps.stamped(out, _stamp(name))
    if key is None:
        return None
    if "taken" not in key:
        key = {**key, "prompts": files.file_sha256(prompts)}
    there = (out / "runs" / name / "manifest.json").is_file()
    if stamp is not None and there and not growth.GROWING.intersection(_changed(stamp, key)):
        return dict(stamp["made_from"])
    stamps.write_stamp(out, _stamp(name), _note(key, None))
    return key


def finish(out: Path, name: str, key: StageKey | None, run: Run) -> None:
    """Stamp a complete run with its content and with what was asked when it was begun: not with what is asked by now,
    which an edited file may have changed while the run was drawn."""
    if key is not None:
        stamps.write_stamp(out, _stamp(name), _note(key, run.content_hash))


def _note(key: Mapping[str, Any], content: str | None) -> dict[str, Any]:
    return {"key": stamps.digest(key), "made_from": dict(key), "files": {}, "content": content}


def _stamp(name: str) -> str:
    return f"generate-{name}"


# --- what is there ----------------------------------------------------------------------------------------------


def run_state(study: Study, out: Path, name: str) -> RunState:
    """How far a run is; every file of it is compared with its hash."""
    run = study.runs[name]
    prompts = _prompts(study, run.task)
    folder = taken.source_of(run)
    wanted = sum(s["n_rollouts"] for s in taken.opened(run, folder).shards) if folder else (
        prompts.count * study.rollouts)
    found = stored(out, name)
    if found is None:
        return RunState(name, "missing", 0, 0, wanted)
    rollouts, tokens = (sum(s[what] for s in found.shards) for what in ("n_rollouts", "n_tokens"))
    state, why = _judged(asked(study, name), stamps.stamped(out, _stamp(name)), found, prompts.lines)
    return RunState(name, state, rollouts, tokens, wanted, why)


def _judged(key: StageKey | None, stamp: Mapping[str, Any] | None, run: Run, prompts: bytes) -> tuple[Standing, str]:
    if key is not None and stamp is not None and (changed := _changed(stamp, key)):
        return _asked_otherwise(changed, key, run, prompts)
    if run.damaged:
        return "partial", f"{len(run.damaged)} shards are damaged"
    if not run.complete or run.manifest["finished"] is None:
        return "partial", ""
    if stamp is None or stamp.get("content") != run.content_hash:
        return "partial", "complete, but not yet compared with the study"
    return "done", ""


def _asked_otherwise(changed: Sequence[str], key: StageKey, run: Run, prompts: bytes) -> tuple[Standing, str]:
    """A run that was begun for something else: stale, or partial where what is drawn stays and more is added."""
    lost = growth.lost(run, key["rollouts"], prompts) if growth.GROWING.issuperset(changed) else []
    if lost or not growth.GROWING.issuperset(changed):
        told = f" ({lost[0]}{'; ...' if len(lost) > 1 else ''})" if lost else ""
        return "stale", f"changed: {', '.join(changed)}{told}"
    return "partial", f"to grow: {' and '.join(changed)}"


def _changed(stamp: Mapping[str, Any], key: StageKey) -> list[str]:
    """What is asked for otherwise than when the run was begun. Where and by which code it is drawn is none of it: that
    decides roundings, and stands in the run's log for each shard."""
    before, now = ({name: value for name, value in one.items() if name not in _WHERE}
                   for one in (stamp["made_from"], key))
    return stamps.differing(before, now)


def stored(out: Path, name: str) -> Run | None:
    """A run as far as it is there; None where there is none that can be read."""
    from canopy_stats.store import open_run

    if not (out / "runs" / name / "manifest.json").is_file():
        return None
    try:
        return open_run(out / "runs" / name, allow_partial=True)
    except UserError:
        return None


def finished(study: Study, out: Path) -> dict[str, Run] | None:
    """Every run of a study, opened; None as long as one is missing, unfinished or stale."""
    runs = {}
    for name in study.runs:
        run = stored(out, name)
        if run is None:
            return None
        if not _is_done(study, out, name, run):
            return None
        runs[name] = run
    return runs


def _is_done(study: Study, out: Path, name: str, run: Run) -> bool:
    planned = study.runs[name]
    key, prompts = asked(study, name), _prompts(study, planned.task).lines
    if key is not None:
        return _judged(key, stamps.stamped(out, _stamp(name)), run, prompts)[0] == "done"
    # A loaded model has no stamp; what else was asked stands in the run.
    drawn = (run.config.policy, run.config.seed) == (study.policy, study.seed)
    return run.complete and run.manifest["finished"] is not None and drawn and growth.alike(
        run, study.rollouts, prompts)


# --- runs that were asked for otherwise -------------------------------------------------------------------------


def set_aside(study: Study, out: Path, stale: Sequence[RunState], redraw: bool) -> list[str]:
    """Move stale runs to OUT/stale, where that was allowed, and tell each; UserError otherwise."""
    if stale and not redraw:
        listed = "; ".join(f"{s.name} ({s.why})" for s in stale[:3]) + ("; ..." if len(stale) > 3 else "")
        raise UserError(
            f"{len(stale)} of {len(study.runs)} runs in {out / 'runs'} were drawn from something else: {listed}. "
            "Nothing was changed. Draw them again with --redraw, which moves the old ones to "
            f"{out / STALE}; or undo the change, or choose another --out.")
    return [f"  {one.name}: stale ({one.why}); moved to {STALE}/{_move(out, one.name)}" for one in stale]


def _move(out: Path, name: str) -> str:
    files.make_folder(out / STALE)
    before = sum(1 for _ in (out / STALE).glob(f"{name}-*"))
    target = out / STALE / f"{name}-{before + 1}"
    os.replace(out / "runs" / name, target)
    stamps.forget(out, _stamp(name))
    return target.name
