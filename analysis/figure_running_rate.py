"""Running entropy rate: mean over the rollouts of at least t tokens of H_t / t, every 5 tokens, with
their number below.

Needs rollouts: --study FOLDER, a folder that `canopy-stats demo --out FOLDER` (or `make demo`) leaves.
"""

import sys

from canopy_stats.cli.script import script

if __name__ == "__main__":
    sys.exit(script(__file__, __doc__))
