"""A way to embed, and what it may return."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from canopy_stats.metrics.embedding.vectors import Flags, Vectors
from canopy_stats.schema import UserError

SCALED = 4096
"""Vectors that are scaled at a time."""


@dataclass(frozen=True, slots=True)
class Encoder:
    """A way to embed. ``identity`` decides the result and is None where it cannot be known (a callable); a prompt
    is given to ``encode`` as ``prompt``."""

    identity: Mapping[str, Any] | None
    encode: Callable[..., Any]
    too_long: Callable[[list[str]], Flags] = field(default=lambda t: np.zeros(len(t), np.bool_))
    name: str = ""


def unit_vectors(encoded: Any, n: int, name: str) -> Vectors:
    """Vectors (n, d) scaled to length 1; UserError where that cannot be done. In double precision some at a time, so
    that those of many texts are held once."""
    given = np.asarray(encoded)
    if given.ndim != 2 or len(given) != n:
        raise _unusable(name, given.shape, n, "")
    unit, zero = np.empty(given.shape, np.float32), 0
    for start in range(0, n, SCALED):
        e = np.asarray(given[start:start + SCALED], np.float64)
        if not np.isfinite(e).all():
            raise _unusable(name, given.shape, n, ", with NaN or infinity in it")
        norm = np.sqrt(np.einsum("ij,ij->i", e, e))
        zero += int((norm == 0).sum())
        unit[start:start + SCALED] = e / np.where(norm == 0, 1, norm)[:, None]
    if zero:
        raise UserError(f"The embedder {name} gave a zero vector for {zero} distinct text(s); a cosine needs a "
                        "direction. Give such texts a vector of their own.")
    return unit


def _unusable(name: str, shape: tuple[int, ...], n: int, more: str) -> UserError:
    return UserError(f"The embedder {name} gave an array of shape {shape} for {n} texts{more}; it must return finite "
                     "numbers of shape (number of texts, dimensions).")
