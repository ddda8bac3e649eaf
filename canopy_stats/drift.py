"""Drawing stored rollouts again: how many tokens flip, and how far the terms move, when only the batch changes."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np

from canopy_stats.schema import STEP_TERMS, Engine, Prompt, Rollout, RunConfig, RunKey
from canopy_stats.seeds import generator
from canopy_stats.store import Run

BATCH_SIZES = (1, 7)
"""A run is drawn again at these batch sizes; neither divides a usual one."""
SPREAD = 4
"""Rollouts come from about so many parts of a large run."""
Pair = tuple[int, int]
StoredSteps = Mapping[Pair, Mapping[str, np.ndarray]]


class Drawn(Protocol):
    """What is looked at of a run here, or of an excerpt of one."""

    @property
    def config(self) -> RunConfig: ...

    def prompts(self) -> list[Prompt]: ...

    def stored_steps(self, pairs: Sequence[Pair], columns: Sequence[str]) -> StoredSteps: ...


@dataclass(frozen=True, slots=True)
class Drift:
    """Stored rollouts against the same rollouts drawn again.

    A rollout that flips is another one afterwards, so its tokens count up to the flip: ``tokens`` are those compared,
    ``flips`` the rollouts that left the stored path. Differences are the largest before any flip, in nats.
    """

    batch_size: int
    rollouts: int
    tokens: int
    flips: int
    entropy_difference: float
    logprob_difference: float

    @property
    def flip_rate(self) -> float:
        """Flips per token compared."""
        return self.flips / max(self.tokens, 1)

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "flip_rate": self.flip_rate}


def choose_rollouts(run: Run, max_tokens: int, seed: int, shards: Collection[int] | None = None) -> list[Pair]:
    """(prompt index, rollout) pairs in an order that ``seed`` shuffles, until they hold ``max_tokens`` tokens.

    With ``shards`` (numbers) only rollouts of these are chosen. Lengths alone are read, of one part after the other
    until there are enough.
    """
    rng = generator(seed)
    parts = [p for p in run.parts() if shards is None or any(s["number"] in shards for s in p.shards)]
    position = {p.prompt_id: i for i, p in enumerate(run.prompts())}
    chosen: list[Pair] = []
    for i in rng.permutation(len(parts)):
        rows = parts[i].only(shards).rollouts(["prompt_id", "rollout", "length"])
        order = rng.permutation(rows.num_rows)
        share = max_tokens if len(parts) <= SPREAD else -(-max_tokens // SPREAD)
        wanted = np.searchsorted(np.cumsum(rows["length"].to_numpy()[order]), min(share, max_tokens)) + 1
        ids, index = rows["prompt_id"].to_pylist(), rows["rollout"].to_pylist()
        chosen += [(position[ids[r]], index[r]) for r in order[:wanted]]
        max_tokens -= int(rows["length"].to_numpy()[order[:wanted]].sum())
        if max_tokens <= 0:
            break
    return sorted(chosen)


def choose_some(run: Run, n: int, seed: int) -> list[tuple[int, int]]:
    """At most n (prompt index, rollout) pairs, each rollout of the run as likely as any other."""
    ends = np.cumsum(run.counts)
    chosen = np.sort(generator(seed).choice(int(ends[-1]), size=min(n, int(ends[-1])), replace=False))
    prompts = np.searchsorted(ends, chosen, side="right")
    return [(int(p), int(row - (ends[p] - run.counts[p]))) for p, row in zip(prompts, chosen, strict=True)]


def measure_drift(run: Drawn, engine: Engine, pairs: Sequence[tuple[int, int]], batch_size: int) -> Drift:
    """Draw the (prompt index, rollout) pairs of a complete run again at another batch size, and compare."""
    config = run.config
    key = RunKey(config.seed, config.family, config.variant)
    return compared(run, pairs, engine.sample(run.prompts(), list(pairs), config.policy, key, batch_size), batch_size)


def compared(run: Drawn, pairs: Sequence[Pair], again: Iterable[Rollout], batch_size: int) -> Drift:
    """Stored rollouts, given as (prompt index, rollout), against the same that were drawn again at a batch size."""
    stored = stored_rollouts(run, pairs)
    each = [_compare(stored[(r.prompt_index, r.rollout)], r) for r in again]
    tokens, flips, entropy, logprob = zip(*each, strict=True)
    return Drift(batch_size, len(each), sum(tokens), sum(flips), max(entropy), max(logprob))


def stored_rollouts(run: Drawn, pairs: Sequence[Pair]) -> StoredSteps:
    """The stored token_id, entropy, logprob (and other step columns) of some rollouts, each of shape (N,)."""
    return run.stored_steps(pairs, ["token_id", *STEP_TERMS])


def _compare(stored: Mapping[str, np.ndarray], again: Rollout) -> tuple[int, int, float, float]:
    """(tokens compared, 1 if the path was left, largest entropy difference, largest log-probability difference)."""
    n = min(len(stored["token_id"]), len(again.token_ids))
    same = stored["token_id"][:n] == again.token_ids[:n]
    flipped = not same.all()
    common = int(same.argmin()) if flipped else n
    # At the flip itself the law is still that of the common past; the drawn tokens differ.
    before = slice(0, common + flipped)
    entropy = np.abs(stored["entropy"][before] - again.steps["entropy"][before])
    logprob = np.abs(stored["logprob"][:common] - again.steps["logprob"][:common])
    return common + flipped, int(flipped), float(entropy.max(initial=0)), float(logprob.max(initial=0))
