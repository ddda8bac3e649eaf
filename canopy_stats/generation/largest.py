"""The largest numbers of each row of a wide table, exactly those that topk finds, sooner on a CPU.

Columns are dealt into groups. One of the n largest numbers lies in a group whose own largest is among the n largest of
these, or equals the last of them; so n groups are looked through and not the whole row. On a GPU topk itself is quick.
"""

from __future__ import annotations

import math

import torch


def largest(table: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The ``count`` largest of each row (B, V), descending, and their columns (B, count). Which of equal numbers are
    named is not said."""
    size = _group_size(table.shape[1], count)
    if size < 2 or table.device.type != "cpu":
        values, columns = table.topk(count, dim=-1)
        return values, columns
    groups = table.shape[1] // size
    dealt, rest = table[:, : size * groups].view(-1, size, groups), table[:, size * groups:]
    chosen = dealt.amax(dim=1).topk(count, dim=-1, sorted=False).indices
    inside = dealt.gather(2, chosen[:, None].expand(-1, size, -1)).flatten(1)
    values, places = torch.cat([inside, rest], dim=1).topk(count, dim=-1)
    within = places // count * groups + chosen.gather(1, places % count)
    # What is left over by the groups keeps its order behind them.
    columns = torch.where(places < size * count, within, places + size * (groups - count))
    return values, columns


def _group_size(columns: int, count: int) -> int:
    """A power of two near the square root of columns over count: then looking at groups and into them costs alike."""
    return int(2 ** (math.log2(max(columns / count, 1)) // 2))
