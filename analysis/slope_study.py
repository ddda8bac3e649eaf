"""How often the paper's and the robust slope are wrong: simulated panels of 3 families x 4 tasks x 100 prompts.

Usage: python analysis/slope_study.py [--panels 200] [--only NAME ...] [--workers 2] [--seed 20261124]
                                      [--out analysis/results/slope_study.json]
Every panel has its own random stream from the seed and its scenario's name, so results depend neither on the workers
nor on which scenarios are run together. Scenarios that the output already holds for the seed are not run again.

``gap`` is by how many within-task standard deviations the tuned log rates are lower. Slopes are in log-odds per
standard deviation of the rate. Rejection is at the 5% level; coverage that of the 95% interval of the difference.
"""

from __future__ import annotations

import argparse
import json
import platform
import warnings
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

import canopy_stats as cs
from canopy_stats.mixed.inference.parallel import fork_map
from canopy_stats.slope import Scenario, simulate_panel

RESULTS = Path(__file__).parent / "results" / "slope_study.json"
UNEQUAL = {"rollouts": 10, "rate_cv": {"base": 0.15, "tuned": 0.6}}
"""Reliability of the log rate: 0.98 in base and 0.71 in tuned models."""


def scenarios() -> dict[str, Scenario]:
    """Every scenario by name."""
    found: dict[str, Scenario] = {}
    for gap in (1.0, 2.0):
        law = Scenario(gap=gap)
        kinds = {
            "shared log curve, no effect": law.but(curve="log"),
            "shared saturating curve, no effect": law.but(curve="saturating"),
            "slopes vary by family": law.but(family_sd=0.2),
            "slopes vary by task": law.but(task_sd=0.2),
            "slopes vary by family and task": law.but(family_sd=0.2, task_sd=0.2),
            "equal slopes, unequal reliability": law.but(**UNEQUAL),
            "tripling, equal slopes": law.but(difference=0.6),
            "tripling, slopes vary by family and task": law.but(difference=0.6, family_sd=0.2, task_sd=0.2),
            "tripling, 10 rollouts": law.but(difference=0.6, rollouts=10),
        }
        found |= {f"{name}, gap {gap:g}": scenario for name, scenario in kinds.items()}
    return found | {"hardly any overlap, gap 3.6": Scenario(gap=3.6, difference=0.6)}


def one_panel(scenario: Scenario, stream: np.random.SeedSequence) -> dict[str, float]:
    """What both models say of one panel; of a panel with measurement error also without the correction, and of the same
    panel without the error."""
    panel = simulate_panel(scenario, np.random.default_rng(stream))
    out = row("paper", cs.slope_change(panel, model="paper_beta"))
    out |= row("robust", cs.slope_change(panel, model="robust"))
    if scenario.rollouts is not None:
        out |= row("uncorrected", cs.slope_change(panel, model="robust", correct=False))
        exact = simulate_panel(scenario.but(rollouts=None), np.random.default_rng(stream))
        out |= row("exact", cs.slope_change(exact, model="robust"))
    return out


def row(name: str, change: cs.slope.SlopeChange) -> dict[str, float]:
    low, high = change.difference.interval
    values = {"difference": change.difference.estimate, "se": change.difference.se, "p": change.difference.pvalue,
              "low": low, "high": high, "df": change.difference.df, "base": change.base.estimate,
              "tuned": change.tuned.estimate, "ratio": change.ratio.estimate, "identified": float(change.identified)}
    return {f"{name} {key}": value for key, value in values.items()}


def summary(scenario: Scenario, rows: list[dict[str, float]]) -> dict[str, Any]:
    """Rejection, coverage and averages over panels, for each model that was fitted."""
    table = pd.DataFrame(rows)
    out: dict[str, Any] = {"panels": len(table), "true_difference": scenario.difference}
    for name in dict.fromkeys(column.split()[0] for column in table.columns):
        part = table.filter(regex=f"^{name} ").rename(columns=lambda c: str(c).split()[1])
        out[name] = model_summary(part, scenario.difference)
    if "exact" in out:
        out["attenuation_removed"] = {which: removed(table, which) for which in ("tuned", "difference")}
    return out


def model_summary(part: pd.DataFrame, true: float) -> dict[str, float]:
    known = part[part["identified"] == 1]
    if known.empty:
        return {"identified": 0.0}
    covers = (known["low"] <= true) & (true <= known["high"])
    found = {"identified": len(known) / len(part), "rejects": (known["p"] < 0.05).mean(), "covers": covers.mean(),
             "difference": known["difference"].mean(), "sd": known["difference"].std(), "se": known["se"].mean(),
             "half_width": (known["high"] - known["low"]).mean() / 2, "base": known["base"].mean(),
             "tuned": known["tuned"].mean(), "median_ratio": known["ratio"].median()}
    return {name: round(float(value), 4) for name, value in found.items()}


def removed(table: pd.DataFrame, which: str) -> dict[str, float]:
    """Share of the attenuation that the correction takes away, from the means of the same panels; NaN of none (where
    the error that D and the rate share makes up for it)."""
    exact, naive, robust = (table[f"{name} {which}"].mean() for name in ("exact", "uncorrected", "robust"))
    share = (robust - naive) / (exact - naive) if abs(exact - naive) > 0.02 else float("nan")
    return {"without_error": round(exact, 4), "uncorrected": round(naive, 4), "corrected": round(robust, 4),
            "removed": round(share, 3)}


def study(scenario: Scenario, name: str, panels: int, seed: int, workers: int) -> dict[str, Any]:
    """One scenario over many panels."""
    streams = np.random.SeedSequence([seed, crc32(name.encode())]).spawn(panels)

    def task(i: int) -> dict[str, float]:
        with warnings.catch_warnings(), threadpool_limits(1):
            warnings.simplefilter("ignore")
            return one_panel(scenario, streams[i])

    return summary(scenario, fork_map(task, panels, workers))


def as_table(results: dict[str, Any]) -> pd.DataFrame:
    """One line a scenario."""
    lines = []
    for name, found in results.items():
        paper, robust = found["paper"], found["robust"]
        lines.append({"scenario": name, "panels": found["panels"], "paper rejects": paper.get("rejects"),
                      "robust rejects": robust.get("rejects"), "robust covers": robust.get("covers"),
                      "robust difference": robust.get("difference"), "half width": robust.get("half_width"),
                      "identified": robust["identified"]})
    return pd.DataFrame(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--panels", type=int, default=200)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="scenarios whose name contains one of these")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=20261124)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    kept = json.loads(args.out.read_text()) if args.out.is_file() else {}
    settings = {"seed": args.seed, "canopy_stats": cs.__version__, "python": platform.python_version()}
    results = kept.get("scenarios", {}) if kept.get("seed") == args.seed else {}
    for name, scenario in scenarios().items():
        if args.only and not any(word in name for word in args.only):
            continue
        if results.get(name, {}).get("panels") != args.panels:
            results[name] = study(scenario, name, args.panels, args.seed, args.workers)
            args.out.parent.mkdir(parents=True, exist_ok=True)
            args.out.write_text(json.dumps({**settings, "scenarios": results}, indent=1) + "\n")
        print(name, json.dumps({k: v for k, v in results[name].items() if k != "panels"}), flush=True)
    print("\n" + as_table(results).to_string(index=False))


if __name__ == "__main__":
    main()
