"""The links between the largest grouping factor (head) and the others (tail): a block for each pair of levels.

A border holds a vector (q,) of the head's columns for each tail coefficient j and head level l. Crossings of which most
pairs occur are kept as one array; thin ones as the list of the occurring pairs, whose Schur complement is a sum over
pairs of pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from scipy import sparse

Array = np.ndarray


@dataclass(frozen=True)
class Tail:
    """One tail factor: its number of levels and columns, and the place of its first coefficient among the tail's."""

    levels: int
    columns: int
    start: int

    @property
    def rows(self) -> slice:
        return slice(self.start, self.start + self.levels * self.columns)


class Border(Protocol):
    """Links (j, l) -> (q,), dense or thin."""

    def map_head(self, matrices: Array) -> Border:
        """Every link times a matrix (q, q), or its head level's (L, q, q)."""
        ...

    def map_tail(self, factors: Sequence[Array]) -> Border:
        """T_k' applied to the tail coefficients of each tail factor."""
        ...

    def product(self, other: Border) -> Array:
        """Sum over head levels and columns of link j of self times link i of other, where that is symmetric.

        (m, m), of which a thin border fills the lower triangle, in LAPACK's order.
        """
        ...

    def head_sums(self, head: Array) -> Array:
        """(m, r): links times a head vector (L, q, r), summed over l and columns."""
        ...

    def tail_sums(self, tail: Array) -> Array:
        """(L, q, r): links times a tail vector (m, r), summed over j."""
        ...

    def spread(self, matrix: Array) -> Border:
        """Links sum_i matrix[j, i] link[i, l], where self has links."""
        ...

    def outer(self, other: Border) -> Array:
        """(L, q, q): sum over j of link self a times link other b."""
        ...

    def at(self, levels: Array, places: Array, matrix: Array, bridge: Border) -> Array:
        """Links (n, q) at head levels (n,) and tail places (n,), where self is ``bridge.spread(matrix)``."""
        ...


@dataclass(frozen=True)
class DenseBorder:
    """All links in one array (m, L, q)."""

    values: Array
    tails: tuple[Tail, ...]

    def map_head(self, matrices: Array) -> DenseBorder:
        out = np.empty_like(self.values)  # column by column: q is small, and small products in batches are slow
        for b in range(out.shape[2]):
            out[:, :, b] = sum(self.values[:, :, a] * matrices[..., a, b] for a in range(out.shape[2]))
        return DenseBorder(out, self.tails)

    def map_tail(self, factors: Sequence[Array]) -> DenseBorder:
        out = np.empty_like(self.values)
        for tail, t in zip(self.tails, factors, strict=True):
            if len(t) == 1:
                out[tail.rows] = t[0, 0] * self.values[tail.rows]
                continue
            part = self.values[tail.rows].reshape(tail.levels, tail.columns, -1)
            out[tail.rows] = (t.T @ part).reshape(self.values[tail.rows].shape)
        return DenseBorder(out, self.tails)

    @property
    def flat(self) -> Array:
        return self.values.reshape(len(self.values), -1)

    def product(self, other: Border) -> Array:
        assert isinstance(other, DenseBorder)
        return np.asarray(self.flat @ other.flat.T)

    def head_sums(self, head: Array) -> Array:
        return np.asarray(self.flat @ head.reshape(self.flat.shape[1], -1))

    def tail_sums(self, tail: Array) -> Array:
        return np.asarray((self.flat.T @ tail).reshape(*self.values.shape[1:], -1))

    def spread(self, matrix: Array) -> DenseBorder:
        return DenseBorder((matrix @ self.flat).reshape(self.values.shape), self.tails)

    def outer(self, other: Border) -> Array:
        assert isinstance(other, DenseBorder)
        left, right, q = self.values, other.values, self.values.shape[2]
        out = np.empty((left.shape[1], q, q))
        for a in range(q):
            for b in range(q):
                out[:, a, b] = np.einsum("jl,jl->l", left[:, :, a], right[:, :, b])
        return out

    def at(self, levels: Array, places: Array, matrix: Array, bridge: Border) -> Array:
        return np.asarray(self.values[places, levels])


@dataclass(frozen=True)
class Cells:
    """Occurring pairs of levels of one tail factor and the head: both levels (c,), and each row's pair (n,)."""

    tail: Tail
    tail_level: Array
    head_level: Array
    of_row: Array


@dataclass(frozen=True)
class Pattern:
    """The links of a thin border: occurring pairs by tail factor, the number of head levels and of tail coefficients.

    A link is a pair's tail coefficient; links are numbered through the tail factors, pairs and columns.
    """

    cells: tuple[Cells, ...]
    levels: int
    m: int

    @cached_property
    def places(self) -> Array:
        """Tail coefficient of each link (e,)."""
        parts = [(c.tail.start + c.tail_level[:, None] * c.tail.columns + np.arange(c.tail.columns)).ravel()
                 for c in self.cells]
        return np.concatenate(parts)

    @cached_property
    def heads(self) -> Array:
        """Head level of each link (e,)."""
        return np.concatenate([np.repeat(c.head_level, c.tail.columns) for c in self.cells])

    @cached_property
    def pairs(self) -> tuple[Array, Array]:
        """All ordered pairs of links that share a head level: the first and the second one's number."""
        order = np.argsort(self.heads, kind="stable")
        counts = np.bincount(self.heads, minlength=self.levels)
        starts = np.cumsum(counts) - counts
        mine = counts[self.heads[order]]
        first = np.repeat(np.arange(len(order)), mine)
        shift = np.arange(len(first)) - np.repeat(np.cumsum(mine) - mine, mine)
        second = starts[self.heads[order]][first] + shift
        return order[first], order[second]

    @cached_property
    def flat_pairs(self) -> Array:
        """Place in the (m, m) Schur complement of each pair of links."""
        first, second = self.pairs
        flat: Array = self.places[first] * self.m + self.places[second]
        return flat

    @cached_property
    def lower_pairs(self) -> tuple[Array, Array, Array]:
        """The pairs in the lower triangle: both numbers, and the place in a matrix (m, m) column by column."""
        first, second = self.pairs
        lower = self.places[first] >= self.places[second]
        first, second = first[lower], second[lower]
        return first, second, self.places[second] * self.m + self.places[first]

    @cached_property
    def sorted_links(self) -> tuple[Array, Array]:
        """Keys of the links (head level, place) in ascending order, and their numbers."""
        keys = self.heads * self.m + self.places
        order = np.argsort(keys)
        return keys[order], order

    def split(self, values: Array) -> list[Array]:
        """Links (e, q) as blocks (c_k, q_k, q) by tail factor."""
        out, start = [], 0
        for c in self.cells:
            size = len(c.tail_level) * c.tail.columns
            out.append(values[start : start + size].reshape(len(c.tail_level), c.tail.columns, -1))
            start += size
        return out


