"""Blocked algebra of the random effects: H = Lambda' Z'WZ Lambda + I, the largest factor in diagonal blocks.

Random-effect vectors are lists with one array (L_k, q_k) or (L_k, q_k, r) for each grouping factor, in the design's
order. The factor with most coefficients is the head; the others, stacked, are the tail, reached by a Schur complement
(Bates, Maechler, Bolker & Walker 2015, section 5, with a block order fixed in advance). The links between head and tail
are kept dense or thin, whichever is cheaper.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import numpy as np
from scipy import linalg

from canopy_stats.mixed.algebra.border import Border, DenseBorder, thin_gram
from canopy_stats.mixed.algebra.layout import (
    Array,
    Layout,
    make_layout,
    pack_tail,
    tail_blocks,
    unpack_tail,
)
from canopy_stats.mixed.algebra.tail import TailGram
from canopy_stats.mixed.formulas.grouping import Factor

__all__ = ["Array", "Layout", "make_layout"]


@dataclass(frozen=True)
class Blocks:
    """A symmetric matrix: head (L, q, q) in diagonal blocks, border (m, L, q), tail by factors."""

    head: Array
    border: Border | None
    tail: TailGram


@dataclass(frozen=True)
class Factorised:
    """What solving with H needs: inverse head blocks, bridge = border head^-1, root of the Schur complement."""

    inverse: Array
    bridge: Border | None
    schur_root: Array
    logdet: float

    @cached_property
    def schur_inverse(self) -> Array:
        """Inverse Schur complement (m, m)."""
        return symmetric_inverse(self.schur_root)

    @cached_property
    def reach(self) -> Border:
        """Minus the links of H^-1 between tail and head: Schur complement^-1 times the bridge."""
        assert self.bridge is not None
        return self.bridge.spread(self.schur_inverse)

    @cached_property
    def head_inverse(self) -> Array:
        """Head blocks (L, q, q) of H^-1."""
        return self.inverse if self.bridge is None else self.inverse + self.reach.outer(self.bridge)


def templates(factors: Sequence[Factor], theta: Array) -> list[Array]:
    """Lower-triangular relative covariance factors T_k (q, q), filled from theta."""
    padded = np.append(np.asarray(theta, dtype=float), 0.0)
    return [padded[f.pattern] for f in factors]


def sum_by_group(factor: Factor, values: Array) -> Array:
    """Z'v: sums (L, q) over the rows of each level of columns times values (n,), or (L, q, r) for values (n, r)."""
    if values.ndim == 2:
        if values.shape[1] == 0:
            return np.zeros((len(factor.levels), factor.columns.shape[1], 0))
        return np.stack([sum_by_group(factor, values[:, j]) for j in range(values.shape[1])], axis=-1)
    size = len(factor.levels)
    sums = [np.bincount(factor.codes, factor.columns[:, a] * values, size) for a in range(factor.columns.shape[1])]
    return np.stack(sums, axis=1)


def rows_of(factor: Factor, effects: Array) -> Array:
    """Z b: contribution (n,) of effects (L, q) to each row."""
    if effects.shape[1] == 1:
        return np.asarray(factor.columns[:, 0] * effects[factor.codes, 0])
    return np.asarray(np.einsum("na,na->n", factor.columns, effects[factor.codes]))


def gram(layout: Layout, weights: Array | None = None) -> Blocks:
    """Z'WZ in blocks, for row weights (n,)."""
    f = layout.factors[layout.head]
    head = _pair_sums(f, f, weights, diagonal=True)
    return Blocks(head, _border(layout, weights) if layout.m else None, _tail(layout, weights))


def _border(layout: Layout, weights: Array | None) -> Border:
    f = layout.factors[layout.head]
    if layout.pattern is not None:
        return thin_gram(layout.pattern, [layout.factors[k].columns for k in layout.offsets], f.columns, weights)
    links = [_pair_sums(layout.factors[k], f, weights).reshape(-1, len(f.levels), len(f.terms)) for k in layout.offsets]
    return DenseBorder(np.concatenate(links), layout.tails)


