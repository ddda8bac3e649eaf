"""Eliminating the head at fixed links: sums over its levels of B_l M_l B_l', and the transposed map.

B_l (m, q) links the tail to level l of the head. Both maps are linear, so thin crossings keep the products of every two
links that share a level once and for all: each call is then one pass over them, whatever the symmetric M_l are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy import sparse

from canopy_stats.mixed.algebra.border import Border, DenseBorder, ThinBorder

Array = np.ndarray


class Elimination(Protocol):
    """Both maps between symmetric matrices of the head's levels (L, q, q) and of the tail (m, m)."""

    def sums(self, matrices: Array) -> Array:
        """Sum over l of B_l M_l B_l' (m, m)."""
        ...

    def pulled(self, weights: Array) -> Array:
        """B_l' D B_l (L, q, q) of weights D (m, m)."""
        ...


@dataclass(frozen=True)
class DenseElimination:
    """Links kept whole: one array (m, L) for each column of the head."""

    columns: tuple[Array, ...]

    def sums(self, matrices: Array) -> Array:
        total = np.zeros((len(self.columns[0]),) * 2)
        for b, right in enumerate(self.columns):
            total += sum(left * matrices[:, a, b] for a, left in enumerate(self.columns)) @ right.T
        return total

    def pulled(self, weights: Array) -> Array:
        q, levels = len(self.columns), self.columns[0].shape[1]
        out = np.empty((levels, q, q))
        for b, right in enumerate(self.columns):
            moved = weights @ right
            for a in range(b + 1):
                out[:, a, b] = out[:, b, a] = np.einsum("jl,jl->l", self.columns[a], moved)
        return out


@dataclass(frozen=True)
class ThinElimination:
    """Products of every two links that share a level, by level: those of columns a <= b, and where they go (m * m).

    Each pair of tail coefficients stands once, in one triangle; a coefficient with itself counts half.
    """

    products: dict[tuple[int, int], sparse.csr_array]
    m: int

    def sums(self, matrices: Array) -> Array:
        half = np.zeros(self.m**2)
        for (a, b), kept in self.products.items():
            half += kept.T @ (matrices[:, a, b] * (0.5 if a == b else 1.0))
        triangle = half.reshape(self.m, self.m)
        return np.asarray(triangle + triangle.T)

    def pulled(self, weights: Array) -> Array:
        q = 1 + max(b for _, b in self.products)
        out, flat = np.empty((next(iter(self.products.values())).shape[0], q, q)), weights.ravel()
        for (a, b), kept in self.products.items():
            out[:, a, b] = out[:, b, a] = kept @ flat
        return out


def make_elimination(border: Border | None, levels: int, q: int) -> Elimination:
    """The maps of a border; those of no tail where there is none."""
    if border is None:
        return DenseElimination((np.zeros((0, levels)),) * q)
    if isinstance(border, DenseBorder):
        return DenseElimination(tuple(np.ascontiguousarray(border.values[:, :, a]) for a in range(q)))
    assert isinstance(border, ThinBorder)
    return _thin(border, q)


def _thin(border: ThinBorder, q: int) -> ThinElimination:
    pattern, values = border.pattern, border.values
    first, second, places = pattern.lower_pairs
    counts = np.bincount(pattern.heads[first], minlength=pattern.levels)
    ends, places = np.append(0, np.cumsum(counts)).astype(np.int32), places.astype(np.int32)  # m is below 2^15
    share, shape = np.where(first == second, 0.5, 1.0), (pattern.levels, pattern.m**2)
    products = {}
    for a in range(q):
        for b in range(a, q):
            both = values[first, a] * values[second, b] + values[first, b] * values[second, a]
            products[a, b] = sparse.csr_array((share * both, places, ends), shape=shape)
    return ThinElimination(products, pattern.m)
