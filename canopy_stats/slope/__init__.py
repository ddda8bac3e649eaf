"""How fine-tuning changes the slope of semantic diversity on entropy rate."""

from canopy_stats.slope.change import slope_change
from canopy_stats.slope.estimates import Estimate, Interval, SlopeChange
from canopy_stats.slope.paper import slope_table
from canopy_stats.slope.scrutiny import Scrutiny, slope_scrutiny
from canopy_stats.slope.simulate import Scenario, simulate_panel

__all__ = ["Estimate", "Interval", "Scenario", "Scrutiny", "SlopeChange", "simulate_panel", "slope_change",
           "slope_scrutiny", "slope_table"]
