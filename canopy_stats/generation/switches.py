"""The text lengths at which a model's attention may change, as its configuration names them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

_NAMES = re.compile(r"window|chunk_size|local_attention|original_max_position|index_topk|compress|block_size")
_LEAST, _MOST = 2, 16384
"""Longer texts are not tried: one forward pass over so many tokens takes too long."""


def switch_lengths(config: Any) -> list[int]:
    """Lengths named anywhere in a configuration that texts within its context can reach, ascending.

    Sliding and local windows, attention chunks, sparse indexers, and where scaled rotary positions change.
    """
    context = getattr(config, "max_position_embeddings", None) or _MOST
    named = {int(length) for length in _named(config.to_dict())}
    return sorted(length for length in named if _LEAST <= length < min(context, _MOST + 1))


def _named(part: Any, name: str = "") -> Iterator[int]:
    if isinstance(part, Mapping):
        for key, value in part.items():
            yield from _named(value, str(key))
    elif isinstance(part, list | tuple):
        for value in part:
            yield from _named(value, name)
    elif isinstance(part, int) and not isinstance(part, bool) and _NAMES.search(name):
        yield part
