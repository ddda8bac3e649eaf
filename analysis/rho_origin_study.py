"""Is the origin of rho's position profile chosen rightly, and is what cannot be told withheld?

Usage: python analysis/rho_origin_study.py [--runs 10] [--prompts 20] [--rollouts 30] [--only NAME ...]
                                           [--seed 20261130] [--out analysis/results/rho_origin_study.json]

Rollouts are drawn whose entropy follows the position from the start, from the end, from both, the share of the length
that has passed, or nothing; in some, longer rollouts also have higher or lower entropy throughout. By process:

  best                how often each candidate predicts best
  withheld            share of runs without adjusted and excess, with Wilson's 95% interval
  adjusted, excess    mean over the runs that give them (Pearson Spearman Kendall), with the standard error
  kept                adjusted over what it is with the true profile taken out, a ratio of means, in those runs
  start, end          mean adjusted with the origin given, over the runs that withhold it
"""

from __future__ import annotations

import argparse
import json
import platform
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

import canopy_stats as cs
from canopy_stats.files import write_atomic
from canopy_stats.metrics.association import RHOS, correlations, pool_fisher, pool_kendall

RESULTS = Path(__file__).parent / "results" / "rho_origin_study.json"
Profile = Callable[[np.ndarray, int, int], np.ndarray]
"""(steps 0, 1, ... of a rollout, its length, its topic 0 or 1) -> mean entropy in nats."""


def _both(t: np.ndarray, n: int, topic: int) -> np.ndarray:
    return 0.6 + 1.6 * np.exp(-t / 25) - 0.5 * np.exp(-(n - 1 - t) / 15)


PROFILES: dict[str, Profile] = {
    "flat": lambda t, n, topic: np.full(n, 1.2),
    "front-loaded": lambda t, n, topic: 0.8 + 1.6 * np.exp(-t / 25),
    "decays at the end": lambda t, n, topic: 0.8 + 1.6 * (1 - np.exp(-(n - 1 - t) / 25)),
    "both": _both,
    "falls with t/N": lambda t, n, topic: 2 - 1.5 * (t + 0.5) / n,
    "rises and falls with t/N": lambda t, n, topic: 0.6 + 4 * (t + 0.5) / n * (1 - (t + 0.5) / n),
    "two topics, high opening": lambda t, n, topic: np.where(t < 12, 2.4, 1.4 if topic else 0.8),
}
EFFECTS = {name: (0.0, 0.6, -0.6) if i < 3 else (0.0,) for i, name in enumerate(PROFILES)}
PROCESSES = {f"{name}, effect {e:+g}" if e else name: (name, e) for name, own in EFFECTS.items() for e in own}


