"""Kill a study with SIGKILL in each of its stages, start it again, and compare its results with an uninterrupted one.

    python analysis/stress_study.py --each 3 --random 20
    python analysis/stress_study.py --each 6 --random 0 --stages generate --workers
    python analysis/stress_study.py --chain --each 9 --random 19 --out analysis/results/stress_study.json

A study of one small family (or of the tests' Markov chain, which needs no torch, with two figures) is run in a process
of its own and killed when it says that a stage began, a random part of that stage's time later; or at a random moment
of the whole. After a few kills it is let through to its end. Every
result (runs, checks, embeddings, verdicts, panels, fits, tables, figures, report) must have the content hash of the
uninterrupted study: the bytes of every file, the times aside.

With ``--each 2 --random 6`` on two busy cores: 24 kills (generate 1, check 3, embed 2, judge 2, panel 2, fit 2, tables
2, figures 6, report 1, end 3); 8 studies completed, 8 with the content hash of the uninterrupted one.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import runpy
import shutil
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

from canopy_stats import files
from canopy_stats.study.result import content_hash, contents
from canopy_stats.study.stages import KINDS as STAGES

ROOT = Path(__file__).resolve().parents[1]
PRELOAD = ["torch", "transformers", "pandas", "matplotlib.pyplot", "sklearn.feature_extraction.text",
           "canopy_stats.generation.torch_engine", "canopy_stats.study", "canopy_stats.slope"]
CHAIN_PRELOAD = ["pandas", "matplotlib.pyplot", "sklearn.feature_extraction.text", "canopy_stats.study",
                 "canopy_stats.slope"]
KILLS_A_RUN = 4
CHAIN = ROOT / "tests" / "study" / "killed.py"
Work = Callable[[Path, Connection], None]
"""Runs the study into a folder, and sends what it says."""

STUDY = """\
title: A small study that is killed
families:
  - name: alder
    base: {data}/models/alder/base
    tuned: {data}/models/alder/instruct
tasks: {{math: {data}/prompts/math.jsonl, stories: {data}/prompts/stories.jsonl}}
prompts_per_task: 6
law: {{max_new_tokens: 24}}
rollouts: 4
drift_tokens: 32
check_sample: 2
{workers}
embedders: [tfidf]
judge: {{kind: embedding, embedder: tfidf, threshold: 0.5, m: 3}}
ablations:
  - {{name: top-k-20, law: {{top_k: 20}}}}
"""


IN_RUNS = ("check", "embed", "judge")
"""Stages that keep tables in the folders of runs."""


@dataclass
class Outcome:
    """Kills by the stage that they hit, and the content of each study that was let through."""

    expected: str
    seconds: dict[str, float]
    hits: Counter[str] = field(default_factory=Counter)
    hashes: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return bool(self.hashes) and all(h == self.expected for h in self.hashes)

    def summary(self) -> str:
        hits = ", ".join(f"{stage} {self.hits[stage]}" for stage in ("start", *STAGES, "end") if self.hits[stage])
        equal = sum(h == self.expected for h in self.hashes)
        return (f"{self.hits.total()} kills ({hits}); {len(self.hashes)} studies completed, {equal} with the content "
                "hash of the uninterrupted one")


def of_file(study: Path, out: Path, said: Connection) -> None:
    """One run of a study file, whose words go to the parent."""
    from canopy_stats.study import read_study, run_study

    run_study(read_study(study).study, out, say=said.send, progress=False)


def of_chain(folder: Path, out: Path, said: Connection) -> None:
    """The same of the tests' Markov chain."""
    from canopy_stats.report import catalogue
    from canopy_stats.study import run_study

    catalogue.CATALOGUE["figures"] = {name: catalogue.FIGURES[name] for name in ("slopes", "lengths")}
    study = runpy.run_path(str(CHAIN))["study"](folder)
    warnings.simplefilter("ignore")
    run_study(study, out, say=said.send, progress=False)


@dataclass
class Child:
    """A study at work in a process of its own."""

    process: multiprocessing.process.BaseProcess
    words: Connection
    heard: list[str] = field(default_factory=list)

    def wait_for(self, line: str, limit: float = 300.0) -> bool:
        """Listen until it says this line; False when it ends before."""
        end = time.monotonic() + limit
        while line not in self.heard and time.monotonic() < end:
            try:
                if self.words.poll(0.05):
                    self.heard.append(str(self.words.recv()))
                elif not self.process.is_alive():
                    return False
            except EOFError:
                return line in self.heard
        return line in self.heard

    def kill(self) -> str:
        """Kill it, and name the stage that it was in."""
        self.process.kill()
        self.process.join()
        while True:
            try:
                if not self.words.poll():
                    break
                self.heard.append(str(self.words.recv()))
            except EOFError:
                break
        begun = [line.removesuffix(" ...") for line in self.heard if line.endswith(" ...")]
        if self.process.exitcode == 0:
            return "end"
        return begun[-1] if begun else "start"


def start(work: Work, out: Path) -> Child:
    words, said = multiprocessing.get_context("forkserver").Pipe(duplex=False)
    process = multiprocessing.get_context("forkserver").Process(target=work, args=(out, said))
    process.start()
    said.close()
    return Child(process, words)


