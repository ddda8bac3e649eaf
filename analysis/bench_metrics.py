"""How long measuring takes, and against what: 1,000 prompts x 100 rollouts x 384 dimensions, in one process.

Run it with ``python analysis/bench_metrics.py``. Prints seconds for the whole measurement, the growth when the
number of prompts doubles, and ratios to a plain loop over rollouts and pairs, timed in turn on a few prompts.
Seconds mean little on a busy machine; the ratios are measured in turn and mean more.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
from scipy import stats

from canopy_stats.metrics import Embeddings, measure
from canopy_stats.schema import LENGTH, STOP, SamplingPolicy

CAP = 400


def made_up_run(prompts: int, m: int, dimensions: int, seed: int = 0) -> tuple[Any, Embeddings]:
    """A run in memory with geometric lengths, and unit embeddings that gather around one centre per prompt."""
    rng = np.random.default_rng(seed)
    hazard = np.repeat(rng.uniform(0.005, 0.05, prompts), m)
    uncapped = rng.geometric(hazard)
    length = np.minimum(uncapped, CAP)
    entropy = length * rng.uniform(0.5, 3, prompts * m)
    ids = [f"p{i:05d}" for i in range(prompts)]
    table = pa.table({
        "prompt_id": np.repeat(ids, m), "rollout": np.tile(np.arange(m, dtype=np.int32), prompts),
        "length": length.astype(np.int32), "finish_reason": np.where(uncapped <= CAP, STOP, LENGTH),
        "entropy_sum": entropy, "surprisal_sum": entropy + rng.normal(0, np.sqrt(length)),
        "stop_hazard_sum": hazard * length})
    config = SimpleNamespace(policy=SamplingPolicy(max_new_tokens=CAP), task="bench", family="made", variant="up",
                             model={"dtype": "float64"}, engine="numpy", seed=seed)
    run = SimpleNamespace(config=config, run_id="bench", rollouts=lambda columns: table.select(list(columns)),
                          prompts=lambda: [SimpleNamespace(prompt_id=i, prompt_hash=i) for i in ids])
    rows = rng.standard_normal((prompts, m, dimensions), np.float32)
    rows += 1.5 * rng.standard_normal((prompts, 1, dimensions), np.float32)
    rows /= np.linalg.norm(rows, axis=2, keepdims=True)
    flags = np.zeros(prompts * m, np.bool_)
    return run, Embeddings(rows.reshape(prompts * m, dimensions), flags, flags, {"name": "made-up", "version": "1"})


def plain_loop(run: Any, embeddings: Embeddings) -> list[tuple[float, ...]]:
    """The same raw metrics and the jackknife error of D, written as one would on a first day."""
    frame = run.rollouts(["prompt_id", "length", "entropy_sum"]).to_pandas()
    return [_plain_prompt(group["length"].to_numpy(), group["entropy_sum"].to_numpy(),
                          embeddings.vectors[group.index].astype(np.float64))
            for _, group in frame.groupby("prompt_id")]


def _plain_prompt(n: Any, h: Any, e: Any) -> tuple[float, ...]:
    r, m = h / n, len(n)
    without = [_plain_diversity(np.delete(e, i, axis=0)) for i in range(m)]
    values = np.linalg.eigvalsh(e @ e.T / m)
    values = values[values > 0]
    return (h.mean(), np.cov(n, r, bias=True)[0, 1], stats.pearsonr(n, r)[0], stats.spearmanr(n, r)[0],
            stats.kendalltau(n, r)[0], _plain_diversity(e), -(values * np.log(values)).sum(),
            np.std(without) * np.sqrt(m - 1))


def _plain_diversity(e: Any) -> float:
    return float(1 - np.mean((e @ e.T)[np.triu_indices(len(e), 1)]))


def seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def in_turn(works: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Median seconds of each piece of work, the pieces taking turns."""
    taken: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repeats):
        for name, work in works.items():
            taken[name].append(seconds(work))
    return {name: statistics.median(t) for name, t in taken.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=1000)
    parser.add_argument("--rollouts", type=int, default=100)
    parser.add_argument("--dimensions", type=int, default=384)
    parser.add_argument("--plain-prompts", type=int, default=10, help="prompts for the comparison with a plain loop")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    sizes = [options.prompts // 4, options.prompts // 2, options.prompts]
    cases = {p: made_up_run(p, options.rollouts, options.dimensions) for p in (*sizes, options.plain_prompts)}
    works = {f"{p} prompts": partial(measure, cases[p][0], embedder=cases[p][1]) for p in sizes}
    taken = in_turn(works, options.repeats)
    first = next(iter(taken.values()))
    for (name, t), p in zip(taken.items(), sizes, strict=True):
        print(f"{name:>13}: {t:6.2f} s, {1000 * t / p:5.2f} ms a prompt, {t / first:.2f} times the first "
              f"for {p / sizes[0]:.0f} times the prompts")
    few = cases[options.plain_prompts]
    ours = in_turn({"measure": lambda: measure(few[0], embedder=few[1]), "plain loop": lambda: plain_loop(*few)},
                   options.repeats)
    print(f"plain loop on {options.plain_prompts} prompts: {ours['plain loop'] / ours['measure']:.1f} times as long")


if __name__ == "__main__":
    main()
