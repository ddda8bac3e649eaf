"""Choosing and repeating the rows of a model's own cache, whatever it is made of.

Caches differ by model: lists of layers with keys and values, recurrent states, dictionaries of tuples. What tells a
cache's batch axis is a second one made with two rows: it is the axis in which the two differ.
"""

from __future__ import annotations

import copy
from collections import UserDict
from collections.abc import Callable, Iterator
from typing import Any

import torch
from transformers import PreTrainedConfig

Path = tuple[Any, ...]
Axes = dict[Path, int]


def batch_axes(one: Any, two: Any) -> Axes:
    """The batch axis of each tensor, by its place, from the caches of one row and of two equal rows."""
    pairs = {path: [tensor] for path, tensor in _tensors(one)}
    for path, tensor in _tensors(two):
        pairs[path].append(tensor)
    axes = {}
    for path, (a, b) in pairs.items():
        differ = [axis for axis in range(a.dim()) if a.shape[axis] != b.shape[axis]]
        if differ:
            axes[path] = differ[0]
    return axes


def select_rows(cache: Any, axes: Axes, rows: torch.Tensor) -> Any:
    """A cache that holds copies of the given rows (n,) int64; tensors without a batch axis are copied as they are."""
    return _rebuilt(cache, (), lambda path, x: x.index_select(axes[path], rows) if path in axes else x.clone(), {})


def tensor_bytes(cache: Any) -> int:
    """Memory of all tensors, each counted once."""
    return sum(tensor.nbytes for _, tensor in _tensors(cache))


def _tensors(cache: Any) -> Iterator[tuple[Path, torch.Tensor]]:
    found: list[tuple[Path, torch.Tensor]] = []

    def note(path: Path, tensor: torch.Tensor) -> torch.Tensor:
        found.append((path, tensor))
        return tensor

    _rebuilt(cache, (), note, {})
    yield from found


def _rebuilt(value: Any, path: Path, change: Callable[[Path, torch.Tensor], torch.Tensor], made: dict[int, Any]) -> Any:
    """The same structure with its tensors changed. ``made`` keeps what is shared shared."""
    if id(value) in made:
        return made[id(value)]
    if isinstance(value, torch.Tensor):
        new: Any = change(path, value)
    elif isinstance(value, list | tuple):
        parts = [_rebuilt(v, (*path, i), change, made) for i, v in enumerate(value)]
        new = parts if isinstance(value, list) else tuple(parts)
    elif isinstance(value, dict | UserDict):
        new = copy.copy(value)
        for key in list(value):
            new[key] = _rebuilt(value[key], (*path, key), change, made)
    elif type(value).__module__.startswith("transformers.") and not isinstance(value, PreTrainedConfig | type):
        new = copy.copy(value)
        for name, part in vars(value).items():
            setattr(new, name, _rebuilt(part, (*path, name), change, made))
    else:
        return value
    made[id(value)] = new
    return new