@dataclass(frozen=True)
class ThinBorder:
    """The occurring links alone: values (e, q) in the order of the pattern."""

    values: Array
    pattern: Pattern

    def _like(self, values: Array) -> ThinBorder:
        return ThinBorder(values, self.pattern)

    def map_head(self, matrices: Array) -> ThinBorder:
        if self.values.shape[1] == 1:
            scale = matrices[:, 0] if matrices.ndim == 2 else matrices[self.pattern.heads, :, 0]
            return self._like(self.values * scale)
        if matrices.ndim == 2:
            return self._like(self.values @ matrices)
        return self._like(np.einsum("ea,eab->eb", self.values, matrices[self.pattern.heads]))

    def map_tail(self, factors: Sequence[Array]) -> ThinBorder:
        parts = [(t.T @ part).reshape(-1, self.values.shape[1])
                 for t, part in zip(factors, self.pattern.split(self.values), strict=True)]
        return self._like(np.concatenate(parts))

    def product(self, other: Border) -> Array:
        assert isinstance(other, ThinBorder)
        (first, second, flat), m = self.pattern.lower_pairs, self.pattern.m
        columns = zip(self.values.T, other.values.T, strict=True)
        terms = sum(np.take(mine, first) * np.take(theirs, second) for mine, theirs in columns)
        return np.bincount(flat, terms, m * m).reshape(m, m).T

    @cached_property
    def matrix(self) -> sparse.csr_array:
        """The links as a sparse matrix (m, L q)."""
        q = self.values.shape[1]
        columns = self.pattern.heads[:, None] * q + np.arange(q)
        rows = np.repeat(self.pattern.places, q)
        shape = (self.pattern.m, self.pattern.levels * q)
        return sparse.csr_array((self.values.ravel(), (rows, columns.ravel())), shape=shape)

    def head_sums(self, head: Array) -> Array:
        return np.asarray(self.matrix @ head.reshape(self.pattern.levels * self.values.shape[1], -1))

    def tail_sums(self, tail: Array) -> Array:
        return np.asarray(self.matrix.T @ tail).reshape(self.pattern.levels, self.values.shape[1], -1)

    def spread(self, matrix: Array) -> ThinBorder:
        (first, second), size = self.pattern.pairs, len(self.values)
        weights = matrix.ravel()[self.pattern.flat_pairs]
        parts = [np.bincount(first, weights * self.values[second, a], size) for a in range(self.values.shape[1])]
        return self._like(np.stack(parts, axis=1))

    def outer(self, other: Border) -> Array:
        assert isinstance(other, ThinBorder)
        q, levels = self.values.shape[1], self.pattern.levels
        out = np.empty((levels, q, q))
        for a in range(q):
            for b in range(q):
                out[:, a, b] = np.bincount(self.pattern.heads, self.values[:, a] * other.values[:, b], levels)
        return out

    def at(self, levels: Array, places: Array, matrix: Array, bridge: Border) -> Array:
        keys, order = self.pattern.sorted_links
        wanted = levels * self.pattern.m + places
        found = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        out: Array = self.values[order[found]]
        absent = np.flatnonzero(keys[found] != wanted)
        if len(absent):
            assert isinstance(bridge, ThinBorder)
            out[absent] = bridge.elsewhere(levels[absent], places[absent], matrix)
        return out

    def elsewhere(self, levels: Array, places: Array, matrix: Array) -> Array:
        """``spread`` (n, q) at pairs of head level and tail coefficient that do not occur."""
        columns, q = self.matrix.T.tocsr(), self.values.shape[1]
        rows = matrix[places]
        parts = [np.asarray(columns[levels * q + a].multiply(rows).sum(axis=1)).ravel() for a in range(q)]
        return np.stack(parts, axis=1)


def thin_gram(
    pattern: Pattern, tail_columns: Sequence[Array], head_columns: Array, weights: Array | None
) -> ThinBorder:
    """Links of Z'WZ: sums over each pair's rows of weight times tail column times head column."""
    parts = []
    for cells, columns in zip(pattern.cells, tail_columns, strict=True):
        size, q = len(cells.tail_level), head_columns.shape[1]
        out = np.empty((size, columns.shape[1], q))
        for c in range(columns.shape[1]):
            left = columns[:, c] if weights is None else columns[:, c] * weights
            for a in range(q):
                out[:, c, a] = np.bincount(cells.of_row, left * head_columns[:, a], size)
        parts.append(out.reshape(-1, q))
    return ThinBorder(np.concatenate(parts), pattern)
