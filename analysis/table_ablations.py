"""Slopes and their ratio on the whole panel, without each family and each task, and on the ablations of a study
(--study FOLDER; those in its folder panels/).

Runs in seconds on the demo panel in the package, on another panel (--panel FILE), or on a study (--study FOLDER).
"""

import sys

from canopy_stats.cli.script import script

if __name__ == "__main__":
    sys.exit(script(__file__, __doc__))
