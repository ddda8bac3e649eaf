"""The look that every figure shares: colours, widths and matplotlib's settings.

Colours are Okabe and Ito's, which people with colour-blindness tell apart.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

BLUE, VERMILLION, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
SKY, ORANGE, YELLOW, BLACK = "#56B4E9", "#E69F00", "#F0E442", "#000000"
GREY = "#6E6E6E"

COLUMN, PAGE = 3.4, 7.0
"""Widths in inches of a paper's column and of its page."""

_RC = {
    "font.size": 8, "axes.titlesize": 8.5, "axes.labelsize": 8, "legend.fontsize": 8,
    "xtick.labelsize": 7, "ytick.labelsize": 7, "figure.titlesize": 9.5,
    "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True,
    "axes.grid": True, "grid.color": "#E4E4E4", "grid.linewidth": 0.6, "axes.linewidth": 0.7,
    "legend.frameon": False, "lines.linewidth": 1.5, "savefig.dpi": 200,
    "text.parse_math": False, "svg.fonttype": "none", "svg.hashsalt": "canopy_stats",
}


@contextmanager
def styled() -> Iterator[None]:
    """matplotlib with this package's style, and its former settings afterwards."""
    import matplotlib as mpl

    with mpl.rc_context(_RC):
        yield
