"""Rollouts drawn by vLLM, with the same law, the same random numbers and the same exact terms as the torch engine.

vLLM computes the logits and keeps the caches. What is drawn from them is decided in a logits processor by the code that
the torch engine uses, and its terms come back through vLLM's own output (:mod:`.carry`).
"""
