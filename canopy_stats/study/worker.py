"""Drawing and checking a study's runs: here, or in several processes of one thread each.

A small model does not fill two cores: the second thread waits more than it computes. With ``workers`` each checkpoint
is drawn by a process of its own with one thread, so the rollouts do not depend on how many work at a time.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, fields
from itertools import groupby
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from canopy_stats.schema import UserError
from canopy_stats.study import rollouts, taken
from canopy_stats.study.spec import Study
from canopy_stats.study.stamps import code_hash

if TYPE_CHECKING:
    import pandas as pd

    from canopy_stats.checks import CheckReport
    from canopy_stats.store import Run

Say = Callable[[str], None]
QUIET = {"HF_HUB_DISABLE_PROGRESS_BARS": "1"}
"""Loading a model says nothing; heeded when it is set before transformers is imported."""
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
REFUSED = 2


def prompts_of(out: Path, task: str) -> Path:
    """The study's copy of a task's prompts."""
    return out / "prompts" / f"{task}.jsonl"


def draw(study: Study, out: Path, name: str, *, progress: bool = False) -> Run:
    """One run of the study: what is stored stays, and an unfinished run goes on or grows. Its stamp tells what was
    asked."""
    from canopy_stats.runs import generate

    planned = study.runs[name]
    checkpoint = planned.checkpoint
    prompts = prompts_of(out, planned.task)
    key = rollouts.begin(study, out, name, prompts)
    if (folder := taken.source_of(planned)) is not None:
        run = taken.take(planned, folder, out / "runs" / name)
        rollouts.finish(out, name, key, run)
        return run
    source = {f.name: getattr(made, f.name) for made in [checkpoint.source(study.device)] for f in fields(made)}
    run = generate(prompts=prompts, out=out / "runs" / name, family=planned.family,
                   variant=str(checkpoint.variant), task=planned.task, n_rollouts=study.rollouts, policy=study.policy,
                   seed=study.seed, engine=study.engine, engine_options=study.engine_options,
                   batch_size=study.batch_size, drift_tokens=study.drift_tokens, progress=progress, **source)
    rollouts.finish(out, name, key, run)
    return run


def checked(study: Study, run: Run, name: str) -> pd.DataFrame:
    """The findings of a run's check, from the run's folder where they are kept for this content and this code."""
    from canopy_stats.checks import check

    kept = kept_check(study, run)
    if kept is not None:
        return kept
    return keep_check(study, run, check(run, model=model_to_check(study, name), n_sample=study.check_sample))


def model_to_check(study: Study, name: str) -> Any:
    """The loaded model of a run. None where the run itself knows where its model lies, and for an engine of one's own,
    of whose runs only the martingales can be looked at."""
    model = study.runs[name].checkpoint.model
    return None if isinstance(model, str) or not isinstance(study.engine, str) else model


def kept_check(study: Study, run: Run) -> pd.DataFrame | None:
    """The findings that the run's folder keeps, where they are of this content and this code."""
    made_from, kept = check_key(study), run.read_table("check")
    if kept is None or not made_from.items() <= kept[1].items():
        return None
    findings: pd.DataFrame = kept[0].to_pandas()
    return findings


def keep_check(study: Study, run: Run, report: CheckReport) -> pd.DataFrame:
    """Keep a check's findings in the run's folder, and give them as they are read from there."""
    import pyarrow as pa

    table = pa.Table.from_pandas(report.to_frame(), preserve_index=False)
    run.write_table("check", table, check_key(study))
    findings: pd.DataFrame = table.to_pandas()
    return findings


def check_key(study: Study) -> dict[str, Any]:
    """What a check's findings depend on beside the run."""
    return {"sample": study.check_sample, "code": code_hash("checks", "drift", "generation")}


def draw_here(study: Study, out: Path, missing: Sequence[str], say: Say, progress: bool) -> None:
    """The missing runs of the study, one after the other."""
    for number, name in enumerate(missing, 1):
        say(f"  {number} of {len(missing)}: {name}")
        draw(study, out, name, progress=progress)