def let_through(work: Work, out: Path) -> dict[str, float]:
    """Run to the end; tells the seconds of each stage, by what it said."""
    child = start(work, out)
    while child.wait_for("\0", limit=0.2) or child.process.is_alive():
        pass
    child.process.join()
    if child.process.exitcode:
        raise RuntimeError(f"the study in {out} failed with exit code {child.process.exitcode}: {child.heard[-3:]}")
    child.kill()
    return {line.split(":")[0]: float(line.split(": ")[1].removesuffix(" s")) for line in child.heard
            if line.split(":")[0] in STAGES and line.endswith(" s")}


def stress(work: Work, folder: Path, each: int, at_random: int, *, stages: Sequence[str] = STAGES, seed: int = 0,
           preload: Sequence[str] = PRELOAD, report: Callable[[str], None] = print) -> Outcome:
    """``each`` kills in every stage and ``at_random`` at random moments of the whole; see the module's docstring."""
    rng = random.Random(seed)
    multiprocessing.get_context("forkserver").set_forkserver_preload(list(preload))
    let_through(work, folder / "first")  # also waits until the server has imported everything
    outcome = Outcome("", let_through(work, folder / "whole"))
    outcome.expected = content_hash(folder / "whole")
    if content_hash(folder / "first") != outcome.expected:
        raise RuntimeError("two uninterrupted studies differ: nothing can be learnt from interrupted ones")
    report(f"uninterrupted: {sum(outcome.seconds.values()):.1f} s, content {outcome.expected[:16]}")
    aims: list[str | None] = [s for s in stages for _ in range(each) if s in outcome.seconds] + [None] * at_random
    rng.shuffle(aims)
    groups = [aims[i:i + KILLS_A_RUN] for i in range(0, len(aims), KILLS_A_RUN)]
    for number, group in enumerate(groups):
        out = folder / f"killed-{number}"
        hit = [killed(work, out, aim, outcome.seconds, rng) for aim in group]
        let_through(work, out)
        outcome.hits.update(hit)
        outcome.hashes.append(content_hash(out))
        report(f"killed in {', '.join(hit)}; then complete, content {outcome.hashes[-1][:16]}")
        if outcome.hashes[-1] != outcome.expected:
            report(f"  differing: {', '.join(differing(folder / 'whole', out))}")
        shutil.rmtree(out)
    return outcome


def differing(whole: Path, out: Path) -> list[str]:
    """The results of two studies that are not the same."""
    one, other = contents(whole), contents(out)
    return [name for name in sorted(one.keys() | other.keys()) if one.get(name) != other.get(name)]


def killed(work: Work, out: Path, aim: str | None, seconds: dict[str, float], rng: random.Random) -> str:
    """Start the study and kill it in a stage, or at a random moment; names the stage that was hit.

    A stage that is already done takes no time when the study is resumed: its results are thrown away before. With the
    runs goes what they keep of later stages.
    """
    if aim is not None:
        (out / "stages" / f"{aim}.json").unlink(missing_ok=True)
    if aim == "generate":
        shutil.rmtree(out / "runs", ignore_errors=True)
        for stamp in (one for kind in IN_RUNS for one in (out / "stages").glob(f"{kind}*.json")):
            stamp.unlink()
    child = start(work, out)
    if aim is None:
        child.wait_for("\0", limit=rng.uniform(0, sum(seconds.values())))
    elif child.wait_for(f"{aim} ..."):
        time.sleep(rng.uniform(0, max(seconds[aim], 0.05)))
    return child.kill()


def write_study(folder: Path, workers: bool) -> Path:
    """The study file in a folder."""
    path = folder / "study.yaml"
    path.write_text(STUDY.format(data=ROOT / "data", workers="workers: 2" if workers else ""), encoding="utf-8")
    return path


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--each", type=int, default=3, help="kills in each stage")
    parser.add_argument("--random", type=int, default=20, help="kills at random moments")
    parser.add_argument("--stages", nargs="*", choices=STAGES, default=list(STAGES), help="stages to kill (all)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--workers", action="store_true", help="draw with two worker processes")
    parser.add_argument("--chain", action="store_true", help="a study of a Markov chain, without torch")
    parser.add_argument("--out", type=Path, help="keep what happened here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        work = partial(of_chain, folder) if options.chain else partial(of_file, write_study(folder, options.workers))
        outcome = stress(work, folder, options.each, options.random, stages=options.stages, seed=options.seed,
                         preload=CHAIN_PRELOAD if options.chain else PRELOAD, report=partial(print, flush=True))
    print(outcome.summary())
    if options.out is not None:
        asked = {name: getattr(options, name) for name in ("each", "random", "stages", "seed", "workers", "chain")}
        files.write_json(options.out, {**asked, "ok": outcome.ok, "kills": outcome.hits.total(), "hits": outcome.hits,
                                      "expected": outcome.expected, "hashes": outcome.hashes})
    return 0 if outcome.ok else 1


if __name__ == "__main__":
    sys.exit(main())
