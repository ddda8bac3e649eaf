"""What is to be done next of a study's runs, and what becomes of it: the one side that writes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from canopy_stats.schema import UserError
from canopy_stats.store.plan import blocks
from canopy_stats.study.executors.at_work import RunAtWork
from canopy_stats.study.executors.hand import Declined
from canopy_stats.study.executors.items import CheckModel, DrawShards, Item
from canopy_stats.study.executors.protocol import Say, Wanted
from canopy_stats.study.executors.tally import Tally
from canopy_stats.study.prompts import chosen

MOST_LOSSES = 3
"""Workers that one item may cost before it is taken to be its own fault."""


class Desk:
    """Hands out items and takes their results. Used as a context manager, which lets go of every run at the end."""

    def __init__(self, wanted: Sequence[Wanted], say: Say, progress: bool) -> None:
        runs = [RunAtWork(one.study, one.home, name) for one in wanted for name in one.names]
        self._runs = {run.id: run for run in runs}
        self._unbegun = {run.id: run for run in runs}
        self._ready: list[Item] = []
        self._checks: list[Item] = []
        self._under_way = 0
        self._losses = Counter[Item]()
        self._say, self._progress = say, progress
        self._expected = {run.id: _blocks_of(run) for run in runs}
        self.tally = Tally(sum(self._expected.values()))

    def __enter__(self) -> Desk:
        return self

    def __exit__(self, *error: object) -> None:
        for run in self._runs.values():
            run.close()

    @property
    def open(self) -> bool:
        """Whether anything is still to be done, or under way."""
        return bool(self._unbegun or self._ready or self._checks or self._under_way)

    def take(self, loaded: str | None) -> Item | None:
        """The next item for a worker that has this engine loaded; None where there is nothing to do just now.

        Work for the loaded engine comes first; a run is begun when there is nothing to draw of those that are, and
        runs are checked last, since a check costs a worker its engine.
        """
        item = self._first(loaded) or self._first(None)
        self._under_way += item is not None
        return item

    def _first(self, key: str | None) -> Item | None:
        def suits(one: Item | RunAtWork) -> bool:
            return key is None or one.model.key == key

        if (ready := next(filter(suits, self._ready), None)) is not None:
            self._ready.remove(ready)
            return ready
        if (run := next(filter(suits, self._unbegun.values()), None)) is not None:
            del self._unbegun[run.id]
            return run.begin()
        if (check := next(filter(suits, self._checks), None)) is not None:
            self._checks.remove(check)
        return check

    def done(self, item: Item, result: Any) -> None:
        """Write what came of an item. UserError where it cannot be done."""
        self._under_way -= 1
        if isinstance(result, Declined):
            raise UserError(result.words)
        run = self._runs[item.run]
        before = run.tokens
        following = run.after(item, result)
        for one in following:
            (self._checks if isinstance(one, CheckModel) else self._ready).append(one)
        self._count(run, item, run.tokens - before)

    def _count(self, run: RunAtWork, item: Item, tokens: int) -> None:
        if isinstance(item, DrawShards):
            self.tally.drew(len(item.blocks), tokens)
        elif run.id in self._expected:  # it was begun: some of its shards may have been there
            self.tally.shards += run.shards - self._expected.pop(run.id)
        if run.through:
            del self._runs[run.id]
            self._say(f"  {run.name}: {run.tokens:,} tokens drawn and checked")
        self.tell()

    def lost(self, item: Item, why: str) -> None:
        """A worker ended before the item was done: somebody else does it. UserError where it ended too many."""
        self._under_way -= 1
        self.tally.lost += 1
        self._losses[item] += 1
        name = self._runs[item.run].name
        if self._losses[item] >= MOST_LOSSES:
            raise UserError(f"{MOST_LOSSES} workers ended over the same part of {name} (the last: {why}). Is their "
                            "memory too small? Run the same command again with a smaller batch_size: it resumes.")
        if self._progress:
            self._say(f"  {name}: a worker was lost ({why}); its part is drawn by another")
        (self._checks if isinstance(item, CheckModel) else self._ready).insert(0, item)

    def tell(self) -> None:
        """Say how far it is, now and then."""
        if self._progress and self.tally.due():
            self._say(self.tally.line())


def _blocks_of(run: RunAtWork) -> int:
    study, task = run.study, run.study.runs[run.name].task
    count = chosen(study.tasks[task], study.prompts_per_task, study.few_shot, task).count
    return sum(1 for _ in blocks(count, study.rollouts))

