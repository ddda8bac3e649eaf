"""The robust model's slopes in each family and task.

Runs in a minute on the demo panel in the package, on another panel (--panel FILE), or on a study (--study FOLDER).
"""

import sys

from canopy_stats.cli.script import script

if __name__ == "__main__":
    sys.exit(script(__file__, __doc__))
