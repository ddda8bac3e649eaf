"""The two Parquet files of a stored shard: which columns, which prompts, and whether they are what was stored."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from canopy_stats.schema import EXACT, INTERVAL, MISSING, ROLLOUTS_OF, STEPS_OF, TERMS, Column, Prompt, UserError, names
from canopy_stats.store.content import WrongRows, first_shard_content, shard_content
from canopy_stats.store.plan import Shard, vouched
from canopy_stats.store.tables import ShardTables, arrow_schema

DECLARED: Mapping[str, Mapping[str, Sequence[Column]]] = {"rollouts": ROLLOUTS_OF, "steps": STEPS_OF}
"""Columns of each file, by what is known of the entropies (schema.TERMS)."""
_EVERY = {kind: {c.name: c for terms in TERMS for c in of[terms]} for kind, of in DECLARED.items()}
_DERIVED: dict[str, tuple[str, Callable[[np.ndarray], np.ndarray]]] = {
    "surprisal_variance_sum": ("surprisal_variance", lambda x: x),
    "stop_variance_sum": ("stop_probability", lambda p: p * (1 - p))}
"""Columns of the rollouts that the first format left to be summed from the steps."""


def shard_path(kind: str, number: int) -> str:
    """A shard's file within the run's folder."""
    return f"{kind}/shard-{number:05d}.parquet"


def read_table(path: Path, shard: Shard, kind: str, columns: Sequence[str],
               row_groups: Sequence[int] | None = None) -> pa.Table:
    """The named columns of one file of a shard; UserError where an older canopy_stats did not write them all."""
    with _opened(path / vouched(shard, kind)["path"]) as file:
        stored = set(file.schema_arrow.names)
        lacking = [c for c in columns if c not in stored]
        derived = [c for c in lacking if kind == "rollouts" and c in _DERIVED]
        if len(derived) < len(lacking):
            raise UserError(f"{path / vouched(shard, kind)['path']} was written by an older canopy_stats, without "
                            f"{', '.join(sorted(set(lacking) - set(derived)))}. Generate the run again in another "
                            "folder, or ask for the other columns only.")
        have = [c for c in columns if c in stored] + (["length"] if derived and "length" not in columns else [])
        groups = range(file.num_row_groups) if row_groups is None else row_groups
        table = file.read_row_groups(list(groups), columns=have)
    for name in derived:
        table = table.append_column(name, _summed(path, shard, name, table["length"].to_numpy()))
    return _cast(table.select(list(columns)), _declared(kind, columns), path / vouched(shard, kind)["path"])


def _cast(table: pa.Table, schema: pa.Schema, path: Path) -> pa.Table:
    try:
        return table.cast(schema)
    except (ValueError, pa.ArrowException) as error:  # nulls, or values of another kind
        raise UserError(f"{path} holds columns that no run has ({str(error).splitlines()[0]}). Run the same `generate` "
                        "again: it draws damaged shards anew.") from None


def _declared(kind: str, columns: Sequence[str]) -> pa.Schema:
    """Parquet calls the items of a list otherwise than Arrow does."""
    return arrow_schema([_EVERY[kind][name] for name in columns])


def _known(path: Path, shard: Shard) -> str:
    """What the files of a shard hold of the entropies."""
    with _opened(path / shard["steps"]["path"]) as file:
        stored = set(file.schema_arrow.names)
    return EXACT if "entropy" in stored else INTERVAL if "entropy_low" in stored else MISSING


@contextmanager
def _opened(path: Path) -> Iterator[pq.ParquetFile]:
    """The open file, mapped: of a small file Arrow would read 64 kB for the footer alone. Nothing is read in advance,
    and nobody shortens a shard's file: one is replaced whole."""
    try:
        with pq.ParquetFile(path, memory_map=True) as file:
            yield file
    except (OSError, pa.ArrowException) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} cannot be read: {str(error).splitlines()[0]}. Run the same `generate` again: it draws "
                        "damaged shards anew.") from None


def _summed(path: Path, shard: Shard, name: str, length: np.ndarray) -> pa.Array:
    """A column of the rollouts as sums over their steps."""
    term, part = _DERIVED[name]
    values = part(read_table(path, shard, "steps", [term])[term].to_numpy().astype(np.float64))
    end = np.cumsum(length)
    return pa.array([float(np.sum(values[b - n:b])) for n, b in zip(length, end, strict=True)], pa.float64())


def prompt_rows(path: Path, shard: Shard, kind: str) -> list[int]:
    """How many rows of a file belong to each of the shard's prompts, in their order."""
    n_each = shard["span"][1] - shard["span"][0]
    if kind == "rollouts":
        return [n_each] * len(shard["prompts"])
    with _opened(path / shard["steps"]["path"]) as file:
        if file.num_row_groups == len(shard["prompts"]):
            return [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
    length = read_table(path, shard, "rollouts", ["length"])["length"].to_numpy().astype(np.int64)
    rows: list[int] = length.reshape(-1, n_each).sum(axis=1).tolist()
    return rows


def read_rollout(path: Path, shard: Shard, prompt: str, columns: Sequence[str],
                 rollouts: Sequence[int]) -> dict[int, dict[str, np.ndarray]]:
    """Step columns (N,) of some rollouts of one of the shard's prompts: its row group alone is read."""
    with _opened(path / shard["steps"]["path"]) as file:
        grouped = file.num_row_groups == len(shard["prompts"])
    groups = [shard["prompts"].index(prompt)] if grouped else None
    table = read_table(path, shard, "steps", ["rollout", *columns], groups)
    start = 0
    if not grouped:
        rows = prompt_rows(path, shard, "steps")
        at = shard["prompts"].index(prompt)
        start = sum(rows[:at])
        table = table.slice(start, rows[at])
    index = table["rollout"].to_numpy()
    return {r: {name: table[name].to_numpy()[index == r] for name in columns} for r in rollouts}


def fresh_content(path: Path, shard: Shard, prompts: Mapping[str, Prompt], *, first: bool) -> str | None:
    """The content of what the files hold now; None where they do not hold the shard's rollouts.

    ``first`` asks for the hash of the first format.
    """
    try:
        if first:
            tables = {k: _as_stored(path, shard, k) for k in DECLARED}
            found = ShardTables(tables["rollouts"], tables["steps"])
            rows = (found.rollouts.num_rows, found.steps.num_rows)
            return first_shard_content(found) if rows == (shard["n_rollouts"], shard["n_tokens"]) else None
        return content_now(path, shard, prompts)
    except (UserError, WrongRows, pa.ArrowException, KeyError):
        return None


def content_now(path: Path, shard: Shard, prompts: Mapping[str, Prompt]) -> str:
    """The content of a shard's files; WrongRows where they hold other rollouts."""
    terms = _known(path, shard)
    read = {k: read_table(path, shard, k, names(of[terms])) for k, of in DECLARED.items()}
    if read["steps"].num_rows != shard["n_tokens"]:
        raise WrongRows("the steps are not as many as the log says")
    return shard_content(ShardTables(read["rollouts"], read["steps"]), [prompts[h] for h in shard["prompts"]],
                         range(*shard["span"]))


def _as_stored(path: Path, shard: Shard, kind: str) -> pa.Table:
    with _opened(path / vouched(shard, kind)["path"]) as file:
        return _cast(file.read(), _declared(kind, file.schema_arrow.names), path)
