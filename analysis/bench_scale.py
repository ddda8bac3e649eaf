"""A large run written and analysed: seconds and peak memory of each step, each in a process of its own.

    python analysis/bench_scale.py --prompts 10000 --rollouts 100 --length 100     # 1e8 tokens, 6 GB, some minutes
    python analysis/bench_scale.py --prompts 200 --rollouts 100 --length 20        # a small one

The rollouts are numbers without a model: lengths are geometric, terms random. Prints a table, and the milliseconds
that the first and the last tenth of the shards took to write.

With ``--prompts 10000`` on two busy cores (1,000,000 rollouts, 98 million tokens, 5,000 shards, 3.9 GB): written in
765 s, a shard in 76 ms in the end; opened in 121 s the first time and 1.4 s again (0.4 s on a quiet machine). Peak
memory above the imports: opening 55 MB, the check's martingales 363 MB, 32 rollouts of a check 30 MB, measure 693 MB,
cap curve 94 MB, rho 44 MB. The same in the first format, with all steps in memory: martingales 4,059 MB, cap curve
5,391 MB, rho 5,317 MB.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from canopy_stats.schema import LENGTH, STEP_TERMS, STOP, Prompt, Rollout, RunConfig, SamplingPolicy
from canopy_stats.store import RunWriter, ShardPlan, open_run, prompts_hash


@dataclass(frozen=True)
class Size:
    """P prompts of M rollouts of about ``length`` tokens."""

    prompts: int
    rollouts: int
    length: int


def write(size: Size, out: Path) -> list[float]:
    """Seconds of each shard."""
    prompts = [Prompt(f"p{i}", f"{i:064x}", f"prompt {i}", (1, i)) for i in range(size.prompts)]
    config = RunConfig("bench", "base", "numbers", size.rollouts, 0, SamplingPolicy(max_new_tokens=4 * size.length),
                       "numbers", 32, prompts_hash(prompts), {"dtype": "float32"}, "bench")
    rng, seconds = np.random.default_rng(0), []
    with RunWriter(out, config, prompts) as writer:
        for shard in writer.missing:
            drawn = list(numbers(shard, size, rng))
            began = time.perf_counter()
            writer.write_shard(shard, drawn, in_words, batch_size=32)
            seconds.append(time.perf_counter() - began)
        writer.finish(None)
    return seconds


def in_words(ids: Sequence[int]) -> str:
    """A text of up to 12 words, unlike most others."""
    return " ".join(f"w{i % 500}" for i in ids[:12])


def numbers(shard: ShardPlan, size: Size, rng: np.random.Generator) -> list[Rollout]:
    """Rollouts without a model."""
    cap, drawn = 4 * size.length, []
    for prompt, rollout in shard.pairs:
        n = min(int(rng.geometric(1 / size.length)), cap)
        terms = rng.random((len(STEP_TERMS), n), dtype=np.float32)
        terms[2] *= -1
        drawn.append(Rollout(prompt, rollout, rng.integers(0, 50_000, n, dtype=np.int32), LENGTH if n == cap else STOP,
                             dict(zip(STEP_TERMS, terms, strict=True))))
    return drawn


# --- what is timed ------------------------------------------------------------------------------------------------


def first_open(out: Path) -> None:
    open_run(out)


def martingales(out: Path) -> None:
    from canopy_stats.checks import bookkeeping, martingales

    run = open_run(out)
    martingales(run)
    bookkeeping(run)


def sampled(out: Path) -> None:
    from canopy_stats.drift import choose_some, stored_rollouts

    run = open_run(out)
    stored_rollouts(run, choose_some(run, 32, 0))


def measured(out: Path) -> None:
    from canopy_stats import measure

    measure(open_run(out))


def capped(out: Path) -> None:
    from canopy_stats.metrics.cap import cap_curve

    cap_curve(open_run(out))


def correlated(out: Path) -> None:
    from canopy_stats.metrics.rho import rho

    rho(open_run(out), n_boot=0)


def embedded(out: Path) -> None:
    from canopy_stats import embed

    embed(open_run(out), "tfidf")


def measured_with_texts(out: Path) -> None:
    from canopy_stats import measure

    measure(open_run(out), embedder="tfidf")


STEPS: dict[str, Callable[[Path], None]] = {
    "open, first time": first_open, "open, again": first_open, "check's martingales": martingales,
    "32 rollouts of a check": sampled, "measure, no embedder": measured, "cap curve": capped,
    "rho without bootstrap": correlated, "embed, tfidf": embedded, "measure, embedded": measured_with_texts}


def apart(step: Callable[[Path], None], out: Path) -> tuple[float, float, float]:
    """Seconds, peak megabytes and megabytes read of a step in a fresh process, above those of its imports."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(_timed, (step, out))


def _timed(step: Callable[[Path], None], out: Path) -> tuple[float, float, float]:
    import canopy_stats.checks
    import canopy_stats.metrics.rho  # noqa: F401

    before, read = _peak(), _read()
    began = time.perf_counter()
    step(out)
    return time.perf_counter() - began, _peak() - before, _read() - read


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _read() -> float:
    """Megabytes that this process asked the system for by read calls; pages of a mapped file are not among them."""
    try:
        return int(Path("/proc/self/io").read_text().split()[1]) / 1e6
    except OSError:
        return float("nan")


def bench(size: Size, out: Path, say: Callable[[str], None] = print) -> dict[str, tuple[float, float, float]]:
    """Write a run and time every step."""
    began = time.perf_counter()
    seconds = write(size, out)
    tenth = max(len(seconds) // 10, 1)
    first, last = np.median(seconds[:tenth]), np.median(seconds[-tenth:])
    stored = sum(p.stat().st_size for p in out.rglob("*.parquet")) / 1e6
    say(f"{size.prompts * size.rollouts:,} rollouts, {open_run(out).n_tokens:,} tokens, {len(seconds):,} shards, "
        f"{stored:,.0f} MB in {time.perf_counter() - began:.0f} s; a shard took {1e3 * first:.0f} ms at first and "
        f"{1e3 * last:.0f} ms in the end")
    (out / ".verified.json").unlink(missing_ok=True)
    found = {}
    for name, step in STEPS.items():
        found[name] = apart(step, out)
        say(f"{name:<24} {found[name][0]:8.1f} s {found[name][1]:8.0f} MB peak {found[name][2]:8.0f} MB read "
            f"({100 * found[name][2] / stored:.1f}%)")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("prompts", 1000), ("rollouts", 100), ("length", 100)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        bench(Size(options.prompts, options.rollouts, options.length), Path(folder) / "run",
              partial(print, flush=True))
    return 0


if __name__ == "__main__":
    sys.exit(main())
