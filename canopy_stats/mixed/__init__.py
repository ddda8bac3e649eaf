"""Mixed models with lme4's formulas: linear ones, and (beta, ordered beta, gaussian) ones with a dispersion model."""

from canopy_stats.mixed.certificate import Certificate
from canopy_stats.mixed.fit import Fit
from canopy_stats.mixed.formula import AliasedWarning
from canopy_stats.mixed.glmm import glmm
from canopy_stats.mixed.lmm import lmm

__all__ = ["AliasedWarning", "Certificate", "Fit", "glmm", "lmm"]