def quiet() -> AbstractContextManager[None]:
    """While it lasts, models load without progress bars of their own."""
    return environment(QUIET)


@contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """While it lasts, this process and those that it starts have these variables."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


# --- several processes ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """The runs of one checkpoint, drawn and checked by one process."""

    study: Study
    out: Path
    names: tuple[str, ...]

    def to_json(self) -> str:
        """One line, for the process that does it."""
        return json.dumps({"study": self.study.to_json(), "out": str(self.out), "names": self.names})

    @classmethod
    def from_json(cls, line: str) -> Job:
        """What :meth:`to_json` wrote."""
        values = json.loads(line)
        return cls(Study.from_json(values["study"]), Path(values["out"]), tuple(values["names"]))


def draw_apart(study: Study, out: Path, missing: Sequence[str], workers: int, say: Say) -> None:
    """The missing runs of the study, drawn and checked by up to ``workers`` processes at a time."""
    runs = [study.runs[name] for name in missing]
    wanted = [tuple(run.name for run in own)
              for _, own in groupby(runs, key=lambda run: (run.family, run.checkpoint.variant))]
    with ThreadPoolExecutor(workers) as pool:
        started = [pool.submit(_in_a_process, Job(study, out.resolve(), names), say) for names in wanted]
        try:
            for future in started:
                future.result()
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _in_a_process(job: Job, say: Say) -> None:
    """Run a job in a fresh interpreter and pass its lines on; what refuses it there is raised here."""
    variables = {**os.environ, **QUIET, **ONE_THREAD, "PYTHONPATH": import_path()}
    worker = subprocess.Popen([sys.executable, "-m", "canopy_stats.study.worker"], env=variables,
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert worker.stdin is not None and worker.stdout is not None
    with ThreadPoolExecutor(1) as reader:
        errors = reader.submit(_read_all, worker.stderr)
        # The pipe stays open: the worker ends when it closes, and so when this process is killed.
        with worker.stdin as pipe:
            pipe.write(job.to_json().encode() + b"\n")
            pipe.flush()
            for line in worker.stdout:
                say(line.decode().rstrip())
    _raise_for(worker.wait(), errors.result())


def import_path() -> str:
    """Where this package is found, also when it is not installed."""
    return os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]))


def _read_all(stream: IO[bytes] | None) -> str:
    return stream.read().decode(errors="replace") if stream is not None else ""


def _raise_for(code: int, errors: str) -> None:
    if code == REFUSED:
        raise UserError(errors.strip().splitlines()[-1])
    if code < 0:
        raise UserError(f"A process that drew rollouts was stopped (signal {-code}; was memory short?). Run the same "
                        "command again: it resumes.")
    if code:
        raise RuntimeError(f"a process that drew rollouts failed:\n{errors}")


def main(arguments: Sequence[str]) -> int:
    """The worker's side: one job from standard input, or the one at a line of a file, with progress then; a line on
    standard output for each run."""
    job, alone = _job(arguments), bool(arguments)
    if not alone:
        threading.Thread(target=_end_with_the_caller, daemon=True).start()
    try:
        for name in job.names:
            began = time.monotonic()
            run = draw(job.study, job.out, name, progress=alone)
            checked(job.study, run, name)
            tokens = sum(shard["n_tokens"] for shard in run.shards)
            print(f"  {name}: {tokens:,} tokens drawn and checked, {time.monotonic() - began:.0f} s", flush=True)
    except UserError as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        return REFUSED
    return 0


def _job(arguments: Sequence[str]) -> Job:
    if not arguments:
        return Job.from_json(sys.stdin.readline())
    path, number = arguments
    return Job.from_json(Path(path).read_text().split("\n")[int(number)])


def _end_with_the_caller() -> None:
    """A killed caller cannot stop its workers, and a worker that goes on alone would hold the run's lock."""
    sys.stdin.read()
    os._exit(REFUSED)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
