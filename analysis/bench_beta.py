"""Beta models of this checkout and of an earlier commit, in turn: many crossed levels, and the paper's model.

    git worktree add --detach /tmp/earlier 4c98afe
    python analysis/bench_beta.py --against /tmp/earlier [--rounds 2]

Seconds of processor time, each fit in a process of its own after a small one that loads the modules, one thread. The
crossed data are 30,000 rows, each of a random one of 5,000 and of 1,000 levels with standard deviations .5 and .4 on
the logit scale, slope .4, precision 12 (seed 7); the paper's model is on ``bench_mixed.reference_panel``.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import canopy_stats as cs

bench_mixed = import_module("bench_mixed")  # beside this script


def crossed(rows: int = 30_000) -> pd.DataFrame:
    """Beta responses with effects of two crossed factors."""
    rng = np.random.default_rng(7)
    a, b, x = rng.integers(0, 5_000, rows), rng.integers(0, 1_000, rows), rng.normal(size=rows)
    mean = 1 / (1 + np.exp(0.5 - 0.4 * x - 0.5 * rng.normal(size=5_000)[a] - 0.4 * rng.normal(size=1_000)[b]))
    y = np.clip(rng.beta(12 * mean, 12 * (1 - mean)), 1e-6, 1 - 1e-6)
    return pd.DataFrame({"y": y, "x": x, "a": a, "b": b})


def fit_crossed(data: pd.DataFrame) -> Any:
    return cs.glmm("y ~ x + (1|a) + (1|b)", data, family="beta")


def fit_paper(data: pd.DataFrame) -> Any:
    mean, dispersion = bench_mixed.PAPER
    return cs.glmm(mean, data, dispersion=dispersion, reference=bench_mixed.REFERENCE)


MODELS: dict[str, tuple[Callable[[], pd.DataFrame], Callable[[pd.DataFrame], Any]]] = {
    "crossed": (crossed, fit_crossed), "paper": (bench_mixed.reference_panel, fit_paper)}
REPEATS = {"crossed": 1, "paper": 9}
"""Fits in one process, of which the median counts: a short one is at the mercy of its neighbours."""


def one(name: str) -> None:
    """Processor seconds of the fit with its coefficient table, and the log-likelihood."""
    make, fit = MODELS[name]
    data = make()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit_crossed(crossed(500)).tidy()
        seconds = []
        for _ in range(REPEATS[name]):
            began = time.process_time()
            found = fit(data)
            found.tidy()
            seconds.append(time.process_time() - began)
    print(statistics.median(seconds), found.llf)


def run(tree: Path, name: str) -> tuple[float, float]:
    here = Path(__file__)
    paths = os.pathsep.join([str(tree), str(here.parent)])
    done = subprocess.run([sys.executable, str(here), "--one", name], capture_output=True, text=True, check=True,
                          env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"})
    seconds, llf = done.stdout.split()[-2:]
    return float(seconds), float(llf)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, help="folder with the earlier commit")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--one", choices=MODELS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        return one(options.one)
    for name in MODELS:
        for _ in range(options.rounds):
            now, llf = run(Path(__file__).parents[1], name)
            then, llf_then = run(options.against, name)
            print(f"{name}: now {now:.2f} s, then {then:.2f} s: {then / now:.2f} times as fast; log-likelihood "
                  f"{llf - llf_then:+.1e}", flush=True)


if __name__ == "__main__":
    main()
