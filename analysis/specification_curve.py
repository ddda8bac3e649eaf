"""How much of the slope's change hangs on modelling choices: every defensible specification, as table and figure.

Usage: python analysis/specification_curve.py [PANEL] [--workers 2] [--out runs/specification_curve]
PANEL is a .parquet or .csv file; several panels of the same runs, as NAME=FILE, make the embedder a choice. Without
one, the panel inside the package. Writes OUT.csv (one row per specification), OUT-agreement.csv, OUT.svg and OUT.png.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from threadpoolctl import threadpool_limits

import canopy_stats as cs
from canopy_stats.files import make_folder, write_atomic
from canopy_stats.panels import read_panel
from canopy_stats.report.figures import save
from canopy_stats.report.figures.specifications import specification_figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("panels", nargs="*", metavar="PANEL")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs/specification_curve"))
    args = parser.parse_args()
    panels = {name: read_panel(path) for name, _, path in (text.rpartition("=") for text in args.panels)}
    only = next(iter(panels.values())) if panels else cs.load_demo_panel()
    curve = cs.specification_curve(panels if len(panels) > 1 else only, workers=args.workers)
    make_folder(args.out.parent)
    write_atomic(args.out.with_suffix(".csv"), curve.table.to_csv(index=False).encode())
    write_atomic(Path(f"{args.out}-agreement.csv"), curve.agreement.to_csv(index=False).encode())
    save(specification_figure(curve.table, level=curve.level), args.out)
    print(curve.agreement.round(3).to_string(index=False))
    print(f"\n{curve.words}\n\n{curve.table['seconds'].sum():.0f} s of fitting; written: {args.out}.csv, .svg, .png")


if __name__ == "__main__":
    with threadpool_limits(1):
        main()
