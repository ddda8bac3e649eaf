"""Mean entropy of the next token along fixed cohorts (rollouts of at least L tokens, up to L), so that rollouts
that stop early do not move the mean; and how many run.

Needs rollouts: --study FOLDER, a folder that `canopy-stats demo --out FOLDER` (or `make demo`) leaves.
"""

import sys

from canopy_stats.cli.script import script

if __name__ == "__main__":
    sys.exit(script(__file__, __doc__))
