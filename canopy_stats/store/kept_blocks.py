"""Tables that a run's folder keeps in blocks: made one at a time, read one at a time, resumed after an interruption.

::

    RUN/tables/KIND-KEY/key.json              what decides the values
    RUN/tables/KIND-KEY/blocks.jsonl          one line a block, appended when its file is durable
    RUN/tables/KIND-KEY/block-00000.parquet   the block's rows

A block counts when the log holds the hash of its file and the content of the rollouts that it was made from.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict

from canopy_stats import files
from canopy_stats.schema import UserError
from canopy_stats.store.kept import name_of
from canopy_stats.store.locking import held
from canopy_stats.store.plan import Count, Digest
from canopy_stats.store.tables import parquet_bytes

if TYPE_CHECKING:
    from canopy_stats.store.reading import Run

BLOCK = 4096
"""Rollouts of a block at least, where the run has as many."""
KEY, LOG = "key.json", "blocks.jsonl"
WAIT = 30
"""Seconds that another writer of the run's folder is waited for."""


class BlockLine(TypedDict):
    """What the log says of a block: its number, the content of its rollouts, its rows, and the hash of its file."""

    block: Count
    content: Digest
    rows: Count
    sha256: Digest


_LINE = TypeAdapter(BlockLine)


def in_blocks(run: Run) -> list[Run]:
    """The run in splits of at least BLOCK rollouts, but for the last. They are whole parts of it: a prompt lies in one
    block, and what a block holds depends on the run alone."""
    found, numbers, rollouts = list["Run"](), set[int](), 0
    for part in run.parts():
        numbers |= {shard["number"] for shard in part.shards}
        rollouts += part.n_stored
        if rollouts >= BLOCK:
            found.append(run.only(numbers))
            numbers, rollouts = set(), 0
    return [*found, run.only(numbers)] if numbers else found


@dataclass(frozen=True)
class KeptBlocks:
    """The place of one table in a run's folder: ``kind`` starts its name, ``key`` is what decides its values."""

    run: Run
    kind: str
    key: Mapping[str, Any]

    @cached_property
    def blocks(self) -> list[Run]:
        """The run's rollouts, block by block."""
        return in_blocks(self.run)

    @property
    def path(self) -> Path:
        """The table's folder."""
        return self.run.path / "tables" / name_of(self.kind, self.key)

    def logged(self) -> dict[int, BlockLine]:
        """The blocks that the log vouches for, of rollouts that the run holds now; their files are not looked at."""
        lines = (files.read_if_there(self.path / LOG, "log of a kept table") or b"").split(b"\n")
        return {line["block"]: line for line in map(_line, lines) if line is not None and self._is_of_the_run(line)}

    def _is_of_the_run(self, line: BlockLine) -> bool:
        if line["block"] >= len(self.blocks):
            return False
        block = self.blocks[line["block"]]
        return (line["content"], line["rows"]) == (block.content_hash, block.n_stored)

    def intact(self) -> dict[int, BlockLine]:
        """The blocks of which the file, too, is what the log says."""
        return {number: line for number, line in self.logged().items()
                if files.file_sha256(self._file(number)) == line["sha256"]}

    def begin(self) -> dict[int, BlockLine]:
        """Make the folder ready for :meth:`add`, and give the blocks that are there. What an interrupted call left half
        written, and what was made from other rollouts, is removed."""
        with held(self.run.path, WAIT):
            files.make_folder(self.path)
            files.remove_temporaries(self.path)
            there = self.intact()
            files.write_json(self.path / KEY, dict(self.key))
            self._write_log(there)
            for path in self.path.glob("block-*.parquet"):
                if path not in map(self._file, there):
                    path.unlink()
        return there

    def add(self, number: int, table: pa.Table) -> None:
        """Keep one block; it stays as it is where another process has kept it since :meth:`begin`."""
        block = self.blocks[number]
        with held(self.run.path, WAIT):
            if number in self.logged():
                return
            data = parquet_bytes(table)
            files.write_atomic(self._file(number), data)
            self._vouch({"block": number, "content": block.content_hash, "rows": block.n_stored,
                         "sha256": files.sha256(data)})

    def _vouch(self, line: BlockLine) -> None:
        """Log a block: at the end, or in its place where one in the middle was made anew."""
        there = self.logged()
        if line["block"] > max(there, default=-1):
            files.append_durably(self.path / LOG, _as_bytes(line))
        else:
            self._write_log({**there, line["block"]: line})

    def _write_log(self, lines: Mapping[int, BlockLine]) -> None:
        files.write_atomic(self.path / LOG, b"".join(_as_bytes(lines[number]) for number in sorted(lines)))

    def table(self, line: BlockLine) -> pa.Table:
        """The rows of one block; UserError where its file is not what the log says."""
        path = self._file(line["block"])
        data = files.read_bytes(path, "block of a kept table", 1 << 40)
        if files.sha256(data) != line["sha256"]:
            raise UserError(f"{path} does not hold what was stored. Run the same command again: it makes it anew.")
        return pq.read_table(pa.BufferReader(data))

    def _file(self, number: int) -> Path:
        return self.path / f"block-{number:05d}.parquet"


def kept_places(run: Run, kind: str) -> dict[str, KeptBlocks]:
    """The tables of a kind that the run's folder keeps in blocks, whole or not, by name."""
    found = {}
    for path in sorted((run.path / "tables").glob(f"{kind}-*/{KEY}")):
        key = _key(path)
        if key is not None and name_of(kind, key) == path.parent.name:
            found[path.parent.name] = KeptBlocks(run, kind, key)
    return found


def _key(path: Path) -> dict[str, Any] | None:
    try:
        key = json.loads(files.read_bytes(path, "key of a kept table"))
    except (ValueError, RecursionError):
        return None
    return key if isinstance(key, dict) else None


def _line(line: bytes) -> BlockLine | None:
    """A torn line is a block never kept."""
    try:
        return _LINE.validate_json(line)
    except ValidationError:
        return None


def _as_bytes(line: BlockLine) -> bytes:
    return files.canonical_json(dict(line)) + b"\n"
