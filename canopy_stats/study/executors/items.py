"""The pieces of a run that any machine can do: begin it, draw shards, draw rollouts again, compare some with the model.

Each holds all that it needs and gives plain values back; none reads or writes a run's folder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from canopy_stats.checks import Finding, model_findings
from canopy_stats.drawing import AskedRun, Begun, Block, Redraw, begin, code_version, draw_shards, encoded
from canopy_stats.schema import Engine, ModelSource, Prompt, Rollout, RunConfig, RunKey
from canopy_stats.store import Excerpt, ShardTables


@dataclass(frozen=True)
class Model:
    """The engine that an item needs; ``key`` names it, so that a worker keeps the one that it has loaded."""

    key: str
    source: ModelSource = field(compare=False)
    variant: str = field(compare=False)
    engine: str | Engine = field(compare=False)
    options: Mapping[str, Any] = field(compare=False)


@dataclass(frozen=True, eq=False)
class Begin:
    """What an engine makes of a run before its first rollout: its prompts as token ids and its configuration."""

    run: str
    model: Model
    asked: AskedRun
    sources: Sequence[tuple[str, Any]]
    batch_size: int | str
    stored: Mapping[str, Any] | None

    def done_by(self, engine: Engine) -> Begun:
        return begin(engine, encoded(self.sources, engine), self.asked, self.batch_size, self.stored)


@dataclass(frozen=True)
class DrawnShard:
    """A shard's tables, the batch size really used, and the run's configuration where it was drawn."""

    tables: ShardTables
    batch_size: int
    config: RunConfig


@dataclass(frozen=True, eq=False)
class DrawShards:
    """Some shards of a run: one, or several for an engine that draws several at a time."""

    run: str
    model: Model
    config: RunConfig
    blocks: tuple[Block, ...]

    def done_by(self, engine: Engine) -> list[DrawnShard]:
        """The shards in their order."""
        config = replace(self.config, model=engine.describe(), code_version=code_version())
        drawn = {number: DrawnShard(tables, used, config)
                 for number, tables, used in draw_shards(engine, self.blocks, self.config)}
        return [drawn[number] for number in range(len(self.blocks))]


@dataclass(frozen=True, eq=False)
class DrawAgain:
    """Rollouts of a complete run that are drawn once more, at another batch size or in other surroundings."""

    run: str
    model: Model
    config: RunConfig
    prompts: Mapping[int, Prompt]
    redraw: Redraw

    def done_by(self, engine: Engine) -> list[Rollout]:
        """The rollouts, their prompts counted as in the run."""
        config, places = self.config, sorted(self.prompts)
        pairs = [(places.index(prompt), rollout) for prompt, rollout in self.redraw.pairs]
        drawn = engine.sample([self.prompts[i] for i in places], pairs, config.policy,
                              RunKey(config.seed, config.family, config.variant), self.redraw.batch_size)
        return [replace(one, prompt_index=places[one.prompt_index]) for one in drawn]


@dataclass(frozen=True, eq=False)
class CheckModel:
    """Some rollouts of a complete run against its model, loaded by other code: the second half of a check."""

    run: str
    model: Model
    looked: Excerpt
    source: ModelSource

    def done_without_engine(self) -> list[Finding]:
        return model_findings(self.looked, self.source, list(self.looked.rows))


Item = Begin | DrawShards | DrawAgain | CheckModel
