"""One run that others draw: which items it needs next, and what is written of their results. Nobody else writes it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from canopy_stats.checks import Finding, at_hand, report_of, stored_findings
from canopy_stats.drawing import AskedRun, Begun, Redraw, drift_stamp, redraws, writer_of
from canopy_stats.drift import Drift, choose_some, compared
from canopy_stats.schema import Caution, Rollout
from canopy_stats.store import RunWriter, ShardPlan, excerpt, stored_config
from canopy_stats.study import rollouts, worker
from canopy_stats.study.executors.items import (
    Begin,
    CheckModel,
    DrawAgain,
    DrawnShard,
    DrawShards,
    Item,
    Model,
)
from canopy_stats.study.spec import Study

TOGETHER = 8
"""Shards in one item for an engine that draws several at a time: it waits for the tail of the last only."""


class RunAtWork:
    """A run from its first item to its check; ``begin`` gives the first item, ``after`` those that follow a result."""

    def __init__(self, study: Study, home: Path, name: str) -> None:
        self.study, self.home, self.name = study, home, name
        self.id = f"{home}/{name}"
        self.tokens = self.shards = 0
        self.through = False
        self._planned = study.runs[name]
        self._source = self._planned.checkpoint.source(study.device)
        variant = str(self._planned.checkpoint.variant)
        self.model = Model(f"{home}/{self._planned.family}/{variant}", self._source, variant, study.engine,
                           study.engine_options)
        self._open = ExitStack()
        self._key: rollouts.StageKey | None = None
        self._stored: list[Finding] = []
        self._redrawn: list[tuple[Redraw, Drift]] = []

    @property
    def _path(self) -> Path:
        return self.home / "runs" / self.name

    def begin(self) -> Begin:
        """The first item; from now on the study knows what the run is drawn for."""
        from canopy_stats.generation.prompt_file import read_prompts

        study, planned = self.study, self._planned
        prompts = worker.prompts_of(self.home, planned.task)
        self._key = rollouts.begin(study, self.home, self.name, prompts)
        asked = AskedRun(planned.family, self.model.variant, planned.task, study.rollouts, study.policy, study.seed)
        return Begin(self.id, self.model, asked, read_prompts(prompts), study.batch_size, stored_config(self._path))

    def after(self, item: Item, result: Any) -> list[Item]:
        """Write what an item gave, and tell what is to be done next; nothing where others of its kind are under way,
        and nothing at the end."""
        if isinstance(item, Begin):
            return self._begun(result)
        if isinstance(item, DrawShards):
            return self._drawn(item, result)
        if isinstance(item, DrawAgain):
            return self._again(item.redraw, result)
        return self._check(result)

    def close(self) -> None:
        """Let go of the run's folder, whatever state it is in."""
        self._open.close()

    # --- one after the other ------------------------------------------------------------------------------------

    def _begun(self, begun: Begun) -> list[Item]:
        for line in begun.config.model.get("cautions", ()):
            warnings.warn(line, Caution, stacklevel=2)
        self._writer: RunWriter = self._open.enter_context(writer_of(self._path, begun, self._source))
        self._config, missing = begun.config, self._writer.missing
        size = TOGETHER if begun.mixes else 1
        self._missing = self.shards = len(missing)
        return [self._shard_item(missing[i:i + size]) for i in range(0, len(missing), size)] or self._complete()

    def _shard_item(self, shards: Sequence[ShardPlan]) -> DrawShards:
        blocks = tuple((tuple(self._writer.shard_prompts(shard)), shard) for shard in shards)
        return DrawShards(self.id, self.model, self._config, blocks)

    def _drawn(self, item: DrawShards, shards: Sequence[DrawnShard]) -> list[Item]:
        for (_, plan), shard in zip(item.blocks, shards, strict=True):
            self._writer.write_tables(plan, shard.tables, batch_size=shard.batch_size, drawn_by=shard.config)
            self.tokens += shard.tables.steps.num_rows
        self._missing -= len(shards)
        return [] if self._missing else self._complete()

    def _complete(self) -> list[Item]:
        """Every shard is there: draw some rollouts again."""
        if self._writer.finished:
            return self._close_run()
        self._run = self._writer.run()
        self._asked = redraws(self._run, self.study.drift_tokens, self._writer.here)
        prompts = self._run.prompts()
        again: list[Item] = [DrawAgain(self.id, self.model, self._config, {p: prompts[p] for p, _ in one.pairs}, one)
                             for one in self._asked]
        return again or self._finish()

    def _again(self, redraw: Redraw, again: Sequence[Rollout]) -> list[Item]:
        self._redrawn.append((redraw, compared(self._run, redraw.pairs, again, redraw.batch_size)))
        return [] if len(self._redrawn) < len(self._asked) else self._finish()

    def _finish(self) -> list[Item]:
        in_order = sorted(self._redrawn, key=lambda one: self._asked.index(one[0]))
        self._writer.finish(drift_stamp(self._run, in_order))
        return self._close_run()

    def _close_run(self) -> list[Item]:
        """The run is stored whole: stamp it, and look at it."""
        self._run = self._writer.run()
        self.close()
        rollouts.finish(self.home, self.name, self._key, self._run)
        if worker.kept_check(self.study, self._run) is not None:
            self.through = True
            return []
        self._stored = stored_findings(self._run)
        source = at_hand(self._run, worker.model_to_check(self.study, self.name), None)
        if source is None:
            return self._check(None)
        sample = excerpt(self._run, choose_some(self._run, self.study.check_sample, seed=0))
        return [CheckModel(self.id, self.model, sample, source)]

    def _check(self, with_model: Sequence[Finding] | None) -> list[Item]:
        worker.keep_check(self.study, self._run, report_of(self._run, self._stored, with_model))
        self.through = True
        return []