def _tail(layout: Layout, weights: Array | None) -> TailGram:
    own = {start: own_gram(layout.factors[k], weights) for k, start in layout.offsets.items()}
    pairs = combinations(layout.offsets.items(), 2)
    return TailGram(own, {(start, other): _between(layout.factors[k], layout.factors[j], weights)
                          for (k, start), (j, other) in pairs})


def _between(f: Factor, g: Factor, weights: Array | None) -> Array:
    """Z_f'W Z_g (L_f q_f, L_g q_g)."""
    return _pair_sums(f, g, weights).reshape(len(f.levels) * len(f.terms), -1)


def own_gram(factor: Factor, weights: Array | None = None) -> Array:
    """Blocks (L, q, q) of Z'WZ of one factor."""
    return _pair_sums(factor, factor, weights, diagonal=True)


def _pair_sums(f: Factor, g: Factor, weights: Array | None, *, diagonal: bool = False) -> Array:
    """Sums over rows of w f_a g_b: (L_f, q_f, L_g, q_g), or (L, q, q) when ``diagonal`` (f and g are the same)."""
    shape = (len(f.levels),) if diagonal else (len(f.levels), len(g.levels))
    codes = f.codes if diagonal else f.codes * len(g.levels) + g.codes
    out = np.empty((f.columns.shape[1], g.columns.shape[1], *shape))
    for a in range(out.shape[0]):
        left = f.columns[:, a] if weights is None else f.columns[:, a] * weights
        for b in range(out.shape[1]):
            if diagonal and b < a:
                out[a, b] = out[b, a]
            else:
                out[a, b] = np.bincount(codes, left * g.columns[:, b], int(np.prod(shape))).reshape(shape)
    return np.moveaxis(out, [0, 1], [1, 2]) if diagonal else out.transpose(2, 0, 3, 1)


def relative(layout: Layout, blocks: Blocks, factors: Sequence[Array]) -> Blocks:
    """Lambda' G Lambda + I for covariance factors T_k (q, q) of every grouping factor."""
    t = factors[layout.head]
    head = t.T @ blocks.head @ t + np.eye(len(t))
    if blocks.border is None:
        return Blocks(head, None, blocks.tail)
    border = blocks.border.map_head(t).map_tail([factors[k] for k in layout.offsets])
    return Blocks(head, border, blocks.tail.relative({start: factors[k] for k, start in layout.offsets.items()}))


def factorise(blocks: Blocks) -> Factorised | None:
    """Block inverse of a positive definite H; None when H is not positive definite."""
    inverse, logdet = invert_blocks(blocks.head)
    if not np.isfinite(logdet):
        return None
    if blocks.border is None:
        return Factorised(inverse, None, np.zeros((0, 0)), logdet)
    bridge = blocks.border.map_head(inverse)
    schur = blocks.tail.minus(blocks.border.product(bridge))
    lower = cholesky(schur)
    if lower is None:
        return None
    return Factorised(inverse, bridge, lower, logdet + 2 * float(np.log(np.diag(lower)).sum()))


def cholesky(matrix: Array) -> Array | None:
    """Lower root (m, m), in the place of a matrix whose lower triangle is used; None where it is not positive definite.
    """
    if len(matrix) == 0:
        return matrix
    own = matrix if matrix.flags.f_contiguous else matrix.T  # LAPACK's order; a C array holds a whole symmetric matrix
    root, failed = linalg.lapack.dpotrf(own, lower=1, clean=1, overwrite_a=1)
    return None if failed else root


def symmetric_inverse(root: Array) -> Array:
    """Inverse (m, m) of the matrix with Cholesky root ``root``."""
    if len(root) == 0:
        return root
    lower = linalg.lapack.dpotri(root, lower=1)[0]  # nothing above the diagonal, as in the root
    diagonal = np.diag(lower).copy()
    whole = lower + lower.T
    np.fill_diagonal(whole, diagonal)
    return np.asarray(whole)


