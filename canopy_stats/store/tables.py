"""The two tables of a shard, one row a rollout and one row a token, and their bytes as Parquet."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from canopy_stats.schema import (
    EXACT,
    INTERVAL,
    LENGTH,
    MISSING,
    ROLLOUTS_OF,
    STEPS_OF,
    STOP,
    Column,
    Prompt,
    Rollout,
    UserError,
)

KINDS = ("rollouts", "steps")

Decode = Callable[[Sequence[int]], str]

_ARROW = {"string": pa.string(), "int32": pa.int32(), "int64": pa.int64(), "float32": pa.float32(),
          "float64": pa.float64(), "list<int32>": pa.list_(pa.int32())}
REPEATED = ("prompt_id", "prompt_uid", "finish_reason", "token_id", "token_ids.list.element")
"""Columns whose values repeat: a dictionary makes them small. One of floats makes them larger and slower to write."""


@dataclass(frozen=True, slots=True)
class ShardTables:
    """A shard's tables with the columns of schema.ROLLOUTS_OF and schema.STEPS_OF, prompt by prompt."""

    rollouts: pa.Table
    steps: pa.Table


def arrow_schema(columns: Sequence[Column]) -> pa.Schema:
    """The Arrow schema of declared columns; unit and meaning travel as the fields' metadata."""
    return pa.schema([pa.field(c.name, _ARROW[c.dtype], nullable=False, metadata={"unit": c.unit, "meaning": c.meaning})
                      for c in columns])


def shard_tables(prompts: Sequence[Prompt], drawn: Iterable[Rollout], task: str, decode: Decode) -> ShardTables:
    """The tables of drawn rollouts, sorted by (prompt, rollout, step).

    ``prompt_index`` of each rollout points into ``prompts``. Raises UserError where a stored term is not a number.
    """
    ordered = sorted(drawn, key=lambda r: (r.prompt_index, r.rollout))
    _refuse_broken_terms(ordered, prompts)
    return ShardTables(_rollout_table(ordered, prompts, task, decode), step_table(ordered, prompts))


def known(rollouts: Sequence[Rollout]) -> str:
    """What is known of the entropies of these rollouts: one of schema.TERMS."""
    steps = rollouts[0].steps if rollouts else {"entropy": None}
    return EXACT if "entropy" in steps else INTERVAL if "entropy_low" in steps else MISSING


def terms_of(columns: Sequence[Column]) -> list[str]:
    """The names of a step's terms among the declared columns."""
    return [c.name for c in columns if c.dtype == "float32"]


def _unusable(name: str, values: np.ndarray) -> np.ndarray:
    """Where a term is no number. A log-probability may be minus infinity: a law that could not draw given tokens."""
    impossible = np.isneginf(values) if name.startswith("logprob") else np.zeros(len(values), dtype=bool)
    return np.asarray(~np.isfinite(values) & ~impossible)


def _refuse_broken_terms(rollouts: Sequence[Rollout], prompts: Sequence[Prompt]) -> None:
    terms = terms_of(STEPS_OF[known(rollouts)])
    for rollout in rollouts:
        for name in terms:
            bad = _unusable(name, rollout.steps[name])
            if bad.any():
                raise UserError(
                    f"{name} is not a number at step {int(bad.argmax())} of rollout {rollout.rollout}, prompt "
                    f"{prompts[rollout.prompt_index].prompt_id!r}: the model's logits are broken there. Try "
                    "dtype='float32', and check the weights.")
        if rollout.finish_reason not in (STOP, LENGTH) or len(rollout.token_ids) == 0:
            raise ValueError(f"an engine must end a rollout with {STOP!r} or {LENGTH!r} after at least one token")


def _rollout_table(rollouts: Sequence[Rollout], prompts: Sequence[Prompt], task: str, decode: Decode) -> pa.Table:
    ids, kind = [prompts[r.prompt_index].prompt_id for r in rollouts], known(rollouts)
    length = np.array([len(r.token_ids) for r in rollouts], dtype=np.int32)
    columns = {
        "prompt_id": ids,
        "prompt_uid": [f"{task}/{prompt_id}" for prompt_id in ids],
        "rollout": [r.rollout for r in rollouts],
        "length": length,
        "finish_reason": [r.finish_reason for r in rollouts],
        **_SUMS[kind](rollouts, length),
        "token_ids": [np.asarray(r.token_ids, dtype=np.int32) for r in rollouts],
        "text": [r.text if r.text is not None else decode(r.token_ids.tolist()) for r in rollouts],
    }
    return pa.table(columns, schema=arrow_schema(ROLLOUTS_OF[kind]))


