"""A run's folder: Parquet shards, the manifest that vouches for them, resume, and reading back.

::

    RUN/manifest.json                     configuration, hashes of every shard, versions, drift
    RUN/prompts.jsonl                     prompt_id, hash, source, token_ids
    RUN/rollouts/shard-00000.parquet      one row a rollout (schema.ROLLOUT_COLUMNS)
    RUN/steps/shard-00000.parquet         one row a token (schema.STEP_COLUMNS)
    RUN/tables/NAME.parquet, NAME.json    what was made from the run, with its provenance

A shard counts only when the manifest holds the SHA-256 of both its files, and the manifest is replaced whole: a
writer killed at any moment leaves a folder from which the next one resumes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from canopy_stats import files
from canopy_stats.schema import (
    LENGTH,
    ROLLOUT_COLUMNS,
    SCHEMA_VERSION,
    STEP_COLUMNS,
    STEP_TERMS,
    STOP,
    Column,
    Prompt,
    Rollout,
    RunConfig,
    SamplingPolicy,
    UserError,
    names,
)

ROLLOUTS_PER_SHARD = 256
KINDS = ("rollouts", "steps")

_MANIFEST, _PROMPTS, _LOCK = "manifest.json", "prompts.jsonl", ".lock"
_FORMAT = "canopy_stats run"
_ARROW = {"string": pa.string(), "int32": pa.int32(), "float32": pa.float32(), "float64": pa.float64(),
          "list<int32>": pa.list_(pa.int32())}


# ---------------------------------------------------------------------------------------------- tables of a shard


def arrow_schema(columns: Sequence[Column]) -> pa.Schema:
    """The Arrow schema of declared columns; unit and meaning travel as the fields' metadata."""
    return pa.schema([pa.field(c.name, _ARROW[c.dtype], nullable=False, metadata={"unit": c.unit, "meaning": c.meaning})
                      for c in columns])


def plan_shards(n_prompts: int, n_rollouts: int) -> list[range]:
    """Consecutive prompts, as many to a shard as come closest to 256 rollouts; at least one."""
    size = max(1, round(ROLLOUTS_PER_SHARD / n_rollouts))
    return [range(first, min(first + size, n_prompts)) for first in range(0, n_prompts, size)]


def shard_tables(prompts: Sequence[Prompt], drawn: Iterable[Rollout], task: str,
                 decode: Callable[[Sequence[int]], str]) -> tuple[pa.Table, pa.Table]:
    """The rollout and step tables of drawn rollouts, sorted by (prompt, rollout, step).

    ``prompt_index`` of each rollout points into ``prompts``. Raises UserError where a stored term is not a number.
    """
    ordered = sorted(drawn, key=lambda r: (r.prompt_index, r.rollout))
    _refuse_broken_terms(ordered, prompts)
    return _rollout_table(ordered, prompts, task, decode), step_table(ordered, prompts)


def _refuse_broken_terms(rollouts: Iterable[Rollout], prompts: Sequence[Prompt]) -> None:
    for rollout in rollouts:
        for name in STEP_TERMS:
            bad = ~np.isfinite(rollout.steps[name])
            if bad.any():
                raise UserError(
                    f"{name} is not a number at step {int(bad.argmax())} of rollout {rollout.rollout}, prompt "
                    f"{prompts[rollout.prompt_index].prompt_id!r}: the model's logits are broken there. Try "
                    "dtype='float32', and check the weights.")
        if rollout.finish_reason not in (STOP, LENGTH) or len(rollout.token_ids) == 0:
            raise ValueError(f"an engine must end a rollout with {STOP!r} or {LENGTH!r} after at least one token")


