"""Runs that a study takes as they are: rollouts that were imported, or drawn for something else."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from canopy_stats import files
from canopy_stats.schema import EXACT, UserError
from canopy_stats.study.spec import PlannedRun

if TYPE_CHECKING:
    from canopy_stats.store import Run


def source_of(planned: PlannedRun) -> Path | None:
    """The folder that a planned run is taken from; None where it is drawn."""
    folder = planned.checkpoint.runs.get(planned.task)
    return Path(folder) if folder is not None else None


def opened(planned: PlannedRun, folder: Path) -> Run:
    """The run in that folder, whole, with exact terms, and under the names that the study gives it."""
    from canopy_stats.store import open_run

    run, key = open_run(folder), f"'runs' of {planned.family} {planned.checkpoint.variant}, {planned.task}"
    own = (run.config.family, str(run.config.variant), run.config.task)
    wanted = (planned.family, str(planned.checkpoint.variant), planned.task)
    if own != wanted:
        raise UserError(f"{key}: the run in {folder} is called {'/'.join(own)}; the study calls it {'/'.join(wanted)}. "
                        "Name both alike: the run when it is imported, or the study's family, variant and task.")
    if run.config.terms != EXACT:
        raise UserError(f"{key}: the run in {folder} has no exact entropies ({run.config.terms}), which the slopes "
                        "need. Import it with model=.")
    return run


def take(planned: PlannedRun, folder: Path, out: Path) -> Run:
    """Copy a run's folder into the study's, whole or not at all; one with that content is left as it is.

    UserError where something else lies there: rollouts are dear, and what no stamp names is not ours to delete.
    """
    from canopy_stats.store import open_run

    wanted = opened(planned, folder)
    if (out / "manifest.json").is_file() and open_run(out).content_hash == wanted.content_hash:
        return open_run(out)
    if out.exists():
        raise UserError(f"{out} holds something else than the run in {folder}, and nothing was changed. Move it away, "
                        "or choose another --out.")
    files.make_folder(out.parent)
    half = out.with_name(f".{out.name}.taken")
    shutil.rmtree(half, ignore_errors=True)
    shutil.copytree(wanted.path, half)
    os.replace(half, out)
    return open_run(out)
