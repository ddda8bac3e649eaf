"""How fine-tuning changes the slope of semantic diversity on entropy rate."""

from canopy_stats.slope.change import SlopeChange, change_from_dict
from canopy_stats.slope.curve import SpecificationCurve, specification_curve
from canopy_stats.slope.estimates import Estimate, Interval
from canopy_stats.slope.front import slope_change
from canopy_stats.slope.linearity import quadratic_check
from canopy_stats.slope.paper import slope_table
from canopy_stats.slope.power import SlopePower, slope_power
from canopy_stats.slope.scrutiny import Scrutiny, slope_scrutiny
from canopy_stats.slope.simulate import Scenario, simulate_panel

__all__ = ["Estimate", "Interval", "Scenario", "Scrutiny", "SlopeChange", "SlopePower", "SpecificationCurve",
           "change_from_dict", "quadratic_check", "simulate_panel", "slope_change", "slope_power", "slope_scrutiny",
           "slope_table", "specification_curve"]
