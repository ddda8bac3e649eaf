"""Store the numbers of the demo panel's tables in analysis/results/tables, with which the suite compares its own.

Run it after a change that is meant to move them, and look at the difference: ``python analysis/store_tables.py``.
"""

from __future__ import annotations

from pathlib import Path

import canopy_stats as cs
from canopy_stats import files, slope
from canopy_stats.report.catalogue import TABLES
from canopy_stats.report.source import Source

OUT = Path(__file__).parent / "results" / "tables"


def main() -> None:
    source = Source(cs.load_demo_panel(), slope)
    files.make_folder(OUT)
    for name, entry in TABLES.items():
        if not entry.lacks(source):
            files.write_atomic(OUT / f"{name}.csv", entry.make(source).to_csv(index=False).encode())
            print(OUT / f"{name}.csv")


if __name__ == "__main__":
    main()
