"""Prompts, rollouts, what an engine must do to draw them, and what decides a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import numpy as np

from canopy_stats.schema.columns import EXACT
from canopy_stats.schema.policy import SamplingPolicy

SCHEMA_VERSION = 2

STOP = "stop"
"""Finish reason of a rollout that an end token or a stop string ended (also exactly at the cap)."""
LENGTH = "length"
"""Finish reason of a rollout that the length cap ended."""
IMPORTED = "imported"
"""The engine of a run that was drawn elsewhere."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt, as its file has it and as the model receives it.

    ``source`` is what the user wrote (a string, a list of chat messages, or a list of token ids), ``token_ids``
    what is fed to the model, and ``prompt_hash`` the SHA-256 of the canonical JSON of ``source`` alone: it names
    the prompt across files, families and variants, and keys its randomness.
    """

    prompt_id: str
    prompt_hash: str
    source: str | list[dict[str, str]] | list[int]
    token_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Rollout:
    """One drawn rollout. ``steps`` maps each name of :data:`STEP_TERMS` to a float32 array of shape (N,); less is known
    of a rollout that came from elsewhere without its model (see :data:`STEPS_OF`). ``text`` None is decoded from the
    token ids."""

    prompt_index: int
    rollout: int
    token_ids: np.ndarray  # (N,) int32, end token included
    finish_reason: str
    steps: Mapping[str, np.ndarray]
    text: str | None = None


class Engine(Protocol):
    """What draws rollouts. ``sample`` is called once per shard, and its batch schedule may depend on the shard and
    the batch size alone; rollouts come in any order, and each depends only on its key
    (seed, family, variant, prompt hash, rollout index)."""

    name: str

    def describe(self) -> dict[str, Any]:
        """Provenance for the manifest: model, revision or weight hash, dtype, device, threads, versions."""
        ...

    def encode(self, source: Any) -> tuple[int, ...]:
        """A prompt's source as the token ids that the model receives."""
        ...

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of a rollout, without special tokens."""
        ...

    def sample(self, prompts: Sequence[Prompt], rollouts: Sequence[tuple[int, int]], policy: SamplingPolicy,
               key: RunKey, batch_size: int) -> Iterator[Rollout]:
        """Draw the (prompt index, rollout index) pairs of one shard."""
        ...


@dataclass(frozen=True, slots=True)
class RunKey:
    """The run's share of the randomness key."""

    seed: int
    family: str
    variant: str


@dataclass(frozen=True, slots=True)
class RunConfig:
    """Everything that decides a run's content. Two runs with equal configurations are the same run."""

    family: str
    variant: str
    task: str
    n_rollouts: int
    seed: int
    policy: SamplingPolicy
    engine: str
    batch_size: int
    prompts_hash: str
    model: Mapping[str, Any] = field(default_factory=dict)
    """What the engine says of itself: model, weight hash or revision, adapter, dtype, device, threads, chat
    template, system prompt, versions of the packages that decide the numbers."""
    code_version: str = ""
    terms: str = EXACT
    """What is known of the entropies: one of :data:`TERMS`. Whatever was drawn here is exact."""
    counts: tuple[int, ...] | None = None
    """Rollouts of each prompt, where they are not as many of each; ``n_rollouts`` is then the largest of them."""

    def to_dict(self) -> dict[str, Any]:
        """The fields by name; those that came later are left out at their defaults."""
        later = {**({"terms": self.terms} if self.terms != EXACT else {}),
                 **({"counts": list(self.counts)} if self.counts is not None else {})}
        whole = {**asdict(self), "policy": self.policy.to_dict(), "model": dict(self.model), **later}
        return {k: v for k, v in whole.items() if k not in ("terms", "counts") or k in later}

    def rollouts_of(self, n_prompts: int) -> list[int]:
        """How many rollouts each of the prompts has."""
        return [self.n_rollouts] * n_prompts if self.counts is None else list(self.counts)
