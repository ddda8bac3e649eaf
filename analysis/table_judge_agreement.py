"""How the judge of a study agrees with people: pairs, kappa, sensitivity and specificity.

Needs a study whose judge has the key `people`: --study FOLDER, a folder that `canopy-stats run` leaves.
"""

import sys

from canopy_stats.cli.script import script

if __name__ == "__main__":
    sys.exit(script(__file__, __doc__))
