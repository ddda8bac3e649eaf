"""Z'WZ among the coefficients of the tail: diagonal blocks of each factor, whole ones between two factors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

Array = np.ndarray


@dataclass(frozen=True)
class TailGram:
    """Blocks by the places of the factors' first coefficients: ``own`` (L, q, q), ``cross`` (L_k q_k, L_j q_j)."""

    own: dict[int, Array]
    cross: dict[tuple[int, int], Array]

    def relative(self, roots: Mapping[int, Array]) -> TailGram:
        """T'G T + I for covariance roots T (q, q)."""
        own = {k: roots[k].T @ part @ roots[k] + np.eye(part.shape[1]) for k, part in self.own.items()}
        cross = {(k, j): _both_sides(part, roots[k], roots[j]) for (k, j), part in self.cross.items()}
        return TailGram(own, cross)

    def times(self, values: Array) -> Array:
        """G v for v (m, r)."""
        out = np.zeros_like(values)
        for start, part in self.own.items():
            rows = slice(start, start + part.shape[0] * part.shape[1])
            out[rows] = (part @ values[rows].reshape(*part.shape[:2], -1)).reshape(values[rows].shape)
        for (k, j), part in self.cross.items():
            rows, others = slice(k, k + part.shape[0]), slice(j, j + part.shape[1])
            out[rows] += part @ values[others]
            out[others] += part.T @ values[rows]
        return out

    def minus(self, taken: Array) -> Array:
        """G less a matrix (m, m), written over it."""
        np.negative(taken, out=taken)
        for start, part in self.own.items():
            places = start + np.arange(part.shape[0] * part.shape[1]).reshape(part.shape[:2])
            taken[places[:, :, None], places[:, None, :]] += part
        for (k, j), part in self.cross.items():
            taken[k : k + part.shape[0], j : j + part.shape[1]] += part
            taken[j : j + part.shape[1], k : k + part.shape[0]] += part.T
        return taken


def _both_sides(block: Array, left: Array, right: Array) -> Array:
    """left' B_ij right for the blocks B_ij (q_k, q_j) of a matrix."""
    if len(left) == len(right) == 1:
        return np.asarray(block * (left[0, 0] * right[0, 0]))
    parts = block.reshape(-1, len(left), block.shape[1] // len(right), len(right))
    return np.asarray(np.einsum("ac,iajb,bd->icjd", left, parts, right, optimize=True).reshape(block.shape))
