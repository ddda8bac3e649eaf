"""Mixed models with lme4's formulas: linear ones, and (beta, ordered beta, gaussian) ones with a dispersion model."""

from canopy_stats.mixed.adapters import to_marginaleffects
from canopy_stats.mixed.bootstraps import Bootstrap, bootstrap
from canopy_stats.mixed.certificate import Certificate
from canopy_stats.mixed.compare import anova
from canopy_stats.mixed.diagnostics import QuantileResiduals, quantile_residuals
from canopy_stats.mixed.effect_plots import plot_effects
from canopy_stats.mixed.fit import Fit
from canopy_stats.mixed.fixed import AliasedWarning, NotEstimableWarning
from canopy_stats.mixed.hypotheses import hypothesis
from canopy_stats.mixed.margins import means, slopes
from canopy_stats.mixed.models import glmm, lmm
from canopy_stats.mixed.power_study import power
from canopy_stats.mixed.profiles import profile
from canopy_stats.mixed.ratios import RatioSet, ratio
from canopy_stats.mixed.storage import load_fit
from canopy_stats.mixed.variance import VarianceShares, variance_shares

__all__ = [
    "AliasedWarning",
    "Bootstrap",
    "Certificate",
    "Fit",
    "NotEstimableWarning",
    "QuantileResiduals",
    "RatioSet",
    "VarianceShares",
    "anova",
    "bootstrap",
    "glmm",
    "hypothesis",
    "lmm",
    "load_fit",
    "means",
    "plot_effects",
    "power",
    "profile",
    "quantile_residuals",
    "ratio",
    "slopes",
    "to_marginaleffects",
    "variance_shares",
]
