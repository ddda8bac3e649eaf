"""The paper's check of linearity: how far a parabola moves the base slope and its change, in standard errors of the
linear model, and the likelihood-ratio test of the quadratic terms.

Runs in seconds on the demo panel in the package, on another panel (--panel FILE), or on a study (--study FOLDER).
"""

import sys

from canopy_stats.cli.script import script

if __name__ == "__main__":
    sys.exit(script(__file__, __doc__))
