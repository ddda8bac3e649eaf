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

import numpy as np
from scipy import linalg

from canopy_stats.mixed.algebra.border import Border, Cells, DenseBorder, Pattern, Tail, thin_gram
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


@dataclass(frozen=True)
class Blocks:
    """A symmetric matrix: head (L, q, q) in diagonal blocks, border (m, L, q), tail (m, m)."""

    head: Array
    border: Border | None
    tail: Array


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


def _tail(layout: Layout, weights: Array | None) -> Array:
    tail = np.zeros((layout.m, layout.m))
    for k, start in layout.offsets.items():
        g = layout.factors[k]
        rows = slice(start, start + len(g.levels) * len(g.terms))
        for j, other in layout.offsets.items():
            if j == k:
                _put_diagonal(tail, start, own_gram(g, weights))
            else:
                block = _pair_sums(g, layout.factors[j], weights).reshape(rows.stop - start, -1)
                tail[rows, other : other + block.shape[1]] = block
    return tail


def _put_diagonal(matrix: Array, start: int, own: Array) -> None:
    """Write blocks (L, q, q) on the diagonal of ``matrix`` from ``start`` on."""
    levels, q, _ = own.shape
    places = start + np.arange(levels * q).reshape(levels, q)
    matrix[places[:, :, None], places[:, None, :]] = own


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
    tail = scale_tail(layout, scale_tail(layout, blocks.tail, factors).T, factors)
    tail[np.diag_indices(layout.m)] += 1.0
    return Blocks(head, border, tail)


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


def factorise(blocks: Blocks) -> Factorised | None:
    """Block inverse of a positive definite H; None when H is not positive definite."""
    inverse, logdet = invert_blocks(blocks.head)
    if not np.isfinite(logdet):
        return None
    if blocks.border is None:
        return Factorised(inverse, None, np.zeros((0, 0)), logdet)
    bridge = blocks.border.map_head(inverse)
    schur = blocks.border.product(bridge)
    np.subtract(blocks.tail, schur, out=schur)
    try:  # symmetric, so its transpose is the same matrix in the order of columns that LAPACK overwrites
        lower = linalg.cholesky(schur.T, lower=True, overwrite_a=True, check_finite=False)
    except linalg.LinAlgError:
        return None
    return Factorised(inverse, bridge, lower, logdet + 2 * float(np.log(np.diag(lower)).sum()))


def symmetric_inverse(root: Array) -> Array:
    """Inverse (m, m) of the matrix with Cholesky root ``root``."""
    if len(root) == 0:
        return root
    lower = linalg.lapack.dpotri(root, lower=1)[0]
    return np.asarray(np.tril(lower) + np.tril(lower, -1).T)


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
        parts = unpack_tail(layout, g.border.head_sums(head) + g.tail @ tail)
    return [out if k == layout.head else parts[k] for k in range(len(right))]


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
    out = tail_blocks(layout, h.schur_inverse)
    out[layout.head] = h.head_inverse
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
