"""Does the excess of rho(N, r) vanish where entropy depends on the position alone, and stay where lengths matter?

Usage: python analysis/rho_null.py [--seeds 50] [--coverage-seeds 100] [--replicates 199] [--seed 20261124]
                                   [--out analysis/results/rho_null.json]

Rollouts are drawn from laws with known profiles. Pooled over the prompts of a run and averaged over seeds:

  raw, excess, adjusted   as canopy_stats.rho gives them
  oracle                  excess and adjusted computed with the true profile in place of the estimated one
  plug-in                 raw minus rho(N, mean of the survivors' mean entropies): the null without a model
  retention               in effect scenarios, three ratios of averages over seeds:
                          adjusted / its oracle (the same data with the position profile removed exactly),
                          excess / its oracle, and for a flat profile excess / raw
Coverage: share of 95% intervals that hold the average of the estimates over seeds, and mean se / sd of the estimates.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

import canopy_stats
from canopy_stats.files import write_atomic
from canopy_stats.metrics.association import RHOS, correlations
from canopy_stats.metrics.excess import Coefficients, coefficients
from canopy_stats.metrics.profile import PromptSteps
from canopy_stats.metrics.rho import pool_quantities, prompt_coefficients, rho
from canopy_stats.slope import rollout_law as laws

SIZES = {"20 x 50": (20, 50), "100 x 24": (100, 24), "100 x 10": (100, 10)}
GEOMETRIC, SPREAD = laws.geometric(60), laws.negative_binomial(80, 3)
PERSISTENT = laws.normal_noise(0.8, persistence=0.6)
NULL = {
    "front-loaded, negative binomial": laws.RolloutLaw(SPREAD, laws.front_loaded()),
    "front-loaded, geometric": laws.RolloutLaw(GEOMETRIC, laws.front_loaded()),
    "front-loaded, persistent noise": laws.RolloutLaw(SPREAD, laws.front_loaded(), noise=PERSISTENT,
                                                      allow_negative=True),
    "boilerplate, negative binomial": laws.RolloutLaw(SPREAD, laws.boilerplate()),
    "boilerplate, geometric": laws.RolloutLaw(GEOMETRIC, laws.boilerplate()),
    "boilerplate, persistent noise": laws.RolloutLaw(SPREAD, laws.boilerplate(), noise=PERSISTENT, allow_negative=True),
    "flat, negative binomial": laws.RolloutLaw(SPREAD, laws.flat()),
    "flat, geometric": laws.RolloutLaw(GEOMETRIC, laws.flat()),
}
EFFECT = {
    f"{name}, effect {correlation:+g}": laws.RolloutLaw(SPREAD, profile, length_correlation=correlation)
    for name, profile in (("flat", laws.flat()), ("front-loaded", laws.front_loaded()),
                          ("boilerplate", laws.boilerplate()))
    for correlation in (0.6, -0.6)
}
METHODS = ("raw", "excess", "adjusted", "excess in one fold", "adjusted in one fold", "oracle excess",
           "oracle adjusted", "plug-in")


def prompts_of(drawn: laws.SimulatedRollouts) -> list[tuple[PromptSteps, np.ndarray]]:
    """Each prompt's steps, and the true mean of the profile over each rollout."""
    steps = drawn.steps.groupby("prompt_id", sort=False)["entropy"]
    return [(PromptSteps.of(entropy, rows["length"]), rows["profile_rate"].to_numpy())
            for (_, entropy), (_, rows) in zip(steps, drawn.rollouts.groupby("prompt_id", sort=False), strict=True)]


def pooled(found: list[Coefficients], counts: np.ndarray) -> np.ndarray:
    """Raw, null, excess and adjusted (4, 3) over prompts."""
    return pool_quantities(np.stack([np.stack([c.raw[0], c.excess[0], c.adjusted[0]]) for c in found]), counts)


def oracle(steps: PromptSteps, profile_rate: np.ndarray) -> Coefficients:
    """The coefficients with the profile known."""
    return coefficients(steps.length.astype(float), steps.rate, (steps.rate - profile_rate)[None],
                        np.ones((1, len(steps.length))))


def plug_in(steps: PromptSteps) -> np.ndarray:
    """rho(N, mean over a rollout's positions of the survivors' mean entropy) (3,)."""
    mean = steps.entropy.sum(axis=0) / steps.alive.sum(axis=0)
    null = mean.cumsum()[steps.length - 1] / steps.length
    return np.array(list(correlations(steps.length, null).values()))


def methods(law: laws.RolloutLaw, prompts: int, n_rollouts: int, rng: np.random.Generator) -> np.ndarray:
    """All methods on one simulated run: (len(METHODS), 3)."""
    listed = prompts_of(laws.simulate_rollouts(law, prompts, n_rollouts, rng))
    counts = np.full(prompts, float(n_rollouts))
    crossed, plain, known = (pooled([how(*p) for p in listed], counts) for how in (
        lambda steps, _: prompt_coefficients(steps), lambda steps, _: prompt_coefficients(steps, folds=1), oracle))
    raw_each = np.array([list(correlations(s.length, s.rate).values()) for s, _ in listed])
    naive = np.nanmean(raw_each - np.array([plug_in(s) for s, _ in listed]), axis=0)
    return np.stack([crossed[0], crossed[2], crossed[3], plain[2], plain[3], known[2], known[3], naive])


