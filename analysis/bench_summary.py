"""A linear model with its first summary (degrees of freedom and certificate included) against lme4 with lmerTest.

    python analysis/bench_summary.py [--rounds 2]

Both sides in turn, each fit in a process of its own after its modules are loaded, one thread, seconds of processor
time. Needs R with lmerTest.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

import canopy_stats as cs

MODELS = {"crossed slopes, 20,000 rows, 2,000 x 100": ("y ~ x + (1 + x|a) + (1 + x|b)", 20_000, 2_000, 100),
          "crossed intercepts, 73,421 rows, 2,972 x 1,128": ("y ~ x + (1|a) + (1|b)", 73_421, 2_972, 1_128)}


def simulated(formula: str, rows: int, a: int, b: int) -> pd.DataFrame:
    """Responses with effects of two crossed factors, and slopes of x in both where the formula has them."""
    rng = np.random.default_rng(1)
    data = pd.DataFrame({"a": rng.integers(0, a, rows), "b": rng.integers(0, b, rows), "x": rng.normal(size=rows)})
    y = 1 + 0.3 * data["x"] + 0.7 * rng.normal(size=a)[data["a"]] + 0.5 * rng.normal(size=b)[data["b"]]
    if "x|" in formula:
        y += (0.3 * rng.normal(size=a)[data["a"]] + 0.2 * rng.normal(size=b)[data["b"]]) * data["x"]
    return data.assign(y=y + rng.normal(size=rows))


def summarised(formula: str, path: str) -> None:
    """Seconds of the first and of the second fit with its summary, as JSON; modules are loaded before, as R's are."""
    data, seconds = pd.read_csv(path), []
    cs.lmm("y ~ x + (1|b)", data.iloc[:500]).summary()
    for _ in range(2):
        began = time.process_time()
        cs.lmm(formula, data).summary()
        seconds.append(time.process_time() - began)
    print(json.dumps(seconds))


def ours(formula: str, path: Path) -> list[float]:
    done = subprocess.run([sys.executable, __file__, "--one", formula, str(path)], capture_output=True, text=True,
                          check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    return [float(second) for second in json.loads(done.stdout.splitlines()[-1])]


def in_r(formula: str, path: Path) -> float:
    code = (f'suppressMessages(library(lmerTest)); d <- read.csv("{path}"); s <- system.time({{m <- lmer({formula}, '
            'd); invisible(capture.output(print(summary(m))))}); cat("\\n", s["user.self"] + s["sys.self"])')
    done = subprocess.run(["Rscript", "-e", code], capture_output=True, text=True, check=True,
                          env={**os.environ, "OMP_NUM_THREADS": "1"})
    return float(done.stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--one", nargs=2, metavar=("FORMULA", "CSV"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        return summarised(*options.one)
    for name, (formula, *sizes) in MODELS.items():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "data.csv"
            simulated(formula, *sizes).to_csv(path, index=False)
            rounds = [(*ours(formula, path), in_r(formula, path)) for _ in range(options.rounds)]
        first, second, r = np.median(rounds, axis=0)
        print(f"{name}: first {first:.2f} s, second {second:.2f} s, lmerTest {r:.1f} s: {r / first:.1f} and "
              f"{r / second:.1f} times as fast", flush=True)


if __name__ == "__main__":
    main()
