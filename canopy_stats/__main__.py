"""``python -m canopy_stats``."""

import sys

from canopy_stats.cli import main

sys.exit(main())
