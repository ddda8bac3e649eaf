"""Mean entropy of the next token by position, over the rollouts that still run, and how many do.

Needs rollouts: --study FOLDER, a folder that `canopy-stats demo --out FOLDER` (or `make demo`) leaves.
"""

import sys

from canopy_stats.cli.script import script

if __name__ == "__main__":
    sys.exit(script(__file__, __doc__))
