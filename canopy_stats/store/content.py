"""What a run holds, as one hash that does not depend on how it was cut into shards or in which order they came.

Each rollout has a SHA-256 over its prompt's hash, its index, and every value stored of it. A shard's content is their
sum modulo 2^256, a run's the hash of the sum over its shards together with what was asked. Summing makes shards of any
shape add up to the same number, at a cost that does not grow with the run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from canopy_stats import files
from canopy_stats.schema import Prompt
from canopy_stats.store.table_hash import table_hash
from canopy_stats.store.tables import ShardTables

_MODULUS = 1 << 256
_WORDS = ("prompt_uid", "finish_reason", "text")


class WrongRows(ValueError):
    """Tables that do not hold exactly the rollouts that they should, in order, with steps that fit them."""


def shard_content(tables: ShardTables, prompts: Sequence[Prompt], rollouts: range) -> str:
    """The content of a shard that holds ``rollouts`` of each of ``prompts``, as 64 hexadecimal digits.

    Raises WrongRows where the tables hold other rows, or steps that contradict the rollouts.
    """
    length = _checked(tables, prompts, rollouts)
    end = np.cumsum(length)
    numbers = np.column_stack([tables.rollouts[name].to_numpy().astype(np.float64) for name in _numbers(tables)])
    words = zip(*(tables.rollouts[name].to_pylist() for name in _WORDS), strict=True)
    steps = _step_words(tables.steps)
    total = 0
    for i, (row, said) in enumerate(zip(numbers, words, strict=True)):
        prompt, rollout = divmod(i, len(rollouts))
        head = files.canonical_json([prompts[prompt].prompt_hash, rollouts[rollout], *said])
        part = hashlib.sha256(head + b"\0" + row.tobytes() + steps[end[i] - length[i]:end[i]].tobytes())
        total += int.from_bytes(part.digest(), "big")
    return f"{total % _MODULUS:064x}"


def _numbers(tables: ShardTables) -> list[str]:
    """The columns of the rollouts that are measured, in their declared order."""
    return [f.name for f in tables.rollouts.schema if f.name == "length" or pa.types.is_float64(f.type)]


def _step_words(steps: pa.Table) -> np.ndarray:
    """(T, 1 + terms) uint32: each token and the bits of its terms."""
    terms = [f.name for f in steps.schema if pa.types.is_float32(f.type)]
    columns = [steps[name].to_numpy().view(np.uint32) for name in ("token_id", *terms)]
    return np.stack(columns, axis=1)


def _checked(tables: ShardTables, prompts: Sequence[Prompt], rollouts: range) -> np.ndarray:
    """The rollouts' lengths (M,), after comparing every index column with what it must be."""
    ids = pa.array([p.prompt_id for p in prompts], pa.string())
    of_row = np.repeat(np.arange(len(prompts)), len(rollouts))
    index = np.tile(np.array(rollouts, dtype=np.int32), len(prompts))
    _require_same(tables.rollouts, {"prompt_id": ids.take(pa.array(of_row)), "rollout": pa.array(index, pa.int32())})
    length: np.ndarray = tables.rollouts["length"].to_numpy().astype(np.int64)
    if (length < 1).any() or length.sum() != tables.steps.num_rows:
        raise WrongRows("the steps are not as many as the rollouts are long")
    per_step = np.repeat(np.arange(len(length)), length)
    step = np.arange(length.sum()) - (np.cumsum(length) - length)[per_step]
    _require_same(tables.steps, {
        "prompt_id": ids.take(pa.array(of_row[per_step])), "rollout": pa.array(index[per_step], pa.int32()),
        "step": pa.array(step, pa.int32()), "token_id": tables.rollouts["token_ids"].combine_chunks().flatten()})
    return length


def _require_same(table: pa.Table, expected: Mapping[str, pa.Array]) -> None:
    for name, values in expected.items():
        if not table[name].combine_chunks().equals(values):
            raise WrongRows(f"{name} is not what this shard should hold")


def run_content(asked: Mapping[str, Any], contents: Iterable[str]) -> str:
    """SHA-256 over what was asked and the sum of the shards' contents."""
    total = sum(int(content, 16) for content in contents) % _MODULUS
    return files.sha256(files.canonical_json({"asked": dict(asked), "rollouts": f"{total:064x}"}))


# --- runs of the first format: a hash of both tables of each shard, in order ------------------------------------


def first_shard_content(tables: ShardTables) -> str:
    """What the first format calls a shard's content."""
    return files.sha256((table_hash(tables.rollouts) + table_hash(tables.steps)).encode())


def first_run_content(config: Mapping[str, Any], contents: Sequence[tuple[int, str]]) -> str:
    """What the first format calls a run's content: over the whole configuration and (index, content) of its shards."""
    return files.sha256(files.canonical_json({"config": dict(config), "shards": list(contents)}))
