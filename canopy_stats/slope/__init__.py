"""How fine-tuning changes the slope of semantic diversity on entropy rate."""

from canopy_stats.slope.paper import SlopeChange, slope_change, slope_table

__all__ = ["SlopeChange", "slope_change", "slope_table"]
