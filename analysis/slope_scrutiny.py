"""The paper's slope and the robust one together, and in words what follows.

Usage: python analysis/slope_scrutiny.py [panel.parquet] [--paper paper_beta] [--csv FILE]
Without a panel it reads the one that comes with the package. The same as ``canopy-stats scrutinise``.
"""

import sys

from canopy_stats.cli import main

if __name__ == "__main__":
    sys.exit(main(["scrutinise", *sys.argv[1:]]))
