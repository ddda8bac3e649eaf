"""Plan and status of a study of many cells: `python analysis/bench_study.py --families 50 --tasks 100` (10,000 runs).

A cell is a run: a checkpoint of a family on a task. ``--drawn N`` stores the first N of them (a few rollouts of
numbers, without a model, which all of them hold), so that status has files to compare. Prints seconds of plan and
status, first and again: by the clock, and those in which the processor worked for it. ``--against TREE`` has another
checkout of the package look at the same folder, ``--rounds`` times in turn with this one, and prints the ratio of the
processor's seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from canopy_stats.schema import STEP_TERMS, STOP, Prompt, Rollout, RunConfig
from canopy_stats.store import Run, RunWriter, prompts_hash
from canopy_stats.study import Checkpoint, Embedder, Law, ModelFamily, Study
from canopy_stats.study import plan as plans
from canopy_stats.study.pipeline import status
from canopy_stats.study.prompts import choose_prompts
from canopy_stats.study.rollouts import begin, finish
from canopy_stats.study.worker import prompts_of

ROOT = Path(__file__).parents[1]
ROLLOUTS, LENGTH = 4, 10


def study(folder: Path, families: int, tasks: int, prompts: int) -> Study:
    """Models are empty folders: nothing of them is loaded, and what names them by content reads them all the same."""
    paths = {f"task{i}": str(folder / f"task{i}.jsonl") for i in range(tasks)}
    lines = [json.dumps({"id": f"p{i}", "prompt": f"Prompt {i}"}) + "\n" for i in range(prompts)]
    for path in paths.values():
        if not Path(path).exists():
            Path(path).write_text("".join(lines))
    pairs = []
    for i in range(families):
        for arm in ("base", "tuned"):
            if (folder / f"model{i}-{arm}").exists():
                continue
            (folder / f"model{i}-{arm}").mkdir()
            (folder / f"model{i}-{arm}" / "config.json").write_text(json.dumps({"number": i, "arm": arm}))
        pairs.append(ModelFamily(name=f"family{i}", base=Checkpoint(model=str(folder / f"model{i}-base")),
                                 tuned=Checkpoint(model=str(folder / f"model{i}-tuned"))))
    return Study(title="Many cells", families=pairs, tasks=paths, rollouts=ROLLOUTS, law=Law(max_new_tokens=4 * LENGTH),
                 embedders=[Embedder(model="tfidf")])


def draw(asked: Study, out: Path, names: Sequence[str]) -> None:
    """Store runs of numbers: one that is drawn, and copies of it under the other names."""
    for i, name in enumerate(names):
        if i == 0:
            run = draw_one(asked, out, name)
            continue
        shutil.copytree(run.path, out / "runs" / name)
        finish(out, name, begin(asked, out, name, prompts_of(out, asked.runs[names[0]].task)), run)


def draw_one(asked: Study, out: Path, name: str) -> Run:
    """Store one run of numbers."""
    from canopy_stats.generation.prompt_file import prompt_hash, read_prompts

    planned, rng = asked.runs[name], np.random.default_rng(0)
    path = prompts_of(out, planned.task)
    if not path.exists():
        choose_prompts(asked.tasks[planned.task], None, path)
    prompts = [Prompt(i, prompt_hash(source), source, (1,)) for i, source in read_prompts(path)]
    config = RunConfig(planned.family, str(planned.checkpoint.variant), planned.task, ROLLOUTS, 0, asked.policy,
                       "numbers", 32, prompts_hash(prompts), {"dtype": "float32"}, "bench")
    key = begin(asked, out, name, path)
    with RunWriter(out / "runs" / name, config, prompts) as writer:
        for shard in writer.missing:
            drawn = [numbers(prompt, rollout, rng) for prompt, rollout in shard.pairs]
            writer.write_shard(shard, drawn, lambda ids: "x" * len(ids), batch_size=32)
        writer.finish(None)
        run = writer.run()
    finish(out, name, key, run)
    return run


def numbers(prompt: int, rollout: int, rng: np.random.Generator) -> Rollout:
    """A rollout without a model."""
    terms = rng.random((len(STEP_TERMS), LENGTH), dtype=np.float32)
    return Rollout(prompt, rollout, rng.integers(0, 50_000, LENGTH, dtype=np.int32), STOP,
                   dict(zip(STEP_TERMS, terms, strict=True)))


def timed(what: str, work: Callable[[], object]) -> float:
    """The processor's seconds of the second time."""
    for again in ("first", "again"):
        began, busy = time.perf_counter(), time.process_time()
        work()
        took, worked = time.perf_counter() - began, time.process_time() - busy
        print(f"{what:<8} {again}: {took:7.1f} s, of which {worked:.2f} s at work", flush=True)
    return worked


def look(asked: Study, out: Path) -> dict[str, float]:
    return {"plan": timed("plan", lambda: plans.told(asked, out)),
            "status": timed("status", lambda: status(asked, out))}


def compare(trees: Sequence[Path], options: argparse.Namespace, folder: Path) -> None:
    """Both trees look at one folder in turn, each in a process of its own."""
    own = [sys.executable, __file__, *(f"--{name}={getattr(options, name)}" for name in SIZES), f"--at={folder}"]
    found: dict[Path, list[dict[str, float]]] = {tree: [] for tree in trees}
    for tree in [*trees] * options.rounds:
        done = subprocess.run(own, env={**os.environ, "PYTHONPATH": str(tree)}, capture_output=True, text=True,
                              check=True)
        found[tree].append(json.loads(done.stdout.splitlines()[-1]))
    for what in ("plan", "status"):
        other, here = ([one[what] for one in found[tree]] for tree in trees)
        print(f"{what}: {statistics.median(other):.2f} s there, {statistics.median(here):.2f} s here: "
              f"{statistics.median(other) / statistics.median(here):.1f} times")


SIZES = {"families": 50, "tasks": 100, "prompts": 20, "drawn": 0}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in SIZES.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--against", type=Path, metavar="TREE", help="another checkout")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--at", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.at:
        print(json.dumps(look(study(options.at, options.families, options.tasks, options.prompts), options.at / "out")))
        return 0
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        asked, out = study(folder, options.families, options.tasks, options.prompts), folder / "out"
        draw(asked, out, list(asked.runs)[:options.drawn])
        print(f"{len(asked.runs):,} runs, {options.drawn:,} of them drawn")
        if options.against:
            compare([options.against, ROOT], options, folder)
        else:
            look(asked, out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
