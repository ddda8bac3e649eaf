"""What of a study is done, stale or missing, from the stored content hashes. Nothing is loaded and nothing changed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from canopy_stats.study import drawn
from canopy_stats.study.chain import later_stages
from canopy_stats.study.parts import MAIN, Part, parts_of
from canopy_stats.study.record import Study

if TYPE_CHECKING:
    import pandas as pd


def runs_status(study: Study, out: Path) -> pd.DataFrame:
    """A row for each run: part, run, state (done, partial, stale, missing), rollouts, wanted, tokens, why."""
    import pandas as pd

    rows = [{"part": part.name, "run": s.name, "state": s.state, "rollouts": s.rollouts, "wanted": s.wanted,
             "tokens": s.tokens, "why": s.why} for part, s in _run_states(study, out)]
    return pd.DataFrame(rows)


def _run_states(study: Study, out: Path) -> Iterator[tuple[Part, drawn.RunState]]:
    for part in parts_of(study, out):
        if part.lender is None:
            yield from ((part, drawn.run_state(part.study, part.home, name)) for name in part.study.cells())


def stages_status(study: Study, out: Path) -> pd.DataFrame:
    """A row for each later stage: stage, state (done, stale, missing), why."""
    import pandas as pd

    rows: list[dict[str, str]] = []
    for stage in later_stages(parts_of(study, out)):
        state, why = stage.state(out)
        before = _unfinished(stage.kind, rows)
        if state == "done" and before:
            state, why = "stale", f"waits for {before[0]}"
        rows.append({"stage": stage.name, "state": state, "why": why})
    return pd.DataFrame(rows)


def _unfinished(kind: str, rows: list[dict[str, str]]) -> list[str]:
    """The earlier stages whose results will be made anew, and which this one reads from the disk."""
    waiting = [row["stage"] for row in rows if row["state"] != "done"]
    return {"fit": [name for name in waiting if name == "panel"], "tables": waiting, "figures": waiting,
            "report": waiting}.get(kind, [])


def told(study: Study, out: Path) -> str:
    """Both tables for the terminal, and how far the whole is."""
    from canopy_stats.report import tables

    runs, stages = runs_status(study, out), stages_status(study, out)
    if (runs["part"] == MAIN).all():
        runs = runs.drop(columns="part")
    shown = runs.assign(rollouts=[f"{a:,} of {b:,}" for a, b in zip(runs["rollouts"], runs["wanted"], strict=True)],
                        tokens=runs["tokens"].map("{:,}".format)).drop(columns="wanted")
    done, tokens = (runs["state"] == "done").sum(), runs["tokens"].sum()
    return "\n".join([
        f"{study.title}: {out}", "", tables.console(shown), "", tables.console(stages), "",
        f"{done} of {len(runs)} runs are done, {tokens:,} tokens so far; "
        f"{(stages['state'] == 'done').sum()} of {len(stages)} later stages are done."])


def complete(study: Study, out: Path) -> bool:
    """Whether everything is done."""
    return bool((runs_status(study, out)["state"] == "done").all()
                and (stages_status(study, out)["state"] == "done").all())
