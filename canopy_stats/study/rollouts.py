"""Which of a study's runs are drawn, from the stamps alone: no model is loaded to find that nothing is missing.

A run's stamp says what was asked when it was begun, and the run's content hash once it is complete. A run that was
asked for otherwise is stale. Rollouts are dear: they are never drawn over unless that is asked for, and never deleted.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from canopy_stats import files
from canopy_stats.schema import UserError
from canopy_stats.study import stamps
from canopy_stats.study.prompts import chosen
from canopy_stats.study.spec import Checkpoint, Study

if TYPE_CHECKING:
    from canopy_stats.store import Run

Drawn = Literal["done", "partial", "stale", "missing"]
Key = dict[str, Any]
STALE = "stale"
"""Folder of the runs that were moved aside."""


@dataclass(frozen=True, slots=True)
class RunState:
    """How far one run is: ``rollouts`` and ``tokens`` stored of ``wanted`` rollouts, and what changed if stale."""

    name: str
    state: Drawn
    rollouts: int
    tokens: int
    wanted: int
    why: str = ""


def asked(study: Study, name: str) -> Key | None:
    """Everything in a study that decides a run; None where the model is a loaded object, which the engine hashes."""
    run = study.runs[name]
    if not isinstance(run.checkpoint.model, str):
        return None
    prompts = chosen(study.tasks[run.task], study.prompts_per_task, study.few_shot, run.task)
    return {"task": run.task, "family": run.family, **_identity(run.checkpoint), "prompts": prompts.sha256,
            "law": study.policy.to_dict(), "rollouts": study.rollouts, "seed": study.seed, "engine": study.engine,
            "batch_size": study.batch_size, "device": study.device}


def _identity(checkpoint: Checkpoint) -> Key:
    """A checkpoint with the content of its files in the place of their paths."""
    found = {name: stamps.model_identity(path) if path is not None else None
             for name in ("model", "adapter", "tokenizer") for path in [getattr(checkpoint, name)]}
    later = {"template_kwargs"} if not checkpoint.template_kwargs else set()  # stamps of before know no such key
    return {**checkpoint.model_dump(exclude=later), **found}


# --- stamps of runs ---------------------------------------------------------------------------------------------


def begin(study: Study, out: Path, name: str) -> Key | None:
    """Stamp what is asked, before the first rollout, and give it; a run that is there keeps the stamp that it has."""
    stamp = stamps.stamped(out, _stamp(name))
    if stamp is not None and (out / "runs" / name / "manifest.json").is_file():
        return dict(stamp["made_from"])
    key = asked(study, name)
    if key is not None:
        stamps.write_stamp(out, _stamp(name), _note(key, None))
    return key


def finish(out: Path, name: str, key: Key | None, run: Run) -> None:
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
    prompts = chosen(study.tasks[run.task], study.prompts_per_task, study.few_shot, run.task)
    wanted = prompts.count * study.rollouts
    found = stored(out, name)
    if found is None:
        return RunState(name, "missing", 0, 0, wanted)
    rollouts, tokens = (sum(s[what] for s in found.shards) for what in ("n_rollouts", "n_tokens"))
    state, why = _judged(asked(study, name), stamps.stamped(out, _stamp(name)), found)
    return RunState(name, state, rollouts, tokens, wanted, why)


def _judged(key: Key | None, stamp: Mapping[str, Any] | None, run: Run) -> tuple[Drawn, str]:
    if key is not None and stamp is not None and (changed := _changed(stamp, key)):
        return "stale", f"changed: {', '.join(changed)}"
    if run.damaged:
        return "partial", f"{len(run.damaged)} shards are damaged"
    if not run.complete or run.manifest["finished"] is None:
        return "partial", ""
    if stamp is None or stamp.get("content") != run.content_hash:
        return "partial", "complete, but not yet compared with the study"
    return "done", ""


def _changed(stamp: Mapping[str, Any], key: Key) -> list[str]:
    """What is asked for otherwise than when the run was begun. Our own code is none of it: how a run was drawn stands
    in its manifest, and an edit of this package makes no rollout wrong."""
    before = {name: value for name, value in stamp["made_from"].items() if name != "code"}
    return stamps.differing(before, key)


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
        key, stamp = asked(study, name), stamps.stamped(out, _stamp(name))
        complete = run.complete and run.manifest["finished"] is not None
        if not (complete if key is None else _judged(key, stamp, run)[0] == "done"):
            return None
        runs[name] = run
    return runs


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
    taken = sum(1 for _ in (out / STALE).glob(f"{name}-*"))
    target = out / STALE / f"{name}-{taken + 1}"
    os.replace(out / "runs" / name, target)
    stamps.forget(out, _stamp(name))
    return target.name