def _rollout_table(rollouts: Sequence[Rollout], prompts: Sequence[Prompt], task: str,
                   decode: Callable[[Sequence[int]], str]) -> pa.Table:
    ids = [prompts[r.prompt_index].prompt_id for r in rollouts]
    length = np.array([len(r.token_ids) for r in rollouts], dtype=np.int32)
    entropy = _sums(rollouts, "entropy")
    columns = {
        "prompt_id": ids,
        "prompt_uid": [f"{task}/{prompt_id}" for prompt_id in ids],
        "rollout": [r.rollout for r in rollouts],
        "length": length,
        "finish_reason": [r.finish_reason for r in rollouts],
        "entropy_sum": entropy,
        "entropy_rate": entropy / np.maximum(length, 1),
        "surprisal_sum": -_sums(rollouts, "logprob"),
        "stop_hazard_sum": _sums(rollouts, "stop_probability"),
        "entropy_sum_full_offpolicy": _sums(rollouts, "entropy_full_offpolicy"),
        "surprisal_sum_full_offpolicy": -_sums(rollouts, "logprob_full_offpolicy"),
        "stop_hazard_sum_full_offpolicy": _sums(rollouts, "stop_probability_full_offpolicy"),
        "token_ids": [np.asarray(r.token_ids, dtype=np.int32) for r in rollouts],
        "text": [decode(r.token_ids.tolist()) for r in rollouts],
    }
    return pa.table(columns, schema=arrow_schema(ROLLOUT_COLUMNS))


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
    columns |= {term: _concatenated([r.steps[term] for r in rollouts], np.float32) for term in STEP_TERMS}
    return pa.table(columns, schema=arrow_schema(STEP_COLUMNS))


def _concatenated(parts: Sequence[Any], dtype: type) -> np.ndarray:
    return np.concatenate([np.asarray(p, dtype=dtype) for p in parts]) if parts else np.empty(0, dtype)


def _parquet_bytes(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue().to_pybytes()


# ------------------------------------------------------------------------------------------------- configuration


def prompts_hash(prompts: Sequence[Prompt]) -> str:
    """SHA-256 over the prompts' ids, sources and token ids, in order: what the model is given, and under what name."""
    return files.sha256(_prompt_lines(prompts))


def _prompt_lines(prompts: Sequence[Prompt]) -> bytes:
    rows = ({"prompt_id": p.prompt_id, "hash": p.prompt_hash, "source": p.source, "token_ids": list(p.token_ids)}
            for p in prompts)
    return b"".join(files.canonical_json(row) + b"\n" for row in rows)


def _read_prompt_lines(data: bytes) -> list[Prompt]:
    rows = [json.loads(line) for line in data.decode().split("\n") if line]
    return [Prompt(r["prompt_id"], r["hash"], r["source"], tuple(r["token_ids"])) for r in rows]


def run_id(config: Mapping[str, Any]) -> str:
    """16 hexadecimal digits that name a configuration."""
    return files.sha256(files.canonical_json(dict(config)))[:16]


def _config_from(stored: Mapping[str, Any]) -> RunConfig:
    return RunConfig(**{**stored, "policy": SamplingPolicy(**stored["policy"])})


def config_differences(stored: Mapping[str, Any], asked: Mapping[str, Any]) -> list[str]:
    """Every field in which two configurations differ, such as ``seed: stored 0, asked 1``."""
    old, new = _flat(stored), _flat(asked)
    return [f"{name}: stored {_short(old.get(name))}, asked {_short(new.get(name))}"
            for name in sorted(old.keys() | new.keys()) if old.get(name) != new.get(name)]


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    if not isinstance(value, Mapping):
        return {name: value}
    return {k: v for key, part in value.items() for k, v in _flat(part, f"{name}.{key}" if name else str(key)).items()}


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:28]}...{text[-28:]}"


# ------------------------------------------------------------------------------------------------------ manifest


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _new_manifest(config: Mapping[str, Any], n_prompts: int, versions: Mapping[str, Any],
                  origin: Mapping[str, Any]) -> dict[str, Any]:
    return {"format": _FORMAT, "schema_version": SCHEMA_VERSION, "run_id": run_id(config), "config": dict(config),
            "n_prompts": n_prompts, "origin": dict(origin), "versions": dict(versions), "created": _now(),
            "finished": None, "drift": None, "content_hash": None, "shards": []}


def stored_config(path: str | Path) -> dict[str, Any] | None:
    """The configuration of the run in a folder, whatever its state; None where there is no run yet."""
    return _read_manifest(Path(path))["config"] if (Path(path) / _MANIFEST).is_file() else None


