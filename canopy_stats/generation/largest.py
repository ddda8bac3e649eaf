"""The largest numbers of each row of a wide table, exactly those that topk finds, several times as soon on a CPU.

There NumPy's partition, which compares many numbers at a time, works within a scratch table, on as many threads as
torch has. On a GPU topk itself is quick.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import numpy as np
import torch


def kth_largest(table: torch.Tensor, k: int, scratch: torch.Tensor) -> torch.Tensor:
    """The k-th largest number of each row (B, V), shape (B,); ``scratch`` (B, V) float32 is overwritten."""
    if table.device.type != "cpu":
        return table.topk(k, dim=-1, sorted=False).values.amin(dim=-1)
    select(scratch.copy_(table).numpy(), k)
    return scratch[:, table.shape[1] - k].clone()


def select(rows: np.ndarray, count: int) -> None:
    """Bring the ``count`` largest numbers of each row (B, V) to its end, the least of them first."""
    parts = np.array_split(rows, min(torch.get_num_threads(), len(rows)))
    place = rows.shape[1] - count
    if len(parts) == 1:
        rows.partition(place, axis=1)
        return
    threads = _threads(len(parts), os.getpid())
    for done in [threads.submit(part.partition, place, axis=1) for part in parts]:
        done.result()


@lru_cache(maxsize=4)
def _threads(count: int, process: int) -> ThreadPoolExecutor:
    """Of this ``process``: one that was forked has none of its parent's threads."""
    return ThreadPoolExecutor(count)
