"""How fine-tuning changes the slope of semantic diversity on entropy rate."""

from canopy_stats.slope.change import slope_change
from canopy_stats.slope.curve import SpecificationCurve, specification_curve
from canopy_stats.slope.estimates import Estimate, Interval, SlopeChange
from canopy_stats.slope.paper import slope_table
from canopy_stats.slope.power import Power, power
from canopy_stats.slope.scrutiny import Scrutiny, slope_scrutiny
from canopy_stats.slope.simulate import Scenario, simulate_panel

__all__ = ["Estimate", "Interval", "Power", "Scenario", "Scrutiny", "SlopeChange", "SpecificationCurve", "power",
           "simulate_panel", "slope_change", "slope_scrutiny", "slope_table", "specification_curve"]
