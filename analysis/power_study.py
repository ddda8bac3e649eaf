"""Whether the power that a pilot predicts is that of the studies themselves: cs.slope_power against brute force.

Usage: python analysis/power_study.py [--panels 200] [--only WORD ...] [--models interaction paper_beta robust]
                                      [--seed 20261201] [--out analysis/results/power_study.json]
Of each design a pilot of 300 prompts a task is drawn, and slope_power predicts from it; brute force draws studies of
the same size from the law itself and counts those with p < 0.05 and the sign of the effect. Both take as many panels,
and are written down design by design: what the output holds is not run again. Effects are in the law's unit, the
standard deviation of the true rate over the panel; slope_power is asked for the same difference in the pilot's unit.
"""

from __future__ import annotations

import argparse
import json
import warnings
from pathlib import Path
from typing import Any, Literal, get_args
from zlib import crc32

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

import canopy_stats as cs
from canopy_stats.mixed.inference.parallel import fork_map

RESULTS = Path(__file__).parent / "results" / "power_study.json"
Model = Literal["interaction", "paper_beta", "robust"]
MODELS: tuple[Model, ...] = get_args(Model)
PILOT_PROMPTS = 300


def designs() -> dict[str, cs.Scenario]:
    """Four studies, by name: laws under which every one of the models can keep its level or nearly."""
    flat = cs.Scenario(gap=0.2, base_slope=0.05, rollouts=12, precision=15, tasks=2)
    return {"3 x 2, 40 prompts, effect 0.1": flat.but(prompts=40, difference=0.1),
            "3 x 2, 40 prompts, effect 0.2": flat.but(prompts=40, difference=0.2),
            "6 x 4, 25 prompts, effect 0.1": flat.but(families=6, tasks=4, prompts=25, difference=0.1),
            "3 x 2, slopes vary by family, effect 0.3": flat.but(prompts=60, family_sd=0.1, difference=0.3)}


def predicted(scenario: cs.Scenario, model: Model, panels: int, stream: np.random.SeedSequence,
              workers: int) -> dict[str, float]:
    """What slope_power says of the design from one pilot."""
    pilot = cs.simulate_panel(scenario.but(prompts=PILOT_PROMPTS), np.random.default_rng(stream))
    in_its_unit = scenario.difference * pilot["R_bar"].std() / true_sd(scenario, stream)
    found = cs.slope_power(pilot, effect=in_its_unit, prompts=[scenario.prompts], rollouts=[12], model=model,
                           families=[scenario.families], replicates=panels, null=False, workers=workers).table.iloc[0]
    return {"predicted": float(found["power"]), "predicted_error": float(found["mc_error"])}


def true_sd(scenario: cs.Scenario, stream: np.random.SeedSequence) -> float:
    """Standard deviation of the true rate: that of the panel without measurement error."""
    exact = cs.simulate_panel(scenario.but(prompts=PILOT_PROMPTS, rollouts=None), np.random.default_rng(stream))
    return float(exact["R_bar"].std())


def counted(scenario: cs.Scenario, model: Model, panels: int, stream: np.random.SeedSequence,
            workers: int) -> dict[str, float]:
    """Share of studies from the law itself that find the effect."""
    streams = stream.spawn(panels)

    def found(i: int) -> bool:
        with warnings.catch_warnings(), threadpool_limits(1):
            warnings.simplefilter("ignore")
            change = cs.slope_change(cs.simulate_panel(scenario, np.random.default_rng(streams[i])), model=model)
        return bool(change.difference.pvalue < 0.05 and change.difference.estimate > 0)

    share = float(np.mean(fork_map(found, panels, workers)))
    return {"counted": share, "counted_error": float(np.sqrt(max(share * (1 - share), 0.25 / panels) / panels))}


def compared(name: str, model: Model, panels: int, seed: int, workers: int) -> dict[str, Any]:
    """One design by one model, both ways."""
    scenario, streams = designs()[name], np.random.SeedSequence([seed, crc32(name.encode())]).spawn(2)
    return {"design": name, "model": model, "panels": panels,
            **predicted(scenario, model, panels, streams[0], workers),
            **counted(scenario, model, panels, streams[1], workers)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--panels", type=int, default=200)
    parser.add_argument("--only", nargs="+", metavar="WORD", help="designs whose name contains one of these")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seed", type=int, default=20261201)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    kept = json.loads(args.out.read_text()) if args.out.is_file() else {}
    rows = kept.get("rows", []) if kept.get("seed") == args.seed else []
    done = {(row["design"], row["model"]) for row in rows if row["panels"] >= args.panels}
    for model in args.models:
        for name in designs():
            if (name, model) in done or args.only and not any(word in name for word in args.only):
                continue
            row = compared(name, model, args.panels, args.seed, args.workers)
            rows = [one for one in rows if (one["design"], one["model"]) != (name, model)] + [row]
            args.out.parent.mkdir(parents=True, exist_ok=True)
            args.out.write_text(json.dumps({"seed": args.seed, "canopy_stats": cs.__version__, "rows": rows},
                                           indent=1) + "\n")
            print(json.dumps(row), flush=True)
    table = pd.DataFrame(rows)
    table["off_by"] = table["predicted"] - table["counted"]
    print("\n" + table.round(3).to_string(index=False))


if __name__ == "__main__":
    main()