def _read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a run folder; UserError where there is none or it is not readable."""
    try:
        manifest = json.loads((path / _MANIFEST).read_bytes())
        known = manifest["format"] == _FORMAT
    except FileNotFoundError:
        raise UserError(f"{path} holds no run (no {_MANIFEST}). Give the folder that `generate` wrote.") from None
    except (ValueError, KeyError, TypeError, NotADirectoryError):
        known = False
    if not known:
        raise UserError(f"{path / _MANIFEST} is not the manifest of a run, or is damaged. Restore it, or generate "
                        "into another folder.")
    if manifest["schema_version"] > SCHEMA_VERSION:
        raise UserError(f"{path} was written by a newer canopy_stats (format {manifest['schema_version']}, this one "
                        f"reads up to {SCHEMA_VERSION}). Upgrade canopy_stats.")
    return manifest


def _content_hash(config: Mapping[str, Any], shards: Iterable[Mapping[str, Any]]) -> str:
    return files.sha256(files.canonical_json({"config": dict(config),
                                              "shards": [(s["index"], s["content"]) for s in shards]}))


def _shard_path(kind: str, index: int) -> str:
    return f"{kind}/shard-{index:05d}.parquet"


def _intact(path: Path, shard: Mapping[str, Any]) -> bool:
    return all(files.file_sha256(path / shard[kind]["path"]) == shard[kind]["sha256"] for kind in KINDS)


# ------------------------------------------------------------------------------------------------------- reading


@dataclass(frozen=True)
class Run:
    """A run as it lies on the disk. ``damaged`` names shards that the manifest lists but whose files do not match."""

    path: Path
    config: RunConfig
    manifest: dict[str, Any] = field(repr=False)
    damaged: tuple[int, ...] = ()

    @property
    def shards(self) -> list[dict[str, Any]]:
        """The manifest's entries of the intact shards, in prompt order."""
        return [s for s in self.manifest["shards"] if s["index"] not in self.damaged]

    @property
    def run_id(self) -> str:
        return self.manifest["run_id"]

    @property
    def complete(self) -> bool:
        """Whether every planned shard is there and intact."""
        return len(self.shards) == len(plan_shards(self.manifest["n_prompts"], self.config.n_rollouts))

    @property
    def content_hash(self) -> str:
        """SHA-256 over the configuration and the shards' values: independent of time, speed and interruptions."""
        return _content_hash(self.manifest["config"], self.shards)

    def prompts(self) -> list[Prompt]:
        """The prompts in their order, as the model received them."""
        return _read_prompt_lines((self.path / _PROMPTS).read_bytes())

    def rollouts(self, columns: Sequence[str] | None = None) -> pa.Table:
        """One row a rollout in (prompt, rollout) order; all of schema.ROLLOUT_COLUMNS or the named ones."""
        return self._table("rollouts", ROLLOUT_COLUMNS, columns)

    def steps(self, columns: Sequence[str] | None = None) -> pa.Table:
        """One row a token in (prompt, rollout, step) order; all of schema.STEP_COLUMNS or the named ones."""
        return self._table("steps", STEP_COLUMNS, columns)

    def _table(self, kind: str, declared: Sequence[Column], wanted: Sequence[str] | None) -> pa.Table:
        schema = arrow_schema([c for c in declared if wanted is None or c.name in wanted])
        if wanted is not None and (unknown := sorted(set(wanted) - set(schema.names))):
            raise UserError(f"{kind} have no column {', '.join(unknown)}; there are {', '.join(names(declared))}.")
        parts = [_read_shard(self.path / s[kind]["path"], schema) for s in self.shards]
        table = pa.concat_tables(parts) if parts else schema.empty_table()
        return table.select(list(wanted)) if wanted is not None else table

    def write_table(self, name: str, table: pa.Table, provenance: Mapping[str, Any]) -> None:
        """Keep a table that was made from this run, with what it was made by; it replaces one of the same name."""
        with _lock(self.path, wait=30):
            files.make_folder(self.path / "tables")
            data = _parquet_bytes(table)
            note = {**provenance, "run_content_hash": self.content_hash, "sha256": files.sha256(data)}
            files.write_atomic(self.path / "tables" / f"{name}.parquet", data)
            files.write_atomic(self.path / "tables" / f"{name}.json", _readable_json(note))

    def read_table(self, name: str) -> tuple[pa.Table, dict[str, Any]] | None:
        """A kept table and its provenance; None when absent, damaged, or made from other content than the run's."""
        try:
            note = json.loads((self.path / "tables" / f"{name}.json").read_bytes())
            data = (self.path / "tables" / f"{name}.parquet").read_bytes()
        except (FileNotFoundError, ValueError):
            return None
        if note.get("run_content_hash") != self.content_hash or note.get("sha256") != files.sha256(data):
            return None
        return pq.read_table(pa.BufferReader(data)), note


