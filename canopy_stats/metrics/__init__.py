"""From rollouts to numbers: canopy entropy, correlations, semantic diversity, control variates, pooling.

A function may have its module's name (``embed``), so the names are bound here and now rather than on first use;
nothing heavy is imported by it.
"""

from __future__ import annotations

from canopy_stats.metrics.cap import cap_curve
from canopy_stats.metrics.control import Adjusted, adjust
from canopy_stats.metrics.diversity import diversity_metrics
from canopy_stats.metrics.embed import Embeddings, embed, embed_texts
from canopy_stats.metrics.measures import measure
from canopy_stats.metrics.paired import paired_bootstrap
from canopy_stats.metrics.pooling import pool, three_level
from canopy_stats.metrics.rho import RhoResult, rho
from canopy_stats.metrics.tree import tree_metrics

__all__ = ["Adjusted", "Embeddings", "RhoResult", "adjust", "cap_curve", "diversity_metrics", "embed", "embed_texts",
           "measure", "paired_bootstrap", "pool", "rho", "three_level", "tree_metrics"]