def study(scenarios: Mapping[str, laws.RolloutLaw], seeds: int, seed: int,
          sizes: Mapping[str, tuple[int, int]] = SIZES) -> dict[str, Any]:
    """By scenario and size: the average of each method over seeds, with its standard error, by coefficient."""
    out: dict[str, Any] = {}
    for i, (name, law) in enumerate(scenarios.items()):
        for j, (size, (prompts, m)) in enumerate(sizes.items()):
            streams = np.random.SeedSequence([seed, i, j]).spawn(seeds)
            runs = np.stack([methods(law, prompts, m, np.random.default_rng(s)) for s in streams])
            out[f"{name} | {size}"] = _by_method(runs.mean(axis=0), runs.std(axis=0, ddof=1) / np.sqrt(seeds))
    return out


def _by_method(mean: np.ndarray, error: np.ndarray) -> dict[str, Any]:
    return {method: {name: {"mean": round(float(mean[i, k]), 4), "se": round(float(error[i, k]), 4)}
                     for k, name in enumerate(RHOS)} for i, method in enumerate(METHODS)}


def retention(entry: Mapping[str, Any], flat: bool) -> dict[str, dict[str, float]]:
    """What is kept of a real effect, by coefficient."""
    def ratio(above: str, below: str) -> dict[str, float]:
        return {name: round(entry[above][name]["mean"] / entry[below][name]["mean"], 3) for name in RHOS}

    kept = {"adjusted / oracle": ratio("adjusted", "oracle adjusted"), "excess / oracle": ratio("excess",
                                                                                               "oracle excess")}
    return {**kept, "excess / raw": ratio("excess", "raw")} if flat else kept


def coverage(law: laws.RolloutLaw, prompts: int, m: int, seeds: int, replicates: int, seed: int) -> dict[str, Any]:
    """Of the intervals for each way to resample, quantity and coefficient."""
    streams = np.random.SeedSequence(seed).spawn(seeds)
    drawn = [laws.simulate_rollouts(law, prompts, m, np.random.default_rng(s)).steps for s in streams]
    return {how: _held([rho(steps, n_boot=replicates, seed=i, resample=how, origin="start").table
                        for i, steps in enumerate(drawn)])
            for how in ("nested", "prompts")}


def _held(tables: list[Any]) -> dict[str, dict[str, float]]:
    keys = [f"{quantity} {name}" for name, quantity in tables[0][["coefficient", "quantity"]].to_numpy()]
    columns = ("estimate", "se", "low", "high")
    estimate, se, low, high = (np.stack([t[c].to_numpy(float) for t in tables]) for c in columns)
    truth = estimate.mean(axis=0)
    held, width = ((low <= truth) & (truth <= high)).mean(axis=0), se.mean(axis=0) / estimate.std(axis=0, ddof=1)
    return {key: {"coverage": round(float(c), 3), "se / sd": round(float(w), 2)}
            for key, c, w in zip(keys, held, width, strict=True)}


def show(results: Mapping[str, Any]) -> None:
    for part in ("null", "effect"):
        print(f"\n{part}: mean over {results['seeds']} seeds (Pearson Spearman Kendall)")
        for name, entry in results[part].items():
            cells = [f"{m} " + " ".join(f"{entry[m][k]['mean']:+.3f}" for k in RHOS) for m in METHODS]
            print(f"  {name}\n    " + "\n    ".join(cells))
    for title in ("worst_null", "retention", "coverage"):
        print(f"\n{title}:\n" + json.dumps(results[title], indent=2))


def worst_null(null: Mapping[str, Any]) -> dict[str, Any]:
    """By size, the largest |mean| of each method and coefficient over the scenarios whose |raw| is above 0.5."""
    worst: dict[str, Any] = {}
    for size in SIZES:
        own = [entry for name, entry in null.items() if name.endswith(f"| {size}")]
        worst[size] = {method: {k: max((abs(e[method][k]["mean"]) for e in own if abs(e["raw"][k]["mean"]) > 0.5),
                                       default=None) for k in RHOS} for method in METHODS[1:]}
    return worst


def save(path: Path, results: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, (json.dumps(results, indent=1) + "\n").encode())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument("--coverage-seeds", type=int, default=100)
    parser.add_argument("--replicates", type=int, default=199)
    parser.add_argument("--seed", type=int, default=20261124)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "rho_null.json")
    args = parser.parse_args()
    results: dict[str, Any] = {
        "script": "analysis/rho_null.py", "canopy_stats": canopy_stats.__version__, "numpy": np.__version__,
        "python": platform.python_version(), "seed": args.seed, "seeds": args.seeds,
        "coverage_seeds": args.coverage_seeds, "replicates": args.replicates}
    results["null"] = study(NULL, args.seeds, args.seed)
    results["worst_null"] = worst_null(results["null"])
    save(args.out, results)
    results["effect"] = study(EFFECT, args.seeds, args.seed + 1)
    results["retention"] = {name: retention(e, name.startswith("flat")) for name, e in results["effect"].items()}
    save(args.out, results)
    results["coverage"] = {
        f"{name} | {size}": coverage((NULL | EFFECT)[name], *SIZES[size], args.coverage_seeds, args.replicates,
                                     args.seed + 2)
        for name in ("front-loaded, negative binomial", "boilerplate, effect +0.6")
        for size in ("20 x 50", "100 x 24")}
    save(args.out, results)
    show(results)


if __name__ == "__main__":
    with threadpool_limits(1):
        main()
