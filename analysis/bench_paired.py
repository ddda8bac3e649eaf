"""How long the paired bootstrap takes: 2,000 replicates of 24 cells x 7 measures x 100 prompts, intervals and all.

Run it with ``python analysis/bench_paired.py``. The panel is the demo panel twice, its families renamed. Prints seconds
of the whole table, and the ratio to a plain loop (rows of a resample chosen by index, ``metrics.pool`` on each), timed
in turn on one cell with fewer replicates. Seconds mean little on a busy machine; the ratio is taken in turn.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

import canopy_stats as cs
from canopy_stats.metrics.paired import MEASURES, paired_bootstrap
from canopy_stats.metrics.pooling import pool


def two_demos() -> pd.DataFrame:
    """The demo panel and a copy of it under other family names: 24 cells of 100 prompts."""
    panel = cs.load_demo_panel()
    return pd.concat([panel, panel.assign(model_name=panel["model_name"] + " again")], ignore_index=True)


def plain_loop(cell: pd.DataFrame, replicates: int) -> np.ndarray:
    """Changes (replicates + prompts, 7) on resamples and on all prompts but one, as one would write it first."""
    base, tuned = (rows.sort_values("prompt_hash") for _, rows in cell.groupby("model_variant", sort=True))
    rng, n = np.random.default_rng(0), len(base)
    chosen = [*(rng.integers(0, n, n) for _ in range(replicates)), *(np.delete(np.arange(n), i) for i in range(n))]
    return np.array([_change(base.iloc[rows], tuned.iloc[rows]) for rows in chosen])


def _change(base: pd.DataFrame, tuned: pd.DataFrame) -> list[float]:
    before, after = pool(base, base["M"]), pool(tuned, tuned["M"])
    return [after[name] - before[name] for name in MEASURES]


def seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicates", type=int, default=2000)
    parser.add_argument("--plain-replicates", type=int, default=200, help="replicates of the comparison on one cell")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    panel = two_demos()
    whole = [seconds(lambda: paired_bootstrap(panel, replicates=options.replicates)) for _ in range(options.repeats)]
    print(f"{panel.groupby(['model_name', 'task']).ngroups} cells x {len(MEASURES)} measures x "
          f"{panel['prompt_hash'].nunique() // 4} prompts, {options.replicates:,} replicates: "
          f"{statistics.median(whole):.2f} s")
    cell = panel[(panel["model_name"] == "alder") & (panel["task"] == "math")]
    turns = [(seconds(lambda: plain_loop(cell, options.plain_replicates)),
              seconds(lambda: paired_bootstrap(cell, replicates=options.plain_replicates)))
             for _ in range(options.repeats)]
    ratio = statistics.median(plain / ours for plain, ours in turns)
    print(f"plain loop on one cell, {options.plain_replicates} replicates: {ratio:.0f} times as long")


if __name__ == "__main__":
    main()