def draw(name: str, effect: float, prompts: int, rollouts: int,
         rng: np.random.Generator) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Steps (prompt_id, rollout, step, entropy), and rollouts with their length, rate and mean true profile. Rollout
    effects have a standard deviation of .15 nats and the correlation ``effect`` with the log of the length; topics do
    not look at the lengths."""
    steps, whole = [], []
    for p in range(prompts):
        length = np.minimum(1 + rng.poisson(rng.gamma(3, 79 / 3, rollouts)), 400)
        z = (np.log(length) - np.log(length).mean()) / np.log(length).std()
        level = 0.15 * (effect * z + np.sqrt(1 - effect**2) * rng.standard_normal(rollouts))
        topic = rng.integers(2, size=rollouts)
        for i, n in enumerate(length):
            mean = PROFILES[name](np.arange(n), int(n), int(topic[i]))
            entropy = np.maximum(mean + level[i], 0.0) * rng.gamma(0.8**-2, 0.8**2, n)
            steps.append(np.stack([np.full(n, p), np.full(n, i), np.arange(n), entropy]))
            whole.append((p, n, entropy.mean(), mean.mean()))
    frame = pd.DataFrame(np.concatenate(steps, axis=1).T, columns=["prompt_id", "rollout", "step", "entropy"])
    return frame, pd.DataFrame(whole, columns=["prompt_id", "length", "rate", "profile"])


def oracle(whole: pd.DataFrame) -> np.ndarray:
    """Adjusted (3,), pooled, with the true profile taken out."""
    each = pd.DataFrame([correlations(own["length"], own["rate"] - own["profile"])
                         for _, own in whole.groupby("prompt_id")])
    counts = whole.groupby("prompt_id").size().to_numpy(dtype=float)
    rules = {name: pool_kendall if name == "rho_kendall" else pool_fisher for name in RHOS}
    return np.array([pool(each[name], counts)[0] for name, pool in rules.items()])


def values(result: Any, quantity: str) -> np.ndarray:
    own = result.table[result.table["quantity"] == quantity].set_index("coefficient")["estimate"]
    found: np.ndarray = own.reindex(list(RHOS)).to_numpy()
    return found


def one(name: str, effect: float, prompts: int, rollouts: int, rng: np.random.Generator) -> dict[str, Any]:
    steps, whole = draw(name, effect, prompts, rollouts, rng)
    auto = cs.rho(steps, n_boot=0)
    return {"best": auto.origins.loc[auto.origins["best"], "origin"].item(), "withheld": bool(auto.withheld),
            "adjusted": values(auto, "adjusted"), "excess": values(auto, "excess"), "oracle": oracle(whole),
            **({side: values(cs.rho(steps, n_boot=0, origin=side), "adjusted") for side in ("start", "end")}
               if auto.withheld else {})}


def summary(found: Sequence[dict[str, Any]], effect: float) -> dict[str, Any]:
    from statsmodels.stats.proportion import proportion_confint

    given, gone = ([f for f in found if f["withheld"] is which] for which in (False, True))
    interval = proportion_confint(len(gone), len(found), method="wilson")
    out: dict[str, Any] = {
        "runs": len(found), "best": dict(Counter(f["best"] for f in found)),
        "withheld": round(len(gone) / len(found), 3), "withheld_interval": [round(float(x), 3) for x in interval],
        **({side: _mean(gone, side)[0] for side in ("start", "end")} if gone else {})}
    for quantity in ("adjusted", "excess") if given else ():
        out[quantity], out[f"{quantity}_se"] = _mean(given, quantity)
    if effect and given:
        kept = np.mean([f["adjusted"] for f in given], axis=0) / np.mean([f["oracle"] for f in given], axis=0)
        out["kept"] = np.round(kept, 3).tolist()
    return out


def _mean(found: Sequence[dict[str, Any]], what: str) -> tuple[list[float], list[float]]:
    x = np.array([f[what] for f in found])
    error = x.std(axis=0, ddof=1) / np.sqrt(len(x)) if len(x) > 1 else np.full(3, np.nan)
    return np.round(x.mean(axis=0), 3).tolist(), np.round(error, 3).tolist()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--prompts", type=int, default=20)
    parser.add_argument("--rollouts", type=int, default=30)
    parser.add_argument("--only", nargs="+", choices=list(PROCESSES), default=list(PROCESSES), metavar="NAME")
    parser.add_argument("--seed", type=int, default=20261130)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    results: dict[str, Any] = {
        "script": "analysis/rho_origin_study.py", "canopy_stats": cs.__version__, "numpy": np.__version__,
        "python": platform.python_version(), "seed": args.seed, "runs": args.runs, "prompts": args.prompts,
        "rollouts": args.rollouts, "processes": {}}
    for process in args.only:
        name, effect = PROCESSES[process]
        streams = np.random.SeedSequence([args.seed, list(PROCESSES).index(process)]).spawn(args.runs)
        found = [one(name, effect, args.prompts, args.rollouts, np.random.default_rng(s)) for s in streams]
        results["processes"][process] = summary(found, effect)
        print(process, json.dumps(results["processes"][process]), flush=True)
        args.out.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(args.out, (json.dumps(results, indent=1) + "\n").encode())


if __name__ == "__main__":
    with threadpool_limits(1):
        main()