def _read_shard(path: Path, schema: pa.Schema) -> pa.Table:
    """The wanted columns of one shard; UserError where an older canopy_stats did not write them all."""
    if missing := set(schema.names) - set(pq.read_schema(path).names):
        raise UserError(f"{path} was written by an older canopy_stats, without {', '.join(sorted(missing))}. Generate "
                        "the run again in another folder, or ask for the other columns only.")
    return pq.read_table(path, columns=schema.names).cast(schema)


def open_run(path: str | Path, *, allow_partial: bool = False) -> Run:
    """Open a run for reading, after every file was checked against its hash.

    An incomplete or damaged run raises UserError; with ``allow_partial`` its intact shards are read, and
    ``complete`` and ``damaged`` say what is lacking.
    """
    path = Path(path)
    if not path.is_dir():
        raise UserError(f"There is no run folder {path}. Give the folder that `generate` wrote.")
    manifest = _read_manifest(path)
    _refuse_edited(path, manifest)
    damaged = tuple(s["index"] for s in manifest["shards"] if not _intact(path, s))
    run = Run(path, _config_from(manifest["config"]), manifest, damaged)
    if not allow_partial:
        _refuse_partial(run)
    return run


def _refuse_edited(path: Path, manifest: Mapping[str, Any]) -> None:
    if run_id(manifest["config"]) != manifest["run_id"]:
        raise UserError(f"The configuration in {path / _MANIFEST} was edited after the run: it no longer matches its "
                        "run_id. Restore the file, or generate again into another folder.")
    if files.file_sha256(path / _PROMPTS) != manifest["config"]["prompts_hash"]:
        raise UserError(f"{path / _PROMPTS} is missing or was altered. Run the same `generate` again: it restores it.")


def _refuse_partial(run: Run) -> None:
    planned = len(plan_shards(run.manifest["n_prompts"], run.config.n_rollouts))
    if run.damaged:
        listed = ", ".join(map(str, run.damaged[:5])) + (", ..." if len(run.damaged) > 5 else "")
        raise UserError(f"{run.path} is damaged: {len(run.damaged)} of {planned} shards ({listed}) do not match their "
                        "hash. Run the same `generate` again: it draws these anew, or open it with allow_partial=True.")
    if not run.complete:
        raise UserError(f"{run.path} is not complete: {len(run.shards)} of {planned} shards are there. Run the same "
                        "`generate` again: it resumes, or open it with allow_partial=True.")


# ------------------------------------------------------------------------------------------------------- writing


def _readable_json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _lock(path: Path, wait: float) -> Any:
    """Hold the folder's lock, which the operating system frees when its holder dies; UserError if another has it."""
    import filelock

    lock = filelock.FileLock(path / _LOCK)
    try:
        return lock.acquire(timeout=wait)
    except filelock.Timeout:
        raise UserError(f"Another process is writing {path}. Wait for it or stop it, then run this again; or choose "
                        "another folder.") from None
    except OSError as error:
        raise UserError(f"Cannot write in {path}: {error.strerror}. Choose another folder.") from error


