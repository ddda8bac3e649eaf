"""Many independent pieces of work in processes forked from this one: nothing is pickled but the answers."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from itertools import count
from typing import Any, TypeVar

from canopy_stats.schema import UserError

T = TypeVar("T")
_shared: dict[int, Callable[[int], Any]] = {}
_keys = count()


def fork_map(task: Callable[[int], T], n: int, workers: int = 1) -> list[T]:
    """``[task(0), ..., task(n - 1)]``, in forked processes where that is possible.

    Forked processes see the task and all that it refers to, so only the answers travel. What a task draws at random
    must depend on its number alone; then the answer does not depend on ``workers``.
    """
    if workers < 1:
        raise UserError(f"workers is {workers}; give a whole number of at least 1.")
    if workers == 1 or n < 2 or "fork" not in multiprocessing.get_all_start_methods():
        return [task(i) for i in range(n)]
    key = next(_keys)
    _shared[key] = task
    try:
        context = multiprocessing.get_context("fork")
        with ProcessPoolExecutor(workers, mp_context=context) as pool:
            return list(pool.map(_call, [key] * n, range(n), chunksize=max(1, n // (8 * workers))))
    finally:
        del _shared[key]


def _call(key: int, i: int) -> Any:
    return _shared[key](i)
