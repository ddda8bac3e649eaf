"""Rollouts drawn by a Slurm array: each of its jobs draws and checks some runs, and starts again where it was ended.

::

    OUT/slurm/jobs.jsonl       a line for each job: the study and its runs
    OUT/slurm/draw.sbatch      the script that is submitted
    OUT/slurm/submitted.json   the number that Slurm gave the array
    OUT/slurm/*.log            what each job says
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from canopy_stats import files
from canopy_stats.schema import UserError
from canopy_stats.study.executors.protocol import Say, Wanted
from canopy_stats.study.worker import QUIET, Job, import_path

FOLDER = "slurm"
MOST_JOBS = 1000
"""Jobs of an array that Slurm takes unless its MaxArraySize says otherwise; more runs share a job."""
_HELD = ("--array", "-a", "--requeue", "--no-requeue", "--output", "-o")
"""What the script itself decides."""


@dataclass(frozen=True)
class Slurm:
    """An array with ``options`` for sbatch (such as ``--gres=gpu:1``), which is submitted, or shown with ``dry_run``.

    The study's folder must be one that the jobs' machines share.
    """

    options: tuple[str, ...] = ()
    dry_run: bool = False
    waits = False

    def __post_init__(self) -> None:
        for option in self.options:
            if not re.match(r"--?\w", option) or "\n" in option:
                raise UserError(f"{option!r} is no option of sbatch; give it as --gres=gpu:1.")
            if _name(option) in _HELD:
                raise UserError(f"{_name(option)} is decided by the study: its jobs are an array that starts again "
                                "where it was ended. Leave it out.")

    def draw(self, out: Path, wanted: Sequence[Wanted], say: Say, progress: bool) -> None:
        """Write the jobs and their script, and submit it; with ``dry_run`` the script is shown alone."""
        jobs = jobs_of(wanted)
        if not jobs:
            say("  Every run is drawn: run the study without --executor slurm.")
            return
        text = script(out.resolve(), len(jobs), self.options)
        if self.dry_run:
            say(text)
            return
        say(_submitted(out.resolve(), jobs, text))


def _name(option: str) -> str:
    return option.split("=")[0].split()[0]


def jobs_of(wanted: Sequence[Wanted]) -> list[Job]:
    """The runs as jobs: one each, or several where there are more than an array may hold."""
    size = -(-sum(len(one.names) for one in wanted) // MOST_JOBS)
    jobs = []
    for one in wanted:
        jobs += [Job(one.study, one.home.resolve(), one.names[i:i + size]) for i in range(0, len(one.names), size)]
    return jobs


def script(out: Path, count: int, options: Sequence[str]) -> str:
    """The script of an array of so many jobs."""
    environment = {**QUIET, "TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": import_path()}
    given, jobs = [*_usual(options), *options], shlex.quote(str(out / FOLDER / "jobs.jsonl"))
    return "\n".join([
        "#!/bin/bash",
        f"#SBATCH --array=0-{count - 1}",
        "#SBATCH --requeue",
        f"#SBATCH --output={out / FOLDER}/%A_%a.log",
        *(f"#SBATCH {option}" for option in given),
        *(f"export {name}={shlex.quote(value)}" for name, value in environment.items()),
        f'exec {shlex.quote(sys.executable)} -c {shlex.quote(_PROGRAM)} {jobs} "$SLURM_ARRAY_TASK_ID"', ""])


_PROGRAM = "import sys; from canopy_stats.study.worker import main; sys.exit(main(sys.argv[1:]))"


def _usual(options: Sequence[str]) -> list[str]:
    """What is said where the options do not."""
    said = {_name(option) for option in options}
    names = {"--job-name=canopy-stats": {"--job-name", "-J"}, "--open-mode=append": {"--open-mode"}}
    return [option for option, alike in names.items() if not said & alike]


def _submitted(out: Path, jobs: Sequence[Job], text: str) -> str:
    """Submit the array; what is said of it."""
    if (left := _number(out)) and (states := _states(left)):
        raise UserError(f"Slurm array {left} still has {sum(states.values())} jobs of this study. Wait for them, or "
                        f"end them with scancel {left}.")
    sbatch = shutil.which("sbatch")
    if sbatch is None:
        raise UserError("There is no sbatch here: run this where jobs are submitted, or look at the script with "
                        "--dry-run.")
    folder = out / FOLDER
    files.make_folder(folder)
    files.write_atomic(folder / "jobs.jsonl", "".join(job.to_json() + "\n" for job in jobs).encode())
    files.write_atomic(folder / "draw.sbatch", text.encode())
    done = subprocess.run([sbatch, "--parsable", str(folder / "draw.sbatch")], capture_output=True, text=True,
                          env=_outside())
    if done.returncode:
        raise UserError(f"sbatch refused the array: {' '.join(done.stderr.split()) or 'it says nothing'}. The script "
                        f"is {folder / 'draw.sbatch'}; --sbatch OPTION adds what your cluster asks for.")
    number = done.stdout.strip().split(";")[0]
    files.write_json(folder / "submitted.json", {"job": number, "jobs": len(jobs)})
    return (f"  Submitted Slurm array {number} of {len(jobs)} jobs. See `canopy-stats status`; when they are done, run "
            "the study without --executor: it goes on from there.")


def _outside() -> Mapping[str, str]:
    """The environment without what an enclosing job says of itself."""
    return {name: value for name, value in os.environ.items() if not name.startswith("SLURM_") or name in _OF_CLUSTER}


_OF_CLUSTER = ("SLURM_CONF", "SLURM_CLUSTERS", "SLURM_JWT")
"""Variables that say where the cluster is, and nothing of a job."""


# --- what became of it ------------------------------------------------------------------------------------------


def told(out: Path) -> list[str]:
    """A line on the array that was submitted for the study in ``out``; none where there was none."""
    number = _number(out)
    if number is None:
        return []
    states = _states(number)
    if states is None:
        return [f"Slurm array {number} was submitted; squeue is not here to tell its state."]
    words = ", ".join(f"{count} {state.lower()}" for state, count in sorted(states.items()))
    return [f"Slurm array {number}: {words or 'no job is left'}; what each said is in {out / FOLDER}."]


def _number(out: Path) -> str | None:
    """The array that was submitted last."""
    try:
        return str(json.loads((out / FOLDER / "submitted.json").read_bytes())["job"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _states(number: str) -> Counter[str] | None:
    """How many jobs of an array are in which state; None where Slurm cannot be asked."""
    squeue = shutil.which("squeue")
    if squeue is None or not number.isdigit():
        return None
    done = subprocess.run([squeue, "-h", "-r", "-o", "%T", "-j", number], capture_output=True, text=True)
    return Counter(done.stdout.split())
