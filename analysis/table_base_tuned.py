"""The paper's comparison of base and fine-tuned models: GenPPL, BF, CE*, covariance and correlations of length and
entropy rate, diversity and lengths, pooled over the prompts of each family and task.

Runs in seconds on the demo panel in the package, on another panel (--panel FILE), or on a study (--study FOLDER).
"""

import sys

from canopy_stats.cli.script import script

if __name__ == "__main__":
    sys.exit(script(__file__, __doc__))
