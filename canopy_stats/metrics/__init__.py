"""From rollouts to numbers: canopy entropy, correlations, semantic diversity, control variates, pooling.

``embed`` and ``rho`` are modules here; their functions are public as ``cs.embed`` and ``cs.rho``. Nothing heavy is
imported.
"""

from __future__ import annotations

from canopy_stats.metrics.cap import cap_curve
from canopy_stats.metrics.control import ControlledMeans, adjust
from canopy_stats.metrics.diversity import diversity_metrics
from canopy_stats.metrics.embed import embed_texts
from canopy_stats.metrics.embedding.vectors import Embeddings
from canopy_stats.metrics.measures import measure
from canopy_stats.metrics.paired import paired_bootstrap
from canopy_stats.metrics.pooling import pool, three_level
from canopy_stats.metrics.rho import RhoResult
from canopy_stats.metrics.tree import tree_metrics

__all__ = ["ControlledMeans", "Embeddings", "RhoResult", "adjust", "cap_curve", "diversity_metrics", "embed_texts",
           "measure", "paired_bootstrap", "pool", "three_level", "tree_metrics"]