def invert_blocks(head: Array) -> tuple[Array, float]:
    """Inverses and summed log determinants of positive definite blocks (L, q, q); nan when one is not."""
    if head.shape[1] == 1:
        ok = bool(np.all(head > 0))
        return (1.0 / head, float(np.log(head).sum())) if ok else (head, np.nan)
    try:
        lower = np.linalg.cholesky(head)
    except np.linalg.LinAlgError:
        return head, np.nan
    diagonals = np.diagonal(lower, axis1=1, axis2=2)
    return np.linalg.inv(head), 2 * float(np.log(diagonals).sum())


def solve(layout: Layout, h: Factorised, right: Sequence[Array]) -> list[Array]:
    """H^-1 r for a list of arrays (L_k, q_k) or (L_k, q_k, r)."""
    shapes = [r.shape for r in right]
    head = right[layout.head].reshape(*h.inverse.shape[:2], -1)
    x = h.inverse @ head
    parts: dict[int, Array] = {}
    if h.bridge is not None:
        tail = pack_tail(layout, right) - h.bridge.head_sums(head)
        low = linalg.cho_solve((h.schur_root, True), tail, check_finite=False)
        x = x - h.bridge.tail_sums(low)
        parts = unpack_tail(layout, low)
    out = [x if k == layout.head else parts[k] for k in range(len(right))]
    return [value.reshape(shape) for value, shape in zip(out, shapes, strict=True)]


def multiply(layout: Layout, g: Blocks, right: Sequence[Array]) -> list[Array]:
    """G v for a list of arrays (L_k, q_k, r)."""
    head = right[layout.head]
    out = g.head @ head
    parts: dict[int, Array] = {}
    if g.border is not None:
        tail = pack_tail(layout, right)
        out = out + g.border.tail_sums(tail)
        parts = unpack_tail(layout, g.border.head_sums(head) + g.tail.times(tail))
    return [out if k == layout.head else parts[k] for k in range(len(right))]


def inverse_blocks(layout: Layout, h: Factorised) -> list[Array]:
    """Diagonal blocks (L_k, q_k, q_k) of H^-1 for every grouping factor: conditional covariances."""
    out = tail_blocks(layout, h.schur_inverse)
    out[layout.head] = h.head_inverse
    return out


def solve_rows(layout: Layout, h: Factorised, rows: list[Array], codes: list[Array] | None = None) -> list[Array]:
    """For each row i and factor k, the coefficients (n, q_k) of H^-1 a_i at the row's own level of factor k.

    ``rows`` holds the nonzero parts (n, q_k) of a_i, the rows of Z Lambda; ``codes`` (n,) the levels by factor, those
    of the fitted rows by default.
    """
    codes = [f.codes for f in layout.factors] if codes is None else codes
    own_head = codes[layout.head]
    a = rows[layout.head]
    total = _times(h.head_inverse[own_head], a)
    out: list[Array] = [np.empty(0)] * len(rows)
    places = {k: start + codes[k] * rows[k].shape[1] for k, start in layout.offsets.items()}
    for k, place in places.items():
        assert h.bridge is not None
        own = np.zeros_like(rows[k])
        for c in range(rows[k].shape[1]):
            link = h.reach.at(own_head, place + c, h.schur_inverse, h.bridge)
            total -= link * rows[k][:, c, None]
            own[:, c] = -np.einsum("na,na->n", link, a)
            for j, other in places.items():
                for e in range(rows[j].shape[1]):
                    own[:, c] += h.schur_inverse[place + c, other + e] * rows[j][:, e]
        out[k] = own
    out[layout.head] = total
    return out


def _times(matrices: Array, vectors: Array) -> Array:
    """Products (n, q) of matrices (n, q, q) and vectors (n, q)."""
    if vectors.shape[1] == 1:
        return np.asarray(matrices[:, :, 0] * vectors)
    return np.asarray(np.einsum("nab,nb->na", matrices, vectors))
