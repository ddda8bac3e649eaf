"""The embeddings of a run's rollouts: unit vectors, in memory or taken from the disk as they are asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
Flags = NDArray[np.bool_]
Places = NDArray[np.intp]


class VectorRows(Protocol):
    """Vectors (R, d) that are taken by their rows: an array, or blocks on the disk."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, rows: Places, /) -> Vectors: ...


@dataclass(frozen=True, slots=True)
class Embeddings:
    """Embeddings of a run's R rollouts, aligned with ``run.rollouts()``; ``numpy.asarray`` gives the vectors.

    ``rows`` (R, d) float32 unit rows, an array or what reads them block by block; ``truncated`` (R,): the text is
    longer than the embedder reads; ``empty`` (R,): nothing is left of the text once stripped; ``provenance``: name,
    version, max_tokens, think, ...
    """

    rows: VectorRows
    truncated: Flags
    empty: Flags
    provenance: Mapping[str, Any]

    def __len__(self) -> int:
        return len(self.truncated)

    @property
    def dimensions(self) -> int:
        """d."""
        return self.rows.shape[1]

    @property
    def vectors(self) -> Vectors:
        """All vectors (R, d) in memory; :meth:`of` takes some, which is what a large run needs."""
        return self.rows if isinstance(self.rows, np.ndarray) else self.of(np.arange(len(self)))

    def of(self, rows: Places) -> Vectors:
        """The vectors (k, d) of some rollouts (k,); those of one prompt are read at once."""
        return self.rows[rows]

    def take(self, kept: Flags) -> Embeddings:
        """Only the rollouts where ``kept`` (R,) holds."""
        return replace(self, rows=SomeRows(self.rows, np.flatnonzero(kept)), truncated=self.truncated[kept],
                       empty=self.empty[kept])

    @property
    def label(self) -> str:
        """Name and version in one string, as the panel has it."""
        return f"{self.provenance['name']}@{self.provenance['version']}"

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.array(self.vectors, dtype=dtype) if copy or dtype is not None else self.vectors


@dataclass(frozen=True, slots=True)
class SomeRows:
    """Some rows of others: ``kept`` (k,) says which."""

    every: VectorRows
    kept: Places

    @property
    def shape(self) -> tuple[int, ...]:
        return len(self.kept), *self.every.shape[1:]

    def __getitem__(self, rows: Places, /) -> Vectors:
        return self.every[self.kept[rows]]


def joined(blocks: Sequence[Embeddings]) -> Embeddings:
    """Embeddings one after the other, in memory; they were made by one embedder."""
    return replace(blocks[0], rows=np.concatenate([one.vectors for one in blocks]),
                   truncated=np.concatenate([one.truncated for one in blocks]),
                   empty=np.concatenate([one.empty for one in blocks]))
