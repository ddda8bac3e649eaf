"""How fine-tuning changes the slope of semantic diversity on entropy rate."""

from canopy_stats.slope.curve import SpecificationCurve, specification_curve
from canopy_stats.slope.paper import SlopeChange, slope_change, slope_table
from canopy_stats.slope.power import Power, power

__all__ = ["Power", "SlopeChange", "SpecificationCurve", "power", "slope_change", "slope_table", "specification_curve"]
