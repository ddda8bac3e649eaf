"""Whether the robust slope keeps its level where base and tuned follow one law of rate and length together, or where
prompts react to tuning alike in all families.

Usage: python analysis/rival_study.py [--panels 400] [--only NAME ...] [--workers 1] [--seed 20261130]
                                      [--out analysis/results/rival_study.json]
Panels are added to what the output holds, twenty at a time and each from its own random stream, until every scenario
has as many; results depend neither on the workers nor on how often it was interrupted. Rates come with 95% intervals
(Clopper and Pearson). The true difference is zero in every scenario.

Two laws: diversity on the logit scale follows 1.2 sqrt(R N / 100), total entropy, or 0.45 R log(N / 50); tuned texts
are 0.37, 1, 1.65 or 2.7 times as long. Reactions: in panels of one task a prompt's level or slope changes by tuning as
it does in every family, with a standard deviation of 0.5 or 0.4.
"""

from __future__ import annotations

import argparse
import json
import warnings
from pathlib import Path
from zlib import crc32

import numpy as np
import pandas as pd
from scipy import stats
from threadpoolctl import threadpool_limits

import canopy_stats as cs
from canopy_stats.mixed.inference.parallel import fork_map

RESULTS = Path(__file__).parent / "results" / "rival_study.json"
BATCH = 20
COLUMNS = ("estimate", "std_error", "p_value", "conf_low", "conf_high")
RATIOS = (0.37, 1.0, 1.65, 2.7)


def scenarios() -> dict[str, cs.Scenario]:
    """Every scenario by name."""
    law = cs.Scenario(families=6, precision=60)
    found = {f"{curve}, length x {ratio:g}, {prompts} prompts": law.but(
        curve=curve, length_ratio=ratio, prompts=prompts)
        for prompts in (40, 100) for curve in ("total entropy", "rate by length") for ratio in RATIOS}
    for families in (6, 8):
        one = cs.Scenario(families=families, tasks=1, prompts=40, tied=0.6)
        found |= {f"reacting levels, {families} x 1": one.but(reaction_sd=0.5),
                  f"reacting slopes, {families} x 1": one.but(reaction_slope_sd=0.4)}
    return found


def one_panel(scenario: cs.Scenario, stream: np.random.SeedSequence) -> list[float]:
    """The robust difference's :data:`COLUMNS`; not a number where it is not identified."""
    change = cs.slope_change(cs.simulate_panel(scenario, np.random.default_rng(stream)), model="robust")
    row = change.difference.row()
    return [round(float(row[name]), 6) for name in COLUMNS]


def extended(name: str, scenario: cs.Scenario, rows: list[list[float]], panels: int, seed: int,
             workers: int) -> list[list[float]]:
    """The rows with up to twenty more."""
    streams = np.random.SeedSequence([seed, crc32(name.encode())]).spawn(panels)[len(rows) : len(rows) + BATCH]

    def task(i: int) -> list[float]:
        with warnings.catch_warnings(), threadpool_limits(1):
            warnings.simplefilter("ignore")
            return one_panel(scenario, streams[i])

    return rows + fork_map(task, len(streams), workers)


def summary(rows: list[list[float]]) -> dict[str, float]:
    """Rates of rejection and coverage with their intervals, mean, spread and half-width."""
    table = pd.DataFrame(rows, columns=list(COLUMNS)).dropna()
    n = len(table)
    rejects, covers = int((table["p_value"] < 0.05).sum()), int((table["conf_low"].le(0) & table["conf_high"].ge(
        0)).sum())
    found = {"panels": len(rows), "identified": n / len(rows), "rejects": rejects / n, "covers": covers / n,
             "mean": table["estimate"].mean(), "sd": table["estimate"].std(), "se": table["std_error"].mean(),
             "half_width": (table["conf_high"] - table["conf_low"]).mean() / 2}
    for key, count in (("rejects", rejects), ("covers", covers)):
        low, high = stats.binomtest(count, n).proportion_ci(method="exact")
        found |= {f"{key}_low": low, f"{key}_high": high}
    return {key: round(float(value), 4) for key, value in found.items()}


def as_table(results: dict[str, list[list[float]]]) -> pd.DataFrame:
    """One line a scenario."""
    return pd.DataFrame([{"scenario": name, **summary(rows)} for name, rows in results.items() if rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--panels", type=int, default=400)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="scenarios whose name contains one of these")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seed", type=int, default=20261130)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    kept = json.loads(args.out.read_text()) if args.out.is_file() else {}
    results = kept.get("rows", {}) if kept.get("seed") == args.seed else {}
    wanted = {name: law for name, law in scenarios().items() if not args.only or any(w in name for w in args.only)}
    while todo := [name for name in wanted if len(results.get(name, [])) < args.panels]:
        name = min(todo, key=lambda n: len(results.get(n, [])))
        results[name] = extended(name, wanted[name], results.get(name, []), args.panels, args.seed, args.workers)
        found = {"seed": args.seed, "canopy_stats": cs.__version__, "columns": COLUMNS, "rows": results,
                 "summary": {one: summary(rows) for one, rows in results.items()}}
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(found) + "\n")
        print(name, json.dumps(summary(results[name])), flush=True)
    print("\n" + as_table(results).to_string(index=False))


if __name__ == "__main__":
    main()
