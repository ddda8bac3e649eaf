"""Kill a run with SIGKILL at random moments, resume it, and compare its content with that of an uninterrupted run.

    python analysis/stress_resume.py --kills 100
    python analysis/stress_resume.py --kills 20 --model data/models/alder/base

A run is started in a process of its own and killed after a random time, again and again, until it is complete; then
the next run begins, until all kills are spent. Every completed run must have the content hash of the uninterrupted one.

With ``--kills 100`` on two busy cores: 100 kills (11 before the first shard was stored, 3 in the middle of a write);
43 runs completed, 43 with the content hash of the uninterrupted run.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from canopy_stats import files, open_run
from canopy_stats.schema import SamplingPolicy, UserError

PROMPTS = 16
ROLLOUTS = 128
PRELOAD = ["torch", "transformers", "canopy_stats.generation.torch_engine", "canopy_stats.generation.oracle"]

Target = Callable[[Path], None]


@dataclass
class Outcome:
    """What happened: ``hits`` tells for each kill how many shards were stored and whether a write was cut."""

    expected: str = ""
    hits: list[tuple[int, bool]] = field(default_factory=list)
    hashes: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return bool(self.hashes) and all(h == self.expected for h in self.hashes)

    def summary(self) -> str:
        cut = sum(half for _, half in self.hits)
        early = sum(shards == 0 for shards, _ in self.hits)
        equal = sum(h == self.expected for h in self.hashes)
        return (f"{len(self.hits)} kills ({early} before the first shard was stored, {cut} in the middle of a write); "
                f"{len(self.hashes)} runs completed, {equal} with the content hash of the uninterrupted run")


def draw_oracle(out: Path) -> None:
    """A run of a chain of 40 states, long enough to be hit anywhere."""
    import numpy as np

    from canopy_stats import generate
    from canopy_stats.generation.oracle import MarkovLM

    table = np.random.default_rng(0).dirichlet(np.full(40, 0.5), size=40)
    table[:, -1] = 0.03
    table[:, :-1] *= 0.97 / table[:, :-1].sum(axis=1, keepdims=True)
    table[-1] = np.eye(40)[-1]
    prompts = [[i % 39] for i in range(39)][:PROMPTS]
    generate(MarkovLM(table, end_state=39), prompts, out, family="oracle", variant="base", task="stress",
             n_rollouts=ROLLOUTS, policy=SamplingPolicy(max_new_tokens=40), seed=5, drift_tokens=64, progress=False)


def draw_model(model: str, out: Path) -> None:
    """A run of a checkpoint on prompts of the project."""
    from canopy_stats import generate

    prompts = [f"Once upon a time, in place {i}," for i in range(PROMPTS)]
    generate(model, prompts, out, family="stress", variant="base", task="stress", n_rollouts=ROLLOUTS,
             policy=SamplingPolicy(max_new_tokens=40), seed=5, drift_tokens=64, progress=False)


def stress(draw: Target, kills: int, folder: Path, *, seed: int = 0, preload: Sequence[str] = PRELOAD,
           report: Callable[[str], None] = print) -> Outcome:
    """Spend ``kills`` on runs of ``draw`` in ``folder``; every run is let through to its end after its kills."""
    rng, outcome = random.Random(seed), Outcome()
    # The server imports the heavy packages once; every run is a fresh process that has drawn nothing.
    multiprocessing.get_context("forkserver").set_forkserver_preload(list(preload))
    _let_through(draw, folder / "first")  # also waits until the server has imported everything
    duration = _let_through(draw, folder / "whole")
    outcome.expected = open_run(folder / "whole").content_hash
    if open_run(folder / "first").content_hash != outcome.expected:
        raise RuntimeError("two uninterrupted runs differ: nothing can be learnt from interrupted ones")
    report(f"uninterrupted: {duration:.1f} s, content {outcome.expected[:16]}")
    while len(outcome.hits) < kills:
        out, before = folder / f"run-{len(outcome.hashes)}", len(outcome.hits)
        while len(outcome.hits) < kills and _killed(draw, out, rng.uniform(0, duration)):
            outcome.hits.append(_state(out))
        _let_through(draw, out)
        outcome.hashes.append(open_run(out).content_hash)
        report(f"{out.name}: {len(outcome.hits) - before} kills, then complete, content {outcome.hashes[-1][:16]}")
        shutil.rmtree(out)
    return outcome


def _start(draw: Target, out: Path) -> multiprocessing.process.BaseProcess:
    process = multiprocessing.get_context("forkserver").Process(target=draw, args=(out,))
    process.start()
    return process


def _let_through(draw: Target, out: Path) -> float:
    """Run to the end, and tell how many seconds it took."""
    start = time.monotonic()
    process = _start(draw, out)
    process.join()
    if process.exitcode:
        raise RuntimeError(f"the run in {out} failed with exit code {process.exitcode}")
    return time.monotonic() - start


def _killed(draw: Target, out: Path, after: float) -> bool:
    """Start the run and kill it after so many seconds; False if it was complete before."""
    process = _start(draw, out)
    process.join(after)
    if process.exitcode is not None and process.exitcode != 0:
        raise RuntimeError(f"the run in {out} failed with exit code {process.exitcode}")
    process.kill()
    process.join()
    return process.exitcode != 0


def _state(out: Path) -> tuple[int, bool]:
    """(shards stored, whether a half-written file lies there) after a kill."""
    half = out.is_dir() and any(files.is_temporary(p) for p in out.rglob("*"))
    try:
        return len(open_run(out, allow_partial=True).shards), half
    except UserError:  # killed before the run had a manifest or its prompts
        return 0, half


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--model", help="a checkpoint's folder; without it, a Markov chain as a transformers model")
    options = parser.parse_args()
    draw = partial(draw_model, options.model) if options.model else draw_oracle
    with tempfile.TemporaryDirectory() as folder:
        outcome = stress(draw, options.kills, Path(folder), seed=options.seed)
    print(outcome.summary())
    return 0 if outcome.ok else 1


if __name__ == "__main__":
    sys.exit(main())
