"""How often the change of rho(N, r) over families and tasks is wrong, and how wide its intervals are.

Usage: python analysis/rho_change_study.py [--panels 400] [--only NAME ...] [--workers 1] [--seed 20261125]
                                           [--out analysis/results/rho_change_study.json]
Scenarios that the output already holds for the seed and as many panels are not run again.

Panels of 3 x 4, 6 x 2 and 2 x 4 families and tasks with 40 prompts each. The change of Fisher's z varies by family, by
task and by cell with the standard deviation that a scenario names; prompts react to tuning alike in all families with
one of 0.2, and each cell's own noise has one of 0.4. Also the mean with a prior on how much families and tasks vary, as
the robust slope has it (:mod:`canopy_stats.slope.prior`). Rates come with 95% intervals (Clopper and Pearson).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pandas as pd
from scipy import stats

import canopy_stats as cs
from canopy_stats.mixed.inference.parallel import fork_map
from canopy_stats.slope.combine import CellGrid
from canopy_stats.slope.prior import with_prior

RESULTS = Path(__file__).parent / "results" / "rho_change_study.json"
PROMPTS = 40


def scenarios() -> dict[str, tuple[int, int, float, float]]:
    """Families, tasks, true change and standard deviation by family, task and cell, by name."""
    return {f"{f} x {t}, change {change:g}, sd {sd:g}": (f, t, change, sd) for f, t in ((3, 4), (6, 2), (2, 4))
            for change in (0.0, 0.3) for sd in (0.0, 0.14, 0.28)}


def panel_of(families: int, tasks: int, change: float, sd: float, rng: np.random.Generator) -> pd.DataFrame:
    """One panel; the columns that rho_change reads."""
    moved = change + sd * (rng.standard_normal((families, 1)) + rng.standard_normal((1, tasks))
                           + rng.standard_normal((families, tasks)))
    family, task, prompt, tuned = (a.ravel() for a in np.indices((families, tasks, PROMPTS, 2)))
    reaction = 0.2 * rng.standard_normal((tasks, PROMPTS))[task, prompt]
    z = tuned * (moved[family, task] + reaction) + 0.4 / np.sqrt(2) * rng.standard_normal(len(task))
    z = z + 0.3 * rng.standard_normal((tasks, PROMPTS))[task, prompt]
    return pd.DataFrame({
        "task": task.astype(str), "prompt_uid": [f"{t}/{p}" for t, p in zip(task, prompt, strict=True)],
        "model_name": family.astype(str), "model_variant": np.array(["base", "tuned"])[tuned],
        "CE": np.exp(rng.standard_normal(len(z))), "rho_pearson": np.tanh(z)})


def one_panel(scenario: tuple[int, int, float, float], stream: np.random.SeedSequence) -> list[list[float]]:
    """Estimate, p-value and interval of the population's mean, and of the same with a prior."""
    families, tasks, change, sd = scenario
    found = cs.rho_change(panel_of(families, tasks, change, sd, np.random.default_rng(stream)))
    row, cells = found.table.iloc[0], found.cells
    grid = CellGrid(*(pd.factorize(cells[name])[0] for name in ("model_name", "task")))
    prior = with_prior(cells["estimate"].to_numpy(), np.diag(cells["std_error"] ** 2), grid)
    return [[row["estimate"], row["p_value"], row["conf_low"], row["conf_high"]],
            [prior.estimate, prior.pvalue, *prior.interval]]


def summary(rows: np.ndarray, true: float) -> dict[str, Any]:
    """Rates of rejection and coverage with their intervals, mean and half-width, from rows (n, 4)."""
    estimate, p, low, high = rows.T
    found = {"mean": estimate.mean(), "sd": estimate.std(), "half_width": (high - low).mean() / 2}
    for name, hits in (("rejects", p < 0.05), ("covers", (low <= true) & (true <= high))):
        ends = stats.binomtest(int(hits.sum()), len(hits)).proportion_ci(method="exact")
        found |= {name: hits.mean(), f"{name}_low": ends.low, f"{name}_high": ends.high}
    return {name: round(float(value), 4) for name, value in found.items()}


def study(name: str, scenario: tuple[int, int, float, float], panels: int, seed: int, workers: int) -> dict[str, Any]:
    """One scenario over many panels."""
    streams = np.random.SeedSequence([seed, crc32(name.encode())]).spawn(panels)
    rows = np.array(fork_map(lambda i: one_panel(scenario, streams[i]), panels, workers))
    return {"panels": panels, "population": summary(rows[:, 0], scenario[2]), "prior": summary(rows[:, 1], scenario[2])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--panels", type=int, default=400)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="scenarios whose name contains one of these")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seed", type=int, default=20261125)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    kept = json.loads(args.out.read_text()) if args.out.is_file() else {}
    results = kept.get("scenarios", {}) if kept.get("seed") == args.seed else {}
    for name, scenario in scenarios().items():
        chosen = not args.only or any(word in name for word in args.only)
        if not chosen or results.get(name, {}).get("panels") == args.panels:
            continue
        results[name] = study(name, scenario, args.panels, args.seed, args.workers)
        print(name, json.dumps(results[name]), flush=True)
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps({"seed": args.seed, "canopy_stats": cs.__version__, "scenarios": results},
                                       indent=1) + "\n")


if __name__ == "__main__":
    main()
