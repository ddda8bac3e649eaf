"""Length against each rollout's own diversity d = 1 − mean cosine to the prompt's other rollouts: Pearson, Spearman,
Kendall and covariance, pooled over prompts; and D within thirds of each prompt's rollouts by length.

Needs rollouts: --study FOLDER, a folder that `canopy-stats demo --out FOLDER` (or `make demo`) leaves.
"""

import sys

from canopy_stats.cli.script import script

if __name__ == "__main__":
    sys.exit(script(__file__, __doc__))
