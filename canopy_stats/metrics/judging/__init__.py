"""Who says whether two rollouts mean the same: embeddings, a function, or a language model behind an endpoint.

cases -> wording -> (cache, pace) -> endpoint; ``local`` holds the judges that need no network. The public functions
are in :mod:`canopy_stats.metrics.judge`.
"""
