"""Densities of the lengths of rollouts that ended by themselves, by task, family and variant.

Needs rollouts: --study FOLDER, a folder that `canopy-stats demo --out FOLDER` (or `make demo`) leaves.
"""

import sys

from canopy_stats.cli.script import script

if __name__ == "__main__":
    sys.exit(script(__file__, __doc__))