def _exact_sums(rollouts: Sequence[Rollout], length: np.ndarray) -> dict[str, np.ndarray]:
    entropy = _sums(rollouts, "entropy")
    return {
        "entropy_sum": entropy,
        "entropy_rate": entropy / np.maximum(length, 1),
        "surprisal_sum": -_sums(rollouts, "logprob"),
        "stop_hazard_sum": _sums(rollouts, "stop_probability"),
        "surprisal_variance_sum": _sums(rollouts, "surprisal_variance"),
        "stop_variance_sum": np.array([stop_variance(r.steps["stop_probability"]) for r in rollouts], np.float64),
        "entropy_sum_full_offpolicy": _sums(rollouts, "entropy_full_offpolicy"),
        "surprisal_sum_full_offpolicy": -_sums(rollouts, "logprob_full_offpolicy"),
        "stop_hazard_sum_full_offpolicy": _sums(rollouts, "stop_probability_full_offpolicy"),
    }


def _bounded_sums(rollouts: Sequence[Rollout], length: np.ndarray) -> dict[str, np.ndarray]:
    low, high = _sums(rollouts, "entropy_low"), _sums(rollouts, "entropy_high")
    return {"entropy_sum_low": low, "entropy_sum_high": high, "entropy_rate_low": low / length,
            "entropy_rate_high": high / length, "surprisal_sum": -_sums(rollouts, "logprob")}


_SUMS: Mapping[str, Callable[[Sequence[Rollout], np.ndarray], dict[str, np.ndarray]]] = {
    EXACT: _exact_sums, INTERVAL: _bounded_sums, MISSING: lambda rollouts, length: {}}


def stop_variance(p: np.ndarray) -> float:
    """The variance of 1{stopped} - A that end-token probabilities p (N,) predict: the sum of p (1 - p)."""
    wide = p.astype(np.float64)
    return float(np.sum(wide * (1 - wide)))


def _sums(rollouts: Sequence[Rollout], term: str) -> np.ndarray:
    """(M,) float64: the term summed over each rollout's steps, in double precision."""
    return np.array([np.sum(r.steps[term], dtype=np.float64) for r in rollouts], dtype=np.float64)


def step_table(rollouts: Sequence[Rollout], prompts: Sequence[Prompt]) -> pa.Table:
    """One row a token of the rollouts, in their order."""
    length = np.array([len(r.token_ids) for r in rollouts], dtype=np.int64)
    per_step = np.repeat(np.arange(len(rollouts)), length)
    index = np.array([r.prompt_index for r in rollouts], dtype=np.int32)[per_step]
    prompt_id = pa.DictionaryArray.from_arrays(pa.array(index, pa.int32()), pa.array([p.prompt_id for p in prompts]))
    columns: dict[str, Any] = {
        "prompt_id": prompt_id.cast(pa.string()),
        "rollout": np.array([r.rollout for r in rollouts], dtype=np.int32)[per_step],
        "step": (np.arange(length.sum()) - (np.cumsum(length) - length)[per_step]).astype(np.int32),
        "token_id": _concatenated([r.token_ids for r in rollouts], np.int32),
    }
    declared = STEPS_OF[known(rollouts)]
    columns |= {term: _concatenated([r.steps[term] for r in rollouts], np.float32) for term in terms_of(declared)}
    return pa.table(columns, schema=arrow_schema(declared))


def _concatenated(parts: Sequence[Any], dtype: type) -> np.ndarray:
    return np.concatenate([np.asarray(p, dtype=dtype) for p in parts]) if parts else np.empty(0, dtype)


def parquet_bytes(table: pa.Table, rows: Sequence[int] = ()) -> bytes:
    """A table as a Parquet file, with so many ``rows`` in each of its row groups; without any, all in one.

    The steps of a shard have a row group for each prompt: a few rollouts are read without the rest of their shard.
    """
    sink, start = pa.BufferOutputStream(), 0
    repeated = [name for name in REPEATED if name.split(".")[0] in table.column_names]
    with pq.ParquetWriter(sink, table.schema, compression="zstd", use_dictionary=repeated or False) as writer:
        for count in rows or [table.num_rows]:
            writer.write_table(table.slice(start, count), row_group_size=max(count, 1))
            start += count
    written: bytes = sink.getvalue().to_pybytes()
    return written
