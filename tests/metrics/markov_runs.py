"""Rollouts of a Markov chain, drawn by numpy with exact terms, and stored as a real run."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from canopy_stats.schema import LENGTH, STOP, Prompt, Rollout, RunConfig, SamplingPolicy
from canopy_stats.store import RunWriter, prompts_hash

STATES = 6
END = STATES
WORDS = ["ash", "birch", "cedar", "elm", "fir", "holly"]


def table(low=0.002, high=0.05, seed=0, multiplier=1.0):
    """(STATES, STATES + 1): next-state probabilities; the last column ends, with a hazard that depends on the state."""
    rng = np.random.default_rng(seed)
    rows = rng.dirichlet(np.full(STATES, 0.5), size=STATES) + 1e-9
    hazard = np.linspace(low, high, STATES)[:, None] * multiplier
    return np.hstack([rows / rows.sum(1, keepdims=True) * (1 - hazard), hazard])


@dataclass
class Drawn:
    """Terms of P·M rollouts, prompt by prompt: sums (R,), and tokens and step terms as padded (R, T)."""

    prompt: np.ndarray
    length: np.ndarray
    stopped: np.ndarray
    tokens: np.ndarray
    entropy: np.ndarray
    logprob: np.ndarray
    hazard: np.ndarray

    @property
    def sums(self):
        """H, S, A (R,)"""
        return self.entropy.sum(1), -self.logprob.sum(1), self.hazard.sum(1)

    @property
    def martingales(self):
        entropy, surprisal, hazard = self.sums
        return np.column_stack([surprisal - entropy, self.stopped - hazard])


def draw(tables, m, cap, rng):
    """Draw m rollouts of each table (P, STATES, STATES + 1), prompt p starting in state p % STATES."""
    law = np.asarray(tables)
    p = len(law)
    prompt = np.repeat(np.arange(p), m)
    row_entropy = -np.sum(law * np.log(law), axis=2)
    cumulative = law.cumsum(axis=2)
    state = prompt % STATES
    tokens = np.full((p * m, cap), -1, np.int32)
    entropy, logprob, hazard = (np.zeros((p * m, cap)) for _ in range(3))
    alive = np.arange(p * m)
    for t in range(cap):
        at = prompt[alive], state[alive]
        drawn = np.minimum((rng.random((alive.size, 1)) > cumulative[at]).sum(1), END)
        tokens[alive, t], entropy[alive, t] = drawn, row_entropy[at]
        logprob[alive, t], hazard[alive, t] = np.log(law[(*at, drawn)]), law[(*at, END)]
        state[alive] = drawn
        alive = alive[drawn != END]
        if not alive.size:
            break
    length = (tokens >= 0).sum(1)
    return Drawn(prompt, length, (tokens == END).any(1), tokens, entropy, logprob, hazard)


def expectation(law, start, cap):
    """Exact mean H and mean N of the capped chain (STATES, STATES + 1) from a start state."""
    alive = np.eye(STATES)[start]
    row_entropy = -np.sum(law * np.log(law), axis=1)
    h = n = 0.0
    for _ in range(cap):
        h, n, alive = h + alive @ row_entropy, n + alive.sum(), alive @ law[:, :STATES]
    return h, n


def decode(ids):
    return " ".join(WORDS[i] for i in ids if i != END)


def make_prompts(n, salt=""):
    return [Prompt(f"p{i:02d}", hashlib.sha256(f"{salt}{i}".encode()).hexdigest(), [i], (i,)) for i in range(n)]


def rollouts_of(drawn, m):
    for r, n in enumerate(drawn.length):
        own = {"entropy": drawn.entropy, "logprob": drawn.logprob, "stop_probability": drawn.hazard}
        values = {k: v[r, :n] for name, v in own.items() for k in (name, f"{name}_full_offpolicy")}
        # No metric reads the variance of the surprisal.
        values |= {"kept_mass": np.ones(n), "surprisal_variance": np.zeros(n)}
        yield Rollout(r // m, r % m, drawn.tokens[r, :n], STOP if drawn.stopped[r] else LENGTH,
                      {k: v.astype(np.float32) for k, v in values.items()})


def store_run(path, *, prompts=4, m=20, cap=60, seed=0, salt="", text=decode, **names):
    """Draw and store a run; ``text`` turns token ids into a rollout's text."""
    listed = make_prompts(prompts, salt)
    fields = {"family": "oak", "variant": "base", "task": "walk", **names}
    config = RunConfig(**fields, n_rollouts=m, seed=seed, policy=SamplingPolicy(max_new_tokens=cap), engine="numpy",
                       batch_size=1, prompts_hash=prompts_hash(listed), model={"dtype": "float64"}, code_version="test")
    drawn = draw([table(0.02, 0.2)] * prompts, m, cap, np.random.default_rng(seed))
    ready = list(rollouts_of(drawn, m))
    with RunWriter(path, config, listed) as writer:
        for shard in writer.missing:
            part = [Rollout(r.prompt_index - shard.prompts[0], r.rollout, r.token_ids, r.finish_reason, r.steps)
                    for r in ready if r.prompt_index in shard.prompts and r.rollout in shard.rollouts]
            writer.write_shard(shard, part, text, batch_size=1)
        writer.finish(None)
        return writer.run()
