"""Semantic diversity against entropy rate, with the curves of two models for each variant and the rates that both
variants reach shaded.

Runs in seconds on the demo panel in the package, on another panel (--panel FILE), or on a study (--study FOLDER).
"""

import sys

from canopy_stats.cli.script import script

if __name__ == "__main__":
    sys.exit(script(__file__, __doc__))
