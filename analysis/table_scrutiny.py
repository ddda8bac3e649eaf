"""The paper's headline slope (beta mixed model) beside the robust one, and in words whether they agree.

Runs in seconds on the demo panel in the package, on another panel (--panel FILE), or on a study (--study FOLDER).
"""

import sys

from canopy_stats.cli.script import script

if __name__ == "__main__":
    sys.exit(script(__file__, __doc__))
