"""An engine without torch: a Markov chain over a few tokens, so that tests of the store are fast."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from functools import cache

import numpy as np

from canopy_stats.schema import LENGTH, STEP_TERMS, STOP, Prompt, Rollout, RunConfig, SamplingPolicy
from canopy_stats.store import RunWriter, prompts_hash

END = 5
TABLE = np.array([
    [0.30, 0.20, 0.20, 0.10, 0.10, 0.10],
    [0.05, 0.50, 0.15, 0.15, 0.10, 0.05],
    [0.20, 0.20, 0.20, 0.10, 0.10, 0.20],
    [0.70, 0.05, 0.05, 0.05, 0.05, 0.10],
    [0.15, 0.15, 0.20, 0.20, 0.15, 0.15],
    [0.00, 0.00, 0.00, 0.00, 0.00, 1.00],
])


@dataclass
class FakeEngine:
    """Draws from TABLE sharpened by the temperature; ``drawn_at`` makes it lie about the temperature it draws at."""

    name: str = "fake"
    drawn_at: float | None = None
    fail_after: int | None = None
    sampled: list[tuple[int, ...]] = field(default_factory=list)
    weights: str = "w0"

    def describe(self):
        return {"model": "fake", "weights": self.weights, "dtype": "float64", "device": "cpu"}

    def encode(self, source):
        return tuple(source) if isinstance(source, list) else tuple(ord(c) % END for c in source)

    def decode(self, token_ids):
        return "".join("abcde"[t] for t in token_ids if t != END)

    def sample(self, prompts, rollouts, policy, key, batch_size):
        self.sampled.append(tuple(rollouts))
        # Any order is allowed, so a backward one is drawn here.
        for count, (prompt_index, rollout) in enumerate(reversed(rollouts)):
            if self.fail_after is not None and count >= self.fail_after:
                raise KeyboardInterrupt
            yield self._one(prompts[prompt_index], prompt_index, rollout, policy, key)

    def _one(self, prompt, prompt_index, rollout, policy, key):
        seed = json.dumps([key.seed, key.family, key.variant, prompt.prompt_hash, rollout])
        rng = np.random.default_rng(list(hashlib.sha256(seed.encode()).digest()))
        state, tokens, terms = prompt.token_ids[-1], [], []
        while len(tokens) < policy.max_new_tokens and (not tokens or tokens[-1] != END):
            before = state
            state = int(_cumulated(state, self.drawn_at or policy.temperature).searchsorted(rng.random(), "right"))
            tokens.append(state)
            terms.append(_terms(before, state, policy.temperature))
        steps = dict(zip(STEP_TERMS, np.array(terms, dtype=np.float32).T, strict=True))
        reason = STOP if tokens[-1] == END else LENGTH
        return Rollout(prompt_index, rollout, np.array(tokens, dtype=np.int32), reason, steps)


@cache
def _row(state, temperature):
    with np.errstate(divide="ignore"):
        law = np.exp(np.log(TABLE[state]) / temperature)
    return law / law.sum()


@cache
def _cumulated(state, temperature):
    cumulated = _row(state, temperature).cumsum()
    return cumulated / cumulated[-1]


@cache
def _terms(before, state, temperature):
    law = _row(before, temperature)
    entropy = -np.sum(law[law > 0] * np.log(law[law > 0]))
    variance = np.sum(law[law > 0] * (np.log(law[law > 0]) + entropy) ** 2)
    with np.errstate(divide="ignore"):
        logprob = np.log(law[state])
    return entropy, variance, logprob, law[END], 1.0, entropy, logprob, law[END]


def make_prompts(n=4):
    return [Prompt(f"p{i}", hashlib.sha256(str(i).encode()).hexdigest(), [i % END], (i % END,)) for i in range(n)]


def make_config(prompts, **changes):
    base = {"family": "fake", "variant": "base", "task": "chain", "n_rollouts": 100, "seed": 1,
            "policy": SamplingPolicy(max_new_tokens=20), "engine": "fake", "batch_size": 8,
            "prompts_hash": prompts_hash(prompts), "model": FakeEngine().describe(), "code_version": "test"}
    return RunConfig(**{**base, **changes})


def write_run(path, prompts, config, engine=None, shards=None):
    """Draw the missing shards of a run (or the given ones), and close it when all are there."""
    from canopy_stats.schema import RunKey

    engine = engine or FakeEngine()
    with RunWriter(path, config, prompts) as writer:
        for shard in writer.missing if shards is None else [writer.missing[i] for i in shards]:
            part, pairs = writer.shard_prompts(shard), shard.pairs
            key = RunKey(config.seed, config.family, config.variant)
            drawn = engine.sample(part, pairs, config.policy, key, config.batch_size)
            writer.write_shard(shard, drawn, engine.decode, batch_size=config.batch_size)
        if not writer.missing:
            writer.finish(None)
        return writer.run()
