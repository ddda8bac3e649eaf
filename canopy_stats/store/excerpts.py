"""A few rollouts of a run, for whoever looks at them where the run's files are not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from canopy_stats.schema import STEP_TERMS, Prompt, RunConfig
from canopy_stats.store.reading import Run

Pair = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Excerpt:
    """Some rollouts of a run with its prompts, its configuration, and its manifest without the list of shards."""

    config: RunConfig
    manifest: Mapping[str, Any]
    asked: tuple[Prompt, ...]
    rows: Mapping[Pair, Mapping[str, np.ndarray]]

    def prompts(self) -> list[Prompt]:
        """The prompts in their order, as the model received them."""
        return list(self.asked)

    def stored_steps(self, pairs: Sequence[Pair], columns: Sequence[str]) -> dict[Pair, Mapping[str, np.ndarray]]:
        """Step columns (N,) of some of the rollouts, given as (prompt index, rollout)."""
        return {pair: {name: self.rows[pair][name] for name in columns} for pair in pairs}


def excerpt(run: Run, pairs: Sequence[Pair]) -> Excerpt:
    """The rollouts of these (prompt index, rollout), with every term of their steps."""
    manifest = {name: value for name, value in run.manifest.items() if name != "shards"}
    return Excerpt(run.config, manifest, tuple(run.prompts()), run.stored_steps(pairs, ["token_id", *STEP_TERMS]))
