"""The paper's beta mixed models side by side (semantic diversity, Vendi score, and semantic entropy where the panel has
it): coefficients of mean and dispersion, random effects, slopes on the link and the response scale, and their ratio.

Runs in seconds on the demo panel in the package, on another panel (--panel FILE), or on a study (--study FOLDER).
"""

import sys

from canopy_stats.cli.script import script

if __name__ == "__main__":
    sys.exit(script(__file__, __doc__))
