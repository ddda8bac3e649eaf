"""How often intervals for a mean of few differences leave out a true mean of zero, by how they are made.

Usage: python analysis/paired_levels.py [--samples 2000] [--replicates 599] [--seed 20261130]
                                        [--out analysis/results/paired_levels.json]
8, 20 and 100 differences from a normal law, Student's t with 3 degrees of freedom, and a lognormal one with sigma 1,
centred. The level is 5%. Ways: Student's t; Hall's transformation, which takes the skewness off; the wider of the two
on each side, which canopy_stats.paired_bootstrap uses; percentiles, BCa and the studentised bootstrap.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy import stats
from threadpoolctl import threadpool_limits

from canopy_stats.metrics import paired

RESULTS = Path(__file__).parent / "results" / "paired_levels.json"
LAWS: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "normal": lambda rng, n: rng.standard_normal(n), "t, 3 df": lambda rng, n: rng.standard_t(3, n),
    "lognormal": lambda rng, n: rng.lognormal(size=n) - np.exp(0.5)}
SIZES = (8, 20, 100)
LEVEL = 0.95


def leaves_out_zero(values: np.ndarray, replicates: int, rng: np.random.Generator) -> dict[str, bool]:
    """Whether each way's interval for the mean of values (n,) leaves out zero."""
    n, mean, error = len(values), values.mean(), stats.sem(values)
    left = ((values.sum() - values) / (n - 1))[:, None]
    q, skew = stats.t.ppf((1 + LEVEL) / 2, n - 1), paired.skewness(left)
    shares = rng.multinomial(n, np.full(n, 1 / n), size=replicates) / n
    means = shares @ values
    spread = np.sqrt(np.maximum(shares @ values**2 - means**2, 1e-30) / (n - 1))
    upper, lower = np.quantile((means - mean) / spread, [(1 + LEVEL) / 2, (1 - LEVEL) / 2])
    estimate = np.array([mean])
    ends = {
        "Student": (mean - q * error, mean + q * error),
        "Hall": tuple(mean - paired.with_skewness(np.array([z]), skew, n)[0] * error for z in (q, -q)),
        "wider of both": tuple(paired.t_interval(estimate, left, LEVEL)[0]),
        "percentile": tuple(paired.percentile_interval(means[:, None], LEVEL)[0]),
        "BCa": tuple(paired.bca_interval(means[:, None], estimate, left, LEVEL)[0]),
        "studentised": (mean - upper * error, mean - lower * error)}
    return {name: bool(low > 0 or high < 0) for name, (low, high) in ends.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--replicates", type=int, default=599)
    parser.add_argument("--seed", type=int, default=20261130)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    found: dict[str, dict[str, float]] = {}
    for i, (law, draw) in enumerate(LAWS.items()):
        for n in SIZES:
            rng = np.random.default_rng([args.seed, i, n])
            rows = [leaves_out_zero(draw(rng, n), args.replicates, rng) for _ in range(args.samples)]
            found[f"{law}, {n}"] = {way: round(float(np.mean([row[way] for row in rows])), 4) for way in rows[0]}
            print(f"{law}, {n}", found[f"{law}, {n}"], flush=True)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps({"seed": args.seed, "samples": args.samples, "replicates": args.replicates,
                                    "leaves out a true zero": found}, indent=1) + "\n")


if __name__ == "__main__":
    with threadpool_limits(1), np.errstate(invalid="ignore", divide="ignore"):
        main()
