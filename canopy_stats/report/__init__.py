"""What people look at: tables of numbers and figures, made from finished frames. Nothing here fits a model."""

from canopy_stats.report import figures, frames, printed

__all__ = ["figures", "frames", "printed"]
