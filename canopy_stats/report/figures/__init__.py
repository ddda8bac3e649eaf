"""The figures. Each function takes data frames and returns a matplotlib Figure; none of them fits anything.

Facets, families and variants come by name, with the variant ``base`` first.
"""

from canopy_stats.report.figures.along import active_profile, cohort_profile, cohorts, entropy_profile
from canopy_stats.report.figures.caps import cap_curves, cap_ticks
from canopy_stats.report.figures.decomposition import decomposition_bars
from canopy_stats.report.figures.diversity import common_support, diversity_against_rate, fitted_line
from canopy_stats.report.figures.end_maps import EndMap, end_logprob_map, end_top_k_map
from canopy_stats.report.figures.finding import cell_forest, finding_forest
from canopy_stats.report.figures.hazard import hazard_map, hazards
from canopy_stats.report.figures.lengths import (
    length_densities,
    length_edges,
    length_histograms,
    within_prompt,
    within_variances,
)
from canopy_stats.report.figures.power import power_figure
from canopy_stats.report.figures.residuals import residual_diagnostics
from canopy_stats.report.figures.rho import rho_figure
from canopy_stats.report.figures.running import running_rate, running_rates
from canopy_stats.report.figures.shares import share_bars
from canopy_stats.report.figures.slopes import slope_forest
from canopy_stats.report.figures.specifications import specification_figure
from canopy_stats.report.figures.style import save

__all__ = ["EndMap", "active_profile", "cap_curves", "cap_ticks", "cell_forest", "cohort_profile", "cohorts",
           "common_support", "decomposition_bars", "diversity_against_rate", "end_logprob_map", "end_top_k_map",
           "entropy_profile", "finding_forest", "fitted_line", "hazard_map", "hazards", "length_densities",
           "length_edges", "length_histograms", "power_figure", "residual_diagnostics", "rho_figure", "running_rate",
           "running_rates", "save", "share_bars", "slope_forest", "specification_figure", "within_prompt",
           "within_variances"]
