"""Which grouping factor is the head, where the others stand in the stacked tail, and which links occur."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from canopy_stats.mixed.algebra.border import Cells, Pattern, Tail
from canopy_stats.mixed.formulas.grouping import Factor
from canopy_stats.schema import UserError

Array = np.ndarray
LARGEST_CROSS = 250_000_000
LARGEST_TAIL = 12_000
"""Tail coefficients whose Schur complement (m, m) is still kept and factorised as one dense matrix."""
LARGEST_PAIRS = 60_000_000
SMALL_TAIL = 64
THIN = 200
"""A thin border costs about this many times more for each pair of links than a dense one for each cell."""
THIN_FIXED = 20
"""The same where the links stay as they are, and products of pairs are kept."""


@dataclass(frozen=True)
class Layout:
    """Grouping factors, the index of the head, and the offsets of the others in the stacked tail (m coefficients).

    ``pattern`` lists the occurring links where the border is thin.
    """

    factors: tuple[Factor, ...]
    head: int
    offsets: dict[int, int]
    m: int
    pattern: Pattern | None = None

    @property
    def tails(self) -> tuple[Tail, ...]:
        return tuple(Tail(len(self.factors[k].levels), len(self.factors[k].terms), start)
                     for k, start in self.offsets.items())


def make_layout(factors: Sequence[Factor], thin: int = THIN) -> Layout:
    """Choose the head and number the tail. UserError when the parts together would not fit in memory.

    ``thin`` is what a pair of links costs beside a cell of a dense border.
    """
    sizes = [len(f.levels) * len(f.terms) for f in factors]
    head = int(np.argmax(sizes))
    offsets, m = {}, 0
    for k, size in enumerate(sizes):
        if k != head:
            offsets[k], m = m, m + size
    layout = Layout(tuple(factors), head, offsets, m)
    pattern = _thin_pattern(layout, thin)
    if m > LARGEST_TAIL or (pattern is None and m * sizes[head] > LARGEST_CROSS):
        small = " and ".join(f"{factors[k].name} ({len(factors[k].levels)} levels)" for k in offsets)
        raise UserError(
            f"{small} beside {factors[head].name} ({len(factors[head].levels)} levels) ask for more memory than this"
            f" solver has ({m} effects besides the largest factor's); drop or coarsen one of them."
        )
    return Layout(tuple(factors), head, offsets, m, pattern)


def pattern_of(layout: Layout) -> Pattern:
    """The occurring links of a layout's border."""
    f = layout.factors[layout.head]
    cells = tuple(_cells(layout.factors[k], f, tail)
                  for k, tail in zip(layout.offsets, layout.tails, strict=True))
    return Pattern(cells, len(f.levels), layout.m)


def _thin_pattern(layout: Layout, thin: int) -> Pattern | None:
    """The occurring links, where summing over their pairs is cheaper than dense algebra."""
    if layout.m < SMALL_TAIL:
        return None
    pattern = pattern_of(layout)
    pairs = int(np.sum(np.square(np.bincount(pattern.heads, minlength=pattern.levels))))
    dense = layout.m**2 * pattern.levels
    return pattern if pairs * thin < dense and pairs < LARGEST_PAIRS else None


def _cells(factor: Factor, head: Factor, tail: Tail) -> Cells:
    """The pairs of levels that occur, sorted by the head's level."""
    keys, of_row = np.unique(head.codes.astype(np.int64) * len(factor.levels) + factor.codes, return_inverse=True)
    return Cells(tail, keys % len(factor.levels), keys // len(factor.levels), of_row)


def pack_tail(layout: Layout, values: Sequence[Array]) -> Array:
    """Stack the tail factors' arrays (L_k, q_k, r) to (m, r)."""
    return np.concatenate([values[k].reshape(len(layout.factors[k].levels) * len(layout.factors[k].terms), -1)
                           for k in layout.offsets])


def unpack_tail(layout: Layout, stacked: Array) -> dict[int, Array]:
    """Undo ``pack_tail``."""
    out = {}
    for k, start in layout.offsets.items():
        levels, q = len(layout.factors[k].levels), len(layout.factors[k].terms)
        out[k] = stacked[start : start + levels * q].reshape(levels, q, -1)
    return out


def scale_tail(layout: Layout, values: Array, factors: Sequence[Array], *, transpose: bool = True) -> Array:
    """Apply T_k' (or T_k) to the coefficients of each tail factor, along the first axis of values (m, ...)."""
    out = np.empty_like(values)
    for k, start in layout.offsets.items():
        t = factors[k].T if transpose else factors[k]
        rows = slice(start, start + len(layout.factors[k].levels) * len(t))
        if len(t) == 1:
            out[rows] = t[0, 0] * values[rows]
            continue
        part = values[rows].reshape(len(layout.factors[k].levels), len(t), -1)
        out[rows] = (t @ part).reshape(values[rows].shape)
    return out


def tail_blocks(layout: Layout, matrix: Array) -> list[Array]:
    """Diagonal blocks (L_k, q_k, q_k) of a matrix (m, m) of the tail, by factor; nothing for the head."""
    out: list[Array] = [np.empty(0)] * len(layout.factors)
    for k, start in layout.offsets.items():
        levels, q = len(layout.factors[k].levels), len(layout.factors[k].terms)
        places = start + np.arange(levels * q).reshape(levels, q)
        out[k] = matrix[places[:, :, None], places[:, None, :]]
    return out


def tail_products(layout: Layout, left: Array, right: Array) -> list[Array]:
    """(q_k, q_k) by factor of the tail: sum over its levels of their rows of ``left`` times those of ``right`` (m, m).
    """
    out: list[Array] = [np.empty(0)] * len(layout.factors)
    for k, tail in zip(layout.offsets, layout.tails, strict=True):
        shape = (tail.levels, tail.columns, -1)
        rows = left[tail.rows].reshape(shape), right[tail.rows].reshape(shape)
        out[k] = np.array([[np.vdot(rows[0][:, a], rows[1][:, b]) for b in range(tail.columns)]
                           for a in range(tail.columns)])
    return out
