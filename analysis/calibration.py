"""Coverage of 95% intervals in simulated panels: Wald (linear, beta and other families) and parametric bootstrap.

Usage: python analysis/calibration.py [--panels 1000] [--bootstrap-panels 300] [--replicates 199] [--workers 1]
                                      [--seed 20261123] [--out analysis/results/calibration.json]
Every panel has its own random stream from the seed, so results do not depend on the number of workers. Parts that the
output already holds (same seed) are not run again; delete the file to start anew.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

import canopy_stats.mixed as mixed

TRUTH = {"Intercept": -0.8, "R": 0.3, "model_variant[T.instruct]": -0.2, "task[T.math]": 0.25,
         "R:model_variant[T.instruct]": 0.3}
DISPERSION = {"Intercept": 3.2, "model_variant[T.instruct]": 0.4}
SD, SIGMA, UNIT = 0.35, 0.06, 0.15
LOG_PHI, COUNTS = 0.7, 2.0
"""The negative binomial's log dispersion, and what its linear predictor has beyond the others'."""
THRESHOLDS = np.array([-2.0, -0.6, 0.7])
WALD = ("lmm", "beta", "binomial", "nbinom2", "cumulative")
FORMULA = "D ~ R*model_variant + task + (1|prompt_uid)"
Interval = dict[str, tuple[float, float]]


def simulate(model: str, prompts: int, families: int, rng: np.random.Generator) -> pd.DataFrame:
    """A panel of 2 tasks x prompts x families x 2 variants from the model with the true values above."""
    task, prompt, family, tuned = np.indices((2, prompts, families, 2)).reshape(4, -1)
    rate = rng.standard_normal(task.size) - 0.6 * tuned
    design = np.column_stack([np.ones(task.size), rate, tuned, task, rate * tuned])
    eta = design @ np.array(list(TRUTH.values())) + SD * rng.standard_normal((2, prompts))[task, prompt]
    return pd.DataFrame({
        "D": response(model, eta, tuned, rng), "R": rate, "model_variant": np.array(["base", "instruct"])[tuned],
        "task": np.array(["coding", "math"])[task], "model_name": family, "prompt_uid": task * prompts + prompt,
    })


def response(model: str, eta: np.ndarray, tuned: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One response (n,) of the model at linear predictors eta (n,)."""
    if model == "lmm":
        return np.asarray(UNIT * eta + SIGMA * rng.standard_normal(eta.size))
    mu = 1 / (1 + np.exp(-eta))
    if model == "binomial":
        return np.asarray(rng.binomial(1, mu), dtype=float)
    if model == "nbinom2":
        size = np.exp(LOG_PHI)
        return rng.poisson(np.exp(eta + COUNTS) * rng.gamma(size, 1 / size, eta.size)).astype(float)
    if model == "cumulative":
        return np.asarray(1.0 + (rng.logistic(size=eta.size) + eta > THRESHOLDS[:, None]).sum(axis=0))
    phi = np.exp(DISPERSION["Intercept"] + list(DISPERSION.values())[1] * tuned)
    return np.asarray(np.clip(rng.beta(mu * phi, (1 - mu) * phi), 1e-9, 1 - 1e-9))


def fit(model: str, data: pd.DataFrame) -> mixed.Fit:
    if model == "lmm":
        return mixed.lmm(FORMULA, data)
    return mixed.glmm(FORMULA, data, family=model, dispersion="~ model_variant" if model == "beta" else "~ 1")


def truth(model: str) -> dict[str, float]:
    """True values by the names of the bootstrap's columns."""
    if model == "lmm":
        return {name: UNIT * value for name, value in TRUTH.items()} | {"sd Intercept | prompt_uid": UNIT * SD}
    if model == "binomial":
        return TRUTH
    if model == "nbinom2":
        return TRUTH | {"Intercept": TRUTH["Intercept"] + COUNTS, "dispersion Intercept": LOG_PHI}
    if model == "cumulative":
        tau = {f"threshold {k}|{k + 1}": value - TRUTH["Intercept"] for k, value in enumerate(THRESHOLDS, 1)}
        return tau | {name: value for name, value in TRUTH.items() if name != "Intercept"}
    return TRUTH | {f"dispersion {name}": value for name, value in DISPERSION.items()} | {
        "sd Intercept | prompt_uid": SD}


