"""Draw rollouts from language models with exact entropy terms (needs the generate extra)."""
