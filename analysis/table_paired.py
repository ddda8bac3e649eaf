"""Base against tuned on the same prompts: change of GenPPL, BF, CE*, covariance and correlations by family and
task, with intervals, p-values and false-discovery rates.

Runs in seconds on the demo panel in the package, on another panel (--panel FILE), or on a study (--study FOLDER).
"""

import sys

from canopy_stats.cli.script import script

if __name__ == "__main__":
    sys.exit(script(__file__, __doc__))
