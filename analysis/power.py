"""Power of a planned study from a pilot panel: how many prompts, rollouts and families?

Usage: python analysis/power.py [PANEL] [--effect 0.1] [--prompts 25,50,100] [--rollouts 5,10,25] [--families 3]
                                [--model robust] [--budget 1e6] [--sims 100] [--quick] [--workers 2] [--out runs/power]
PANEL is a .parquet or .csv file; without one, the panel inside the package. Writes OUT.csv, OUT.svg and OUT.png.
--quick: the interaction model by its closed form, a minute instead of many.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from threadpoolctl import threadpool_limits

import canopy_stats as cs
from canopy_stats.files import make_folder, write_atomic
from canopy_stats.panels import read_panel
from canopy_stats.report.figures import save
from canopy_stats.report.figures.power import power_figure


def numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("panel", nargs="?")
    parser.add_argument("--effect", type=float, default=0.1)
    parser.add_argument("--prompts", type=numbers, default=[25, 50, 100])
    parser.add_argument("--rollouts", type=numbers, default=[5, 10, 25])
    parser.add_argument("--families", type=numbers)
    parser.add_argument("--model", default="robust", choices=["robust", "interaction", "paper_beta"])
    parser.add_argument("--budget", type=float, help="tokens to split between prompts and rollouts")
    parser.add_argument("--sims", type=int, help="panels of each size")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs/power"))
    args = parser.parse_args()
    panel = read_panel(args.panel) if args.panel else cs.load_demo_panel()
    model, method = ("interaction", "closed") if args.quick else (args.model, "simulation")
    found = cs.slope_power(panel, effect=args.effect, prompts=args.prompts, rollouts=args.rollouts,
                           families=args.families, model=model, method=method, replicates=args.sims, seed=args.seed,
                           workers=args.workers)
    make_folder(args.out.parent)
    write_atomic(args.out.with_suffix(".csv"), found.table.to_csv(index=False).encode())
    save(power_figure(found.table), args.out)
    print(found.table.round(3).to_string(index=False))
    print(f"\n{found.words}\n{found.recommend(args.budget or float(found.table['tokens'].median()))}")
    print(f"{found.table['seconds'].sum():.0f} s of fitting; written: {args.out}.csv, .svg, .png")


if __name__ == "__main__":
    with threadpool_limits(1):
        main()
