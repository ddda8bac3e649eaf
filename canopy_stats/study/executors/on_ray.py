"""Rollouts drawn by the workers of a Ray cluster: each holds one engine, and whoever is lost is replaced.

Ray is not asked to restart a worker or to try a call again: both wait for ever when a node dies. What a lost worker had
in hand is given to another one, and everything that was stored stays.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from canopy_stats.schema import UserError
from canopy_stats.study.executors.desk import Desk
from canopy_stats.study.executors.hand import Hand
from canopy_stats.study.executors.items import Item
from canopy_stats.study.executors.protocol import Say, Wanted
from canopy_stats.study.spec import Study
from canopy_stats.study.worker import ONE_THREAD, QUIET, environment, import_path

OBJECT_STORE = 500_000_000
"""Bytes of the shared memory of a Ray that is started here: results stay there until they are written."""
LOOK = 1.0
"""Seconds between two looks at how far it is."""
MOST_FAILED_STARTS = 3


@dataclass(frozen=True)
class Ray:
    """Workers of the Ray cluster at ``address``; without one, of a Ray that lives here as long as the study is drawn.

    ``workers`` None: one for each GPU that the cluster has, or for each GPU group where the engine's options ask for
    several; without GPUs the study's ``workers``, or one for each core. Each has ``cpus`` cores and threads.
    """

    address: str | None = None
    workers: int | None = None
    cpus: int = 1
    object_store: int = OBJECT_STORE
    waits = True

    def __post_init__(self) -> None:
        if min(self.workers or 1, self.cpus) < 1:
            raise UserError("Ray needs at least one worker, of at least one core.")
        if find_spec("ray") is None:
            raise UserError("The executor 'ray' needs the package: pip install 'canopy-stats[ray]'.")

    def draw(self, out: Path, wanted: Sequence[Wanted], say: Say, progress: bool) -> None:
        """Draw and check runs; the parts of all of them are handed out together."""
        if not wanted:
            return
        with self._cluster(wanted[0].study) as (resources, here), Desk(wanted, say, progress) as desk:
            gpus = gpus_of_a_worker(wanted[0].study, resources)
            count = self.workers or _as_many(wanted[0].study, resources, gpus, self.cpus)
            say(f"  {count} workers of {self.cpus} core{'s' if self.cpus > 1 else ''}"
                + (f" and {gpus} GPU{'s' if gpus > 1 else ''}" if gpus else "") + f" each, at {here}")
            _work(desk, _Crew(count, self.cpus, gpus))

    @contextmanager
    def _cluster(self, study: Study) -> Iterator[tuple[Mapping[str, float], str]]:
        """Ray, connected or started: what the cluster has, and where it is."""
        import ray

        # A worker finds the package where this process does, also when it is not installed.
        variables = {**ONE_THREAD, "OMP_NUM_THREADS": str(self.cpus), "MKL_NUM_THREADS": str(self.cpus), **QUIET,
                     "PYTHONPATH": import_path()}
        began = not ray.is_initialized()
        if began and self.address:
            ray.init(address=self.address, log_to_driver=False, runtime_env={"env_vars": variables})
        elif began:
            # It has as many cores as its workers need, so that none waits for another's.
            cores = (self.workers or study.workers or os.cpu_count() or 1) * self.cpus
            with environment({**variables, "RAY_USAGE_STATS_ENABLED": "0"}):  # it would tell its makers of itself
                ray.init(address="local", log_to_driver=False, num_cpus=cores, object_store_memory=self.object_store,
                         include_dashboard=False)
        try:
            yield ray.cluster_resources(), self.address or "a Ray of its own"
        finally:
            if began:
                ray.shutdown()


def gpus_of_a_worker(study: Study, resources: Mapping[str, float]) -> int:
    """GPUs that one engine of the study needs: those over which it is split, and none where there are none."""
    if study.device == "cpu" or not resources.get("GPU"):
        return 0
    return int(study.engine_options.get("tensor_parallel_size", 1) * study.engine_options.get(
        "pipeline_parallel_size", 1))


def _as_many(study: Study, resources: Mapping[str, float], gpus: int, cpus: int) -> int:
    if gpus:
        return max(int(resources["GPU"] // gpus), 1)
    return study.workers or max(int(resources.get("CPU", 1) // cpus), 1)


def _work(desk: Desk, crew: _Crew) -> None:
    """Hand out items until nothing is left."""
    try:
        while desk.open:
            desk.tally.workers = crew.size
            for worker in crew.idle():
                item = desk.take(worker.loaded)
                if item is None:
                    break
                crew.give(worker, item)
            for item, result in crew.finished():
                if isinstance(result, _Lost):
                    desk.lost(item, result.why)
                else:
                    desk.done(item, result)
            desk.tell()
    finally:
        crew.dismiss()


@dataclass(frozen=True)
class _Lost:
    why: str


@dataclass(eq=False)
class _Worker:
    """An actor, and the key of the model that it holds."""

    actor: Any
    loaded: str | None = None


class _Crew:
    """The workers: those that start, wait, and have something in hand. A lost one is replaced by a new one, which may
    have to wait for the cluster's next free place: until it answers, it is given nothing."""

    def __init__(self, count: int, cpus: int, gpus: int) -> None:
        import ray

        self._ray, self._make = ray, ray.remote(Hand).options(num_cpus=cpus, num_gpus=gpus, max_restarts=0,
                                                              max_task_retries=0)
        self._gone = (ray.exceptions.RayActorError, ray.exceptions.ObjectLostError, ray.exceptions.OutOfMemoryError,
                      ray.exceptions.NodeDiedError, ray.exceptions.WorkerCrashedError)
        self._starting: dict[Any, _Worker] = {}
        self._idle: list[_Worker] = []
        self._busy: dict[Any, tuple[_Worker, Item]] = {}
        self._failed_starts = 0
        for _ in range(count):
            self._hire()

    @property
    def size(self) -> int:
        """Workers that answer."""
        return len(self._idle) + len(self._busy)

    def idle(self) -> list[_Worker]:
        return list(self._idle)

    def give(self, worker: _Worker, item: Item) -> None:
        self._idle.remove(worker)
        worker.loaded = item.model.key
        self._busy[worker.actor.do.remote(item)] = worker, item

    def finished(self) -> Iterator[tuple[Item, Any]]:
        """Items that are done or lost by now, after a short wait."""
        ready, _ = self._ray.wait([*self._starting, *self._busy], num_returns=1, timeout=LOOK)
        for reference in ready:
            if reference in self._starting:
                self._started(reference)
            else:
                worker, item = self._busy.pop(reference)
                yield item, self._result(reference, worker)

    def _result(self, reference: Any, worker: _Worker) -> Any:
        try:
            result = self._ray.get(reference)
        except self._gone as error:
            self._ray.kill(worker.actor)  # where it is only out of reach, nobody must wait for it
            self._hire()
            return _Lost(type(error).__name__)
        self._idle.append(worker)
        return result

    def _hire(self) -> None:
        worker = _Worker(self._make.remote())
        self._starting[worker.actor.place.remote()] = worker

    def _started(self, reference: Any) -> None:
        worker = self._starting.pop(reference)
        try:
            self._ray.get(reference)
        except self._gone as error:
            self._failed_starts += 1
            if self._failed_starts >= MOST_FAILED_STARTS:
                raise UserError(f"Ray's workers do not start ({type(error).__name__}): see that every machine has this "
                                "package in the same version, and the logs in /tmp/ray.") from error
            self._hire()
            return
        self._failed_starts = 0
        self._idle.append(worker)

    def dismiss(self) -> None:
        """End every worker, also in the middle of something."""
        for worker in [*self._starting.values(), *self._idle, *(w for w, _ in self._busy.values())]:
            self._ray.kill(worker.actor)
