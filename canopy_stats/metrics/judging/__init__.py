"""Who says whether two rollouts mean the same: embeddings, a function, or a language model behind an endpoint.

comparisons -> judge_prompt -> request_pool (rate_limit, reply, outcome, verdict_file) -> openai; ``local`` holds the
judges that need no network. The public functions are in :mod:`canopy_stats.metrics.judge`.
"""
