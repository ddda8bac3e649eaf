"""Which of a study's runs are drawn, from the stamps alone: no model is loaded to find that nothing is missing.

A run's stamp says what was asked when it was begun, and the run's content hash once it is complete. Where more rollouts
or more prompts are asked for, a run is partial: it grows. A run that was asked for otherwise is stale. Rollouts are
dear: they are never drawn over unless that is asked for, and never deleted.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from canopy_stats import files
from canopy_stats.schema import UserError
from canopy_stats.study import growth, stamps, taken
from canopy_stats.study.prompts import Chosen, chosen
from canopy_stats.study.spec import Checkpoint, Study

if TYPE_CHECKING:
    from canopy_stats.store import Glance, Run

Standing = Literal["done", "partial", "stale", "missing"]
StageKey = dict[str, Any]
STALE = "stale"
"""Folder of the runs that were moved aside."""
_WHERE = ("code", "engine", "device", "batch_size")


@dataclass(frozen=True, slots=True)
class RunState:
    """How far one run is: ``rollouts`` and ``tokens`` stored of ``wanted`` rollouts, what changed if stale, and its
    content hash if done."""

    name: str
    state: Standing
    rollouts: int
    tokens: int
    wanted: int
    why: str = ""
    content: str = ""


def asked(study: Study, name: str, identity: Callable[[Checkpoint], StageKey] | None = None) -> StageKey | None:
    """Everything in a study that decides a run; None where the model is a loaded object, which the engine hashes.

    ``identity`` is what says what a checkpoint is, where that is known already.
    """
    run = study.runs[name]
    if (folder := taken.source_of(run)) is not None:
        found = taken.opened(run, folder)
        return {"taken": found.content_hash, "rollouts": found.config.n_rollouts}
    if not isinstance(run.checkpoint.model, str):
        return None
    prompts, checkpoint = _prompts(study, run.task), (identity or _identity)(run.checkpoint)
    return {"task": run.task, "family": run.family, **checkpoint, "prompts": prompts.sha256,
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


def _looked_at_once() -> Callable[[Checkpoint], StageKey]:
    """What checkpoints are; the files of each are looked at once, for all of its tasks."""
    known: dict[int, StageKey] = {}

    def identity(checkpoint: Checkpoint) -> StageKey:
        if id(checkpoint) not in known:
            known[id(checkpoint)] = _identity(checkpoint)
        return known[id(checkpoint)]

    return identity


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


def run_states(study: Study, out: Path) -> dict[str, RunState]:
    """How far every run is, by name; each file is compared with its hash once for each change of it."""
    identity = _looked_at_once()
    return {name: _run_state(study, out, name, identity) for name in study.runs}


def _run_state(study: Study, out: Path, name: str, identity: Callable[[Checkpoint], StageKey]) -> RunState:
    run = study.runs[name]
    prompts = _prompts(study, run.task)
    folder = taken.source_of(run)
    wanted = sum(s["n_rollouts"] for s in taken.opened(run, folder).shards) if folder else (
        prompts.count * study.rollouts)
    found = _seen(out, name)
    if found is None:
        return RunState(name, "missing", 0, 0, wanted)
    key, stamp = asked(study, name, identity), stamps.stamped(out, _stamp(name))
    if key is not None and stamp is not None and (changed := _changed(stamp, key)):
        state, why = _asked_otherwise(changed, key, out / "runs" / name, prompts.lines)
    else:
        state, why = _standing(found, stamp)
    return RunState(name, state, found.rollouts, found.tokens, wanted, why,
                    found.content_hash if state == "done" else "")


def _standing(found: Glance, stamp: Mapping[str, Any] | None) -> tuple[Standing, str]:
    """How far a run is that was begun for what is asked."""
    if found.damaged:
        return "partial", f"{found.damaged} shards are damaged"
    if not (found.complete and found.finished):
        return "partial", ""
    if stamp is None or stamp.get("content") != found.content_hash:
        return "partial", "complete, but not yet compared with the study"
    return "done", ""


def _asked_otherwise(changed: Sequence[str], key: StageKey, path: Path, prompts: bytes) -> tuple[Standing, str]:
    """A run that was begun for something else: stale, or partial where what is drawn stays and more is added."""
    from canopy_stats.store import open_run

    lost = growth.lost(open_run(path, allow_partial=True), key["rollouts"], prompts) if growth.GROWING.issuperset(
        changed) else []
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


def _seen(out: Path, name: str) -> Glance | None:
    """What a run holds as far as it is there; None where there is none that can be read."""
    from canopy_stats.store import glance

    if not (out / "runs" / name / "manifest.json").is_file():
        return None
    try:
        return glance(out / "runs" / name)
    except UserError:
        return None


def finished(study: Study, out: Path, states: Mapping[str, RunState]) -> dict[str, str] | None:
    """The content hash of every run of a study; None as long as one is missing, unfinished or stale. ``states`` are
    what :func:`run_states` gives."""
    contents = {}
    for name, state in states.items():
        loaded = not isinstance(study.runs[name].checkpoint.model, str)
        content = _content_of_a_loaded_model(study, out, name) if loaded else state.content
        if not content:
            return None
        contents[name] = content
    return contents


def _content_of_a_loaded_model(study: Study, out: Path, name: str) -> str:
    """It has no stamp; what else was asked stands in the run. Empty where that is not done."""
    from canopy_stats.store import open_run

    found = _seen(out, name)
    if found is None or not (found.complete and found.finished):
        return ""
    run = open_run(out / "runs" / name, allow_partial=True)
    drawn = (run.config.policy, run.config.seed) == (study.policy, study.seed)
    alike = growth.alike(run, study.rollouts, _prompts(study, study.runs[name].task).lines)
    return run.content_hash if drawn and alike else ""


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
