"""Blocked algebra of the random effects: H = Lambda' Z'WZ Lambda + I, the largest factor in diagonal blocks.

Random-effect vectors are lists with one array (L_k, q_k) or (L_k, q_k, r) for each grouping factor, in the design's
order. The factor with most coefficients is the head; the others, stacked, are the tail, reached by a Schur complement
(Bates, Maechler, Bolker & Walker 2015, section 5, with a block order fixed in advance).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import linalg

from canopy_stats.mixed.formula import Factor
from canopy_stats.schema import UserError

Array = np.ndarray
LARGEST_CROSS = 250_000_000


@dataclass(frozen=True)
class Layout:
    """Grouping factors, the index of the head, and the offsets of the others in the stacked tail (m coefficients)."""

    factors: tuple[Factor, ...]
    head: int
    offsets: dict[int, int]
    m: int


@dataclass(frozen=True)
class Blocks:
    """A symmetric matrix: head (L, q, q) in diagonal blocks, cross (m, L, q), tail (m, m)."""

    head: Array
    cross: Array
    tail: Array


@dataclass(frozen=True)
class Factorised:
    """What solving with H needs: inverse head blocks, bridge = head^-1 cross' (L, q, m), Cholesky root of the rest."""

    inverse: Array
    bridge: Array
    schur_root: Array
    logdet: float

    @cached_property
    def schur_inverse(self) -> Array:
        """Inverse Schur complement (m, m)."""
        if len(self.schur_root) == 0:
            return self.schur_root
        lower = np.tril(linalg.lapack.dpotri(self.schur_root, lower=1)[0])
        return np.asarray(lower + np.tril(lower, -1).T)

    @cached_property
    def reach(self) -> Array:
        """bridge times the inverse Schur complement (L, q, m): minus the head's part of H^-1 in the tail."""
        m = self.bridge.shape[2]
        return np.asarray(self.bridge.reshape(-1, m) @ self.schur_inverse).reshape(self.bridge.shape)


def make_layout(factors: Sequence[Factor]) -> Layout:
    """Choose the head and number the tail. UserError when the two parts together would not fit in memory."""
    sizes = [len(f.levels) * len(f.terms) for f in factors]
    head = int(np.argmax(sizes))
    offsets, m = {}, 0
    for k, size in enumerate(sizes):
        if k != head:
            offsets[k], m = m, m + size
    if m * sizes[head] > LARGEST_CROSS:
        raise UserError("Two grouping variables have too many levels for this solver; drop or coarsen one of them.")
    return Layout(tuple(factors), head, offsets, m)


def templates(factors: Sequence[Factor], theta: Array) -> list[Array]:
    """Lower-triangular relative covariance factors T_k (q, q), filled from theta."""
    padded = np.append(np.asarray(theta, dtype=float), 0.0)
    return [padded[f.pattern] for f in factors]


def sum_by_group(factor: Factor, values: Array) -> Array:
    """Z'v: sums (L, q) over the rows of each level of columns times values (n,), or (L, q, r) for values (n, r)."""
    if values.ndim == 2:
        return np.stack([sum_by_group(factor, values[:, j]) for j in range(values.shape[1])], axis=-1)
    size = len(factor.levels)
    sums = [np.bincount(factor.codes, factor.columns[:, a] * values, size) for a in range(factor.columns.shape[1])]
    return np.stack(sums, axis=1)


def rows_of(factor: Factor, effects: Array) -> Array:
    """Z b: contribution (n,) of effects (L, q) to each row."""
    if effects.shape[1] == 1:
        return factor.columns[:, 0] * effects[factor.codes, 0]
    return np.einsum("na,na->n", factor.columns, effects[factor.codes])


def gram(layout: Layout, weights: Array | None = None) -> Blocks:
    """Z'WZ in blocks, for row weights (n,)."""
    f = layout.factors[layout.head]
    head = _pair_sums(f, f, weights, diagonal=True)
    cross = np.zeros((layout.m, len(f.levels), len(f.terms)))
    tail = np.zeros((layout.m, layout.m))
    for k, start in layout.offsets.items():
        g = layout.factors[k]
        rows = slice(start, start + len(g.levels) * len(g.terms))
        cross[rows] = _pair_sums(g, f, weights).reshape(-1, len(f.levels), len(f.terms))
        for j, other in layout.offsets.items():
            h = layout.factors[j]
            block = _pair_sums(g, h, weights).reshape(rows.stop - start, -1)
            tail[rows, other : other + block.shape[1]] = block
    return Blocks(head, cross, tail)


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
    if layout.m == 0:
        return Blocks(head, blocks.cross, blocks.tail)
    cross = scale_tail(layout, blocks.cross @ t, factors)
    tail = scale_tail(layout, scale_tail(layout, blocks.tail, factors).T, factors)
    return Blocks(head, cross, tail + np.eye(layout.m))


def scale_tail(layout: Layout, values: Array, factors: Sequence[Array], *, transpose: bool = True) -> Array:
    """Apply T_k' (or T_k) to the coefficients of each tail factor, along the first axis of values (m, ...)."""
    out = np.empty_like(values)
    for k, start in layout.offsets.items():
        t = factors[k].T if transpose else factors[k]
        rows = slice(start, start + len(layout.factors[k].levels) * len(t))
        part = values[rows].reshape(len(layout.factors[k].levels), len(t), -1)
        out[rows] = (t @ part).reshape(values[rows].shape)
    return out


def factorise(blocks: Blocks) -> Factorised | None:
    """Block inverse of a positive definite H; None when H is not positive definite."""
    inverse, logdet = _invert_blocks(blocks.head)
    if not np.isfinite(logdet):
        return None
    m = len(blocks.cross)
    bridge = inverse @ blocks.cross.transpose(1, 2, 0) if m else np.zeros((*inverse.shape[:2], 0))
    if m == 0:
        return Factorised(inverse, bridge, np.zeros((0, 0)), logdet)
    schur = blocks.tail - blocks.cross.reshape(m, -1) @ bridge.reshape(-1, m)
    try:
        lower = linalg.cholesky(schur, lower=True)
    except linalg.LinAlgError:
        return None
    return Factorised(inverse, bridge, lower, logdet + 2 * float(np.log(np.diag(lower)).sum()))


def _invert_blocks(head: Array) -> tuple[Array, float]:
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
    if layout.m:
        tail = pack_tail(layout, right)
        tail = tail - np.tensordot(h.bridge, head, axes=([0, 1], [0, 1]))
        low = linalg.cho_solve((h.schur_root, True), tail, check_finite=False)
        x = x - h.bridge @ low
        parts = unpack_tail(layout, low)
    out = [x if k == layout.head else parts[k] for k in range(len(right))]
    return [value.reshape(shape) for value, shape in zip(out, shapes, strict=True)]


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


def inverse_blocks(layout: Layout, h: Factorised) -> list[Array]:
    """Diagonal blocks (L_k, q_k, q_k) of H^-1 for every grouping factor: conditional covariances."""
    out: list[Array] = [np.empty(0)] * len(layout.factors)
    out[layout.head] = h.inverse
    if layout.m:
        out[layout.head] = h.inverse + h.reach @ h.bridge.transpose(0, 2, 1)
    for k, start in layout.offsets.items():
        levels, q = len(layout.factors[k].levels), len(layout.factors[k].terms)
        part = h.schur_inverse[start : start + levels * q, start : start + levels * q].reshape(levels, q, levels, q)
        out[k] = part[np.arange(levels), :, np.arange(levels), :]
    return out
