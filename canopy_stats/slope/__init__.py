"""How fine-tuning changes the slope of semantic diversity on entropy rate."""

from canopy_stats.slope.curve import SpecificationCurve, specification_curve
from canopy_stats.slope.paper import SlopeChange, slope_change, slope_table

__all__ = ["SlopeChange", "SpecificationCurve", "slope_change", "slope_table", "specification_curve"]
