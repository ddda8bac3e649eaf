"""The finding: the change of slope in every version above the change of rho(N, r).

Runs in a minute on the demo panel in the package, on another panel (--panel FILE), or on a study (--study FOLDER).
"""

import sys

from canopy_stats.cli.script import script

if __name__ == "__main__":
    sys.exit(script(__file__, __doc__))
