"""The embeddings that a run's folder keeps, block by block; those that earlier versions kept whole are read too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from canopy_stats.metrics.embedding.vectors import Embeddings, Places, Vectors
from canopy_stats.schema import UserError
from canopy_stats.store.kept_blocks import BlockLine, KeptBlocks, kept_places

if TYPE_CHECKING:
    from canopy_stats.store import Run

_KIND, _FIELD = "embeddings", "embedding"


class BlockRows:
    """Vectors (R, d) on the disk; of the blocks that they lie in the last one read is in memory."""

    def __init__(self, place: KeptBlocks, lines: Sequence[BlockLine], dimensions: int) -> None:
        self._starts = np.cumsum([0, *(line["rows"] for line in lines)])
        self.shape: tuple[int, ...] = (int(self._starts[-1]), dimensions)
        self._block = lru_cache(maxsize=1)(lambda number: vectors_of(place.table(lines[number])))

    def __getitem__(self, rows: Places, /) -> Vectors:
        block = np.searchsorted(self._starts, rows, side="right") - 1
        found = np.empty((len(rows), self.shape[1]), np.float32)
        for number in np.unique(block):
            own = block == number
            found[own] = self._block(int(number))[rows[own] - self._starts[number]]
        return found


def place_of(run: Run, key: Mapping[str, Any]) -> KeptBlocks:
    """Where the run's folder keeps the embeddings of a key."""
    return KeptBlocks(run, _KIND, key)


def read(run: Run, key: Mapping[str, Any]) -> Embeddings | None:
    """The embeddings that are kept under a key; None where they are not there whole."""
    place = place_of(run, key)
    found = opened(place)
    return found if found is not None else _kept_whole(run, place.path.name)


def every(run: Run) -> list[Embeddings]:
    """All embeddings that are kept whole, by the names of their places."""
    places = kept_places(run, _KIND)
    names = {*places, *(path.stem for path in (run.path / "tables").glob(f"{_KIND}-*.parquet"))}
    found = []
    for name in sorted(names):
        one = opened(places[name]) if name in places else None
        one = one if one is not None else _kept_whole(run, name)
        found += [one] if one is not None else []
    return found


def opened(place: KeptBlocks) -> Embeddings | None:
    """The embeddings of a place, each block read once to see that it is intact; None where one is not there."""
    logged = place.logged()
    if not logged or len(logged) < len(place.blocks):
        return None
    lines, flags, dimensions = [logged[number] for number in range(len(place.blocks))], [], 0
    try:
        for line in lines:
            table = place.table(line)
            flags.append([np.asarray(table["truncated"]), np.asarray(table["empty"])])
            dimensions = table["embedding"].type.list_size
    except UserError:
        return None
    truncated, empty = (np.concatenate(of_blocks) for of_blocks in zip(*flags, strict=True))
    return Embeddings(BlockRows(place, lines, dimensions), truncated, empty, place.key)


def _kept_whole(run: Run, name: str) -> Embeddings | None:
    """One table of all rollouts, as earlier versions kept them."""
    found = run.read_table(name)
    return None if found is None else of_table(found[0], found[1][_FIELD])


def of_table(table: pa.Table, key: Mapping[str, Any]) -> Embeddings:
    """The embeddings that a stored table holds."""
    return Embeddings(vectors_of(table), np.asarray(table["truncated"]), np.asarray(table["empty"]), key)


def vectors_of(table: pa.Table) -> Vectors:
    """The vectors (R, d) of a stored table."""
    flat = table["embedding"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    vectors: Vectors = flat.reshape(table.num_rows, -1)
    return vectors


def to_table(block: Run, made: Embeddings) -> pa.Table:
    """What is stored of some rollouts' embeddings."""
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(made.vectors.ravel()), made.dimensions)
    return block.rollouts(["prompt_id", "rollout"]).append_column("embedding", vectors).append_column(
        "truncated", pa.array(made.truncated)).append_column("empty", pa.array(made.empty))
