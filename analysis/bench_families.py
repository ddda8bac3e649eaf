"""Time binary, ordered and large crossed models beside glmmTMB and clmm, in turn in one run: medians and ratios.

Usage: python analysis/bench_families.py [--repeats 3] [--large] [--out results.json]
Needs Rscript with glmmTMB and ordinal. One thread throughout; every program fits the same rows, without reading them.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

import canopy_stats.mixed as cs

FORMULA = "y ~ x*z + (1|person) + (1|item)"
R_SCRIPT = """
suppressMessages({library(glmmTMB); library(ordinal)})
args <- commandArgs(TRUE); d <- read.csv(args[1]); d$person <- factor(d$person); d$item <- factor(d$item)
FIT <- %s
t0 <- proc.time()[["elapsed"]]; f <- FIT(d)
cat(proc.time()[["elapsed"]] - t0, format(as.numeric(logLik(f)), digits = 15), "\\n")
"""
PEERS = {
    "binomial": f"function(d) glmmTMB({FORMULA}, d, family = binomial())",
    "cumulative": f"function(d) {{d$y <- factor(d$y, ordered = TRUE); clmm({FORMULA}, d)}}",
}


def simulate(rows: int, persons: int, items: int, categories: int, seed: int = 1) -> pd.DataFrame:
    """Answers of persons to items with crossed intercepts: 0/1 for two categories, otherwise 1, 2, ...; every person
    meets items in turn."""
    rng = np.random.default_rng(seed)
    person, item = np.arange(rows) % persons, (np.arange(rows) // persons + np.arange(rows)) % items
    x, z = rng.standard_normal(rows), (item % 2).astype(float)
    effects = rng.standard_normal(persons)[person] + 0.8 * rng.standard_normal(items)[item]
    eta = 0.2 + 0.4 * x - 0.3 * z + 0.2 * x * z + effects
    latent = eta + rng.logistic(size=rows)
    cuts = np.linspace(-1.5, 1.5, categories - 1) if categories > 2 else np.zeros(1)
    y = (latent > cuts[:, None]).sum(axis=0) + (1 if categories > 2 else 0)
    return pd.DataFrame({"y": y, "x": x, "z": z, "person": person, "item": item})


def peer(path: Path, family: str) -> tuple[float, float]:
    """Seconds and log-likelihood of the R package, without starting R and reading the data."""
    script = path.with_suffix(".R")
    script.write_text(R_SCRIPT % PEERS[family])
    out = subprocess.run(["Rscript", str(script), str(path)], capture_output=True, text=True, check=True).stdout
    seconds, llf = out.split()[:2]
    return float(seconds), float(llf)


def ours(data: pd.DataFrame, family: str) -> tuple[float, float]:
    start = time.perf_counter()
    fit = cs.glmm(FORMULA, data, family=family)
    fit.tidy()
    return time.perf_counter() - start, fit.llf


def compare(data: pd.DataFrame, family: str, repeats: int) -> dict[str, float]:
    """Medians in turn, their ratio, and how far our log-likelihood is above the peer's."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.csv"
        data.to_csv(path, index=False)
        calls: dict[str, Callable[[], tuple[float, float]]] = {
            "ours": lambda: ours(data, family), "R": lambda: peer(path, family)}
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
        for _ in range(repeats):
            for name, call in calls.items():
                found[name].append(call())
    seconds = {name: statistics.median(value for value, _ in pairs) for name, pairs in found.items()}
    return {**seconds, "times_faster": seconds["R"] / seconds["ours"], "rows": len(data),
            "llf_above": found["ours"][0][1] - found["R"][0][1], "peak_MB": peak_megabytes()}


def peak_megabytes() -> float:
    """Largest resident size of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--large", action="store_true", help="also 200,000 binary rows of 5,000 persons and 40 items")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    results: dict[str, Any] = {"python": sys.version.split()[0], "numpy": np.__version__}
    results["binomial 7,600"] = compare(simulate(7_600, 300, 24, 2), "binomial", args.repeats)
    results["cumulative 7,600"] = compare(simulate(7_600, 300, 24, 5), "cumulative", 1)
    if args.large:
        results["binomial 200,000"] = compare(simulate(200_000, 5_000, 40, 2), "binomial", 1)
    print(json.dumps(results, indent=2))
    if args.out:
        args.out.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    with threadpool_limits(1):
        main()
