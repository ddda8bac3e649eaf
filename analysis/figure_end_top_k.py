"""Steps at which an end token is among the k most likely, a row a rollout, sorted by length, with how many run.
k is the law's own; under another law run canopy_stats.end_in_top_k(run, k) on every run of the study first.

Needs rollouts: --study FOLDER, a folder that `canopy-stats demo --out FOLDER` (or `make demo`) leaves.
"""

import sys

from canopy_stats.cli.script import script

if __name__ == "__main__":
    sys.exit(script(__file__, __doc__))