class RunWriter:
    """The one writer of a run folder, used as a context manager: it holds the lock and keeps what is intact.

    Entering it refuses a folder that is not a run, that another process writes, or whose configuration differs,
    and leaves ``missing``: the shards still to be drawn. ``versions`` and ``origin`` (where the model was found) are
    noted in the manifest and are no part of the configuration.
    """

    def __init__(self, path: str | Path, config: RunConfig, prompts: Sequence[Prompt], *,
                 versions: Mapping[str, Any] | None = None, origin: Mapping[str, Any] | None = None) -> None:
        self.path = Path(path)
        self.config = json.loads(files.canonical_json(config.to_dict()))
        self.prompts = prompts
        self.plan = plan_shards(len(prompts), config.n_rollouts)
        self._manifest = _new_manifest(self.config, len(prompts), versions or {}, origin or {})
        self._task = config.task

    def __enter__(self) -> Self:
        _refuse_foreign(self.path)
        files.make_folder(self.path)
        self._held = _lock(self.path, wait=0)
        try:
            self._prepare()
        except BaseException:
            self._held.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._held.__exit__(None, None, None)

    def _prepare(self) -> None:
        if (self.path / _MANIFEST).exists():
            self._adopt(_read_manifest(self.path))
        files.remove_temporaries(self.path)
        # The manifest comes first: any later file then lies in a folder that is known to be a run.
        self._write_manifest()
        for kind in KINDS:
            files.make_folder(self.path / kind)
        if files.file_sha256(self.path / _PROMPTS) != self.config["prompts_hash"]:
            files.write_atomic(self.path / _PROMPTS, _prompt_lines(self.prompts))

    def _adopt(self, stored: dict[str, Any]) -> None:
        """Go on with a stored run of this configuration, without the shards that are missing or altered."""
        if differing := config_differences(stored["config"], self.config):
            raise UserError(f"{self.path} holds a run with another configuration; nothing was changed. Differing: "
                            f"{'; '.join(differing)}. Ask for the stored values, or choose another folder.")
        intact = [s for s in stored["shards"] if _intact(self.path, s)]
        unchanged = len(intact) == len(stored["shards"]) == len(self.plan)
        self._manifest = {**stored, "origin": self._manifest["origin"], "shards": intact}
        if not unchanged:
            self._manifest |= {"finished": None, "drift": None, "content_hash": None}

    @property
    def missing(self) -> list[int]:
        """Indices of the shards that are still to be drawn."""
        there = {s["index"] for s in self._manifest["shards"]}
        return [i for i in range(len(self.plan)) if i not in there]

    @property
    def finished(self) -> bool:
        return self._manifest["finished"] is not None and not self.missing

    def shard_prompts(self, index: int) -> list[Prompt]:
        """The consecutive prompts of one shard."""
        return [self.prompts[i] for i in self.plan[index]]

    def write_shard(self, index: int, drawn: Iterable[Rollout], decode: Callable[[Sequence[int]], str], *,
                    batch_size: int) -> None:
        """Store one shard durably, then vouch for it in the manifest. ``batch_size`` is the one really used."""
        rollouts, steps = shard_tables(self.shard_prompts(index), drawn, self._task, decode)
        entry = {"index": index, "n_rollouts": rollouts.num_rows, "n_tokens": steps.num_rows, "batch_size": batch_size,
                 "content": files.sha256((files.table_hash(rollouts) + files.table_hash(steps)).encode())}
        for kind, table in zip(KINDS, (rollouts, steps), strict=True):
            data = _parquet_bytes(table)
            files.write_atomic(self.path / _shard_path(kind, index), data)
            entry[kind] = {"path": _shard_path(kind, index), "sha256": files.sha256(data)}
        self._manifest["shards"] = sorted([*self._manifest["shards"], entry], key=lambda s: s["index"])
        self._write_manifest()

    def finish(self, drift: Mapping[str, Any] | None) -> None:
        """Close a run whose shards are all there, with its measured drift."""
        if self.missing:
            raise ValueError(f"{len(self.missing)} shards are missing")
        self._manifest |= {"finished": _now(), "drift": dict(drift) if drift is not None else None,
                           "content_hash": _content_hash(self.config, self._manifest["shards"])}
        self._write_manifest()

    def run(self) -> Run:
        """What is stored so far, for reading."""
        return Run(self.path, _config_from(self.config), json.loads(json.dumps(self._manifest)))

    def _write_manifest(self) -> None:
        files.write_atomic(self.path / _MANIFEST, _readable_json(self._manifest))


def _refuse_foreign(path: Path) -> None:
    """A folder with other people's files is not written to."""
    if path.exists() and not path.is_dir():
        raise UserError(f"{path} is a file; a run needs a folder. Choose another place.")
    if not path.is_dir() or (path / _MANIFEST).exists():
        return
    # A writer killed before its first manifest leaves no more than its lock and a temporary file.
    foreign = [p.name for p in path.iterdir() if p.name != _LOCK and not files.is_temporary(p)]
    if foreign:
        raise UserError(f"{path} is not empty and is not a run ({', '.join(sorted(foreign)[:3])}). Choose another "
                        "folder, or empty this one.")
