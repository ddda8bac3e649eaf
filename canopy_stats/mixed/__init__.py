"""Mixed models with lme4's formulas: linear ones, and (beta, ordered beta, gaussian) ones with a dispersion model."""

from canopy_stats.mixed.certificate import Certificate
from canopy_stats.mixed.effects.adapters import to_marginaleffects
from canopy_stats.mixed.effects.effect_plots import plot_effects
from canopy_stats.mixed.effects.margins import means, slopes
from canopy_stats.mixed.fit import Fit
from canopy_stats.mixed.formulas.fixed import AliasedWarning, NotEstimableWarning
from canopy_stats.mixed.inference.bootstraps import Bootstrap, bootstrap
from canopy_stats.mixed.inference.compare import anova
from canopy_stats.mixed.inference.diagnostics import QuantileResiduals, quantile_residuals
from canopy_stats.mixed.inference.hypotheses import hypothesis
from canopy_stats.mixed.inference.power_study import power
from canopy_stats.mixed.inference.profiles import profile
from canopy_stats.mixed.inference.ratios import RatioSet, ratio
from canopy_stats.mixed.inference.variance import VarianceShares, variance_shares
from canopy_stats.mixed.models import glmm, lmm
from canopy_stats.mixed.storage import load_fit

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
