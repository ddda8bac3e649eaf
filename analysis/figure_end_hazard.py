"""Heat map of the chance that a step draws an end token, by position, family, variant and task.

Needs rollouts: --study FOLDER, a folder that `canopy-stats demo --out FOLDER` (or `make demo`) leaves.
"""

import sys

from canopy_stats.cli.script import script

if __name__ == "__main__":
    sys.exit(script(__file__, __doc__))