def wald(found: mixed.Fit) -> Interval:
    """Wald intervals of the coefficients of mean and dispersion and of the thresholds."""
    table = found.tidy()
    names = np.where(table["component"] == "mean", table["term"], table["component"] + " " + table["term"])
    return dict(zip(names, zip(table["conf_low"], table["conf_high"], strict=True), strict=True))


def wald_panel(model: str, stream: np.random.SeedSequence) -> Interval | str:
    data = simulate(model, 60, 2, np.random.default_rng(stream))
    found = fit(model, data)
    return wald(found) if found.converged else "did not converge"


def bootstrap_panel(model: str, replicates: int, stream: np.random.SeedSequence) -> Interval | str:
    """Percentile intervals of the parametric bootstrap from a panel of 240 rows."""
    child = stream.spawn(1)[0]
    found = fit(model, simulate(model, 60, 1, np.random.default_rng(stream)))
    drawn = mixed.bootstrap(found, replicates, seed=int(child.generate_state(1)[0]))
    table = drawn.conf_int(kind="percentile")
    return {str(name): (float(row["conf_low"]), float(row["conf_high"])) for name, row in table.iterrows()}


def coverage(intervals: list[Interval | str], true: dict[str, float]) -> dict[str, Any]:
    """Share of intervals that hold the true value, by parameter, with its standard error and the failures."""
    good = [interval for interval in intervals if not isinstance(interval, str)]
    out: dict[str, Any] = {"panels": len(intervals), "failed": len(intervals) - len(good), "coverage": {}}
    for name in good[0]:
        if name in true:
            hits = [interval[name][0] <= true[name] <= interval[name][1] for interval in good]
            out["coverage"][name] = round(float(np.mean(hits)), 4)
    out["standard_error"] = round(float(np.sqrt(0.95 * 0.05 / len(good))), 4)
    return out


_shared: dict[str, Callable[[int], Interval | str]] = {}


def _call(i: int) -> Interval | str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _shared["task"](i)


def run(task: Callable[[np.random.SeedSequence], Interval | str], n: int, seed: int, workers: int) -> list[Any]:
    """The task for n streams, in forked processes."""
    streams = np.random.SeedSequence(seed).spawn(n)
    _shared["task"] = lambda i: task(streams[i])
    if workers == 1:
        return [_call(i) for i in range(n)]
    with multiprocessing.get_context("fork").Pool(workers) as pool:
        return pool.map(_call, range(n), chunksize=4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--panels", type=int, default=1000)
    parser.add_argument("--bootstrap-panels", type=int, default=300)
    parser.add_argument("--replicates", type=int, default=199)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seed", type=int, default=20261123)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "calibration.json")
    args = parser.parse_args()
    results = started(args.out, args.seed)
    tasks = {f"wald {model}": (partial(wald_panel, model), args.panels, args.seed) for model in WALD}
    for model in ("lmm", "beta"):
        task = partial(bootstrap_panel, model, args.replicates)
        tasks[f"bootstrap {model}"] = (task, args.bootstrap_panels, args.seed + 1)
    for name, (task, panels, seed) in tasks.items():
        if panels and name not in results:
            results[name] = coverage(run(task, panels, seed, args.workers), truth(name.split()[1]))
            if name.startswith("bootstrap"):
                results[name]["replicates"] = args.replicates
            save(args.out, results)
    print(json.dumps(results, indent=2))


def started(path: Path, seed: int) -> dict[str, Any]:
    """What an earlier run with the same seed has finished, or a new record."""
    fresh = {"seed": seed, "python": platform.python_version(), "level": 0.95, "rows": {"wald": 480, "bootstrap": 240}}
    earlier = json.loads(path.read_text()) if path.is_file() else {}
    return earlier if earlier.get("seed") == seed else fresh


def save(path: Path, results: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    with threadpool_limits(1):
        main()
