"""An executor by its name."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from canopy_stats.schema import UserError
from canopy_stats.study.executors.local import Local
from canopy_stats.study.executors.on_ray import Ray
from canopy_stats.study.executors.protocol import Executor
from canopy_stats.study.executors.slurm import Slurm

EXECUTORS: Mapping[str, Callable[[], Executor]] = {"local": Local, "ray": Ray, "slurm": Slurm}


def executor_of(given: str | Executor) -> Executor:
    """An executor that was given, or one by its name with its usual settings."""
    if not isinstance(given, str):
        return given
    if given not in EXECUTORS:
        raise UserError(f"There is no executor {given!r}; choose among {', '.join(EXECUTORS)}.")
    return EXECUTORS[given]()
