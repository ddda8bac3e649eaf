"""A run as it lies on the disk: opened, its tables read whole or part by part."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from canopy_stats import files
from canopy_stats.notebook import Shown
from canopy_stats.schema import EXACT, INTERVAL, Prompt, RunConfig, UserError, names
from canopy_stats.store import plan
from canopy_stats.store.content import first_run_content, run_content
from canopy_stats.store.export import export_runs
from canopy_stats.store.identity import identity
from canopy_stats.store.locking import held
from canopy_stats.store.manifest import (
    FIRST,
    MANIFEST,
    PROMPTS,
    Manifest,
    read_config,
    read_manifest,
    read_shards,
    readable_json,
)
from canopy_stats.store.plan import Shard
from canopy_stats.store.prompts import read_prompt_lines
from canopy_stats.store.shard_files import DECLARED, prompt_rows, read_rollout, read_table
from canopy_stats.store.tables import arrow_schema, parquet_bytes
from canopy_stats.store.verify import damaged_shards


@dataclass(frozen=True)
class Run(Shown):
    """A run as it lies on the disk.

    ``shards`` are the intact ones; ``damaged`` are the numbers of those whose files do not hold what the run's log
    says, or which hold what does not belong there.
    """

    path: Path
    config: RunConfig
    manifest: dict[str, Any] = field(repr=False)
    shards: Sequence[Shard] = field(repr=False)
    damaged: tuple[int, ...] = ()

    @property
    def run_id(self) -> str:
        """16 digits that name what decides the law; see :mod:`canopy_stats.store.identity`."""
        return str(self.manifest["run_id"])

    def _shown(self) -> tuple[str, list[Any]]:
        of = self.config
        state = "complete" if self.complete else "incomplete"
        return (f"Run {of.family}/{of.variant}/{of.task}",
                [f"{self.prompts_held:,} prompts, {self.n_stored:,} rollouts, {self.n_tokens:,} tokens, {state}; "
                 f"{of.policy.label()}; engine {of.engine}", str(self.path)])

    @property
    def n_tokens(self) -> int:
        """Tokens that are stored."""
        return sum(s["n_tokens"] for s in self.shards)

    @property
    def n_stored(self) -> int:
        """Rollouts that are stored."""
        return sum(s["n_rollouts"] for s in self.shards)

    @property
    def prompts_held(self) -> int:
        """Prompts of which rollouts are stored."""
        return len({h for s in self.shards for h in s["prompts"]})

    @cached_property
    def complete(self) -> bool:
        """Whether every prompt has all its rollouts, and nothing is damaged."""
        return not self.damaged and plan.covers(self.shards, self._hashes, self.counts)

    @property
    def counts(self) -> list[int]:
        """How many rollouts each prompt has, or will have."""
        return self.config.rollouts_of(len(self._hashes))

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 over what decides the law, the prompts and every stored value: independent of time, place, shards
        and interruptions."""
        return content_of(self.manifest, self.shards)

    def prompts(self) -> list[Prompt]:
        """The prompts in their order, as the model received them."""
        return list(self._prompts)

    @cached_property
    def _prompts(self) -> tuple[Prompt, ...]:
        return tuple(read_prompt_lines((self.path / PROMPTS).read_bytes()))

    @cached_property
    def _hashes(self) -> list[str]:
        return [p.prompt_hash for p in self._prompts]

    @cached_property
    def _position(self) -> dict[str, int]:
        return {h: i for i, h in enumerate(self._hashes)}

    # --- tables -------------------------------------------------------------------------------------------------

    def parts(self) -> Iterator[Run]:
        """The run in exact splits, in order: every part holds whole prompts, and reads as a run of its own.

        Parts are small (8 prompts) whatever the size of the run, and in whichever order their rollouts were drawn.
        """
        for shards in plan.in_parts(self.shards, self._position):
            yield self._with(shards)

    def only(self, numbers: Collection[int] | None) -> Run:
        """The run with these of its shards alone, or all of them."""
        return self if numbers is None else self._with([s for s in self.shards if s["number"] in numbers])

    def _with(self, shards: Sequence[Shard]) -> Run:
        part = replace(self, shards=tuple(shards))
        part.__dict__.update(_prompts=self._prompts, _hashes=self._hashes, _position=self._position)
        return part

    def rollouts(self, columns: Sequence[str] | None = None) -> pa.Table:
        """One row a rollout in (prompt, rollout) order; all of schema.ROLLOUT_COLUMNS or the named ones. An imported
        run without exact entropies has those of schema.ROLLOUTS_OF."""
        return self._table("rollouts", columns)

    def steps(self, columns: Sequence[str] | None = None) -> pa.Table:
        """One row a token in (prompt, rollout, step) order; all of schema.STEP_COLUMNS or the named ones. See
        schema.STEPS_OF."""
        return self._table("steps", columns)

    def _table(self, kind: str, wanted: Sequence[str] | None) -> pa.Table:
        declared = names(DECLARED[kind][self.config.terms])
        if unknown := sorted(set(wanted or ()) - set(declared)):
            raise self._without(kind, unknown, declared)
        columns = declared if wanted is None else list(wanted)
        pieces = [piece for shards in plan.in_parts(self.shards, self._position)
                  for piece in self._ordered(shards, kind, columns)]
        if not pieces:
            of_name = {c.name: c for c in DECLARED[kind][self.config.terms]}
            return arrow_schema([of_name[name] for name in columns]).empty_table()
        return pa.concat_tables(pieces)

    def _without(self, kind: str, unknown: Sequence[str], declared: Sequence[str]) -> UserError:
        """The error of asking for columns that a run does not have."""
        if self.config.terms != EXACT and set(unknown) <= set(names(DECLARED[kind][EXACT])):
            only = "only bounds of them" if self.config.terms == INTERVAL else "none"
            return UserError(f"{self.path} was imported without its model and holds {only}: no exact entropies, so no "
                             f"{', '.join(unknown)}. Import it with model= to have every term.")
        return UserError(f"{kind} have no column {', '.join(unknown)}; there are {', '.join(declared)}.")

    def _ordered(self, shards: Sequence[Shard], kind: str, columns: Sequence[str]) -> list[pa.Table]:
        """The rows of one part: of each shard as they are, or prompt by prompt where several hold a prompt's."""
        tables = [read_table(self.path, shard, kind, columns) for shard in shards]
        if len(shards) == 1 and self._in_order(shards[0]):
            return tables
        slices = []
        for shard, table in zip(shards, tables, strict=True):
            rows = prompt_rows(self.path, shard, kind)
            starts = np.cumsum([0, *rows[:-1]])
            slices += [(self._position[h], shard["span"][0], table.slice(a, n))
                       for h, a, n in zip(shard["prompts"], starts, rows, strict=True)]
        return [piece for _, _, piece in sorted(slices, key=lambda s: s[:2])]

    def _in_order(self, shard: Shard) -> bool:
        places = [self._position[h] for h in shard["prompts"]]
        return places == sorted(places)

    def stored_steps(self, pairs: Sequence[tuple[int, int]],
                     columns: Sequence[str]) -> dict[tuple[int, int], Mapping[str, np.ndarray]]:
        """Step columns (N,) of some rollouts, given as (prompt index, rollout), without the rest of their shards."""
        found: dict[tuple[int, int], Mapping[str, np.ndarray]] = {}
        by_number = {s["number"]: s for s in self.shards}
        for (number, prompt), wanted in self._where(pairs).items():
            read = read_rollout(self.path, by_number[number], self._hashes[prompt], columns, wanted)
            found |= {(prompt, r): values for r, values in read.items()}
        return {pair: found[pair] for pair in pairs}

    def _where(self, pairs: Sequence[tuple[int, int]]) -> dict[tuple[int, int], list[int]]:
        """(shard number, prompt) -> rollouts, of the wanted pairs."""
        members: dict[str, list[Shard]] = {}
        for shard in self.shards:
            for prompt_hash in shard["prompts"]:
                members.setdefault(prompt_hash, []).append(shard)
        found: dict[tuple[int, int], list[int]] = {}
        for prompt, rollout in pairs:
            for shard in members.get(self._hashes[prompt], []):
                if rollout in range(*shard["span"]):
                    found.setdefault((shard["number"], prompt), []).append(rollout)
        return found

    def to_hf(self, path: str | Path, *, license: str | None = None, title: str | None = None) -> Path:
        """The run as a new Hugging Face data set folder, which ``datasets.load_dataset(path, "rollouts")`` reads.

        Rollouts, steps and prompts are Parquet files; a data card and Croissant metadata say what the columns mean and
        where they come from. Nothing of the machine enters. See :func:`canopy_stats.store.export.export_runs`, which
        takes several runs.
        """
        return export_runs([self], path, license=license, title=title)

    # --- tables that were made from the run ---------------------------------------------------------------------

    def write_table(self, name: str, table: pa.Table, provenance: Mapping[str, Any]) -> None:
        """Keep a table that was made from this run, with what it was made by; it replaces one of the same name."""
        with held(self.path, wait=30):
            files.make_folder(self.path / "tables")
            data = parquet_bytes(table)
            note = {**provenance, "run_content_hash": self.content_hash, "sha256": files.sha256(data)}
            files.write_atomic(self.path / "tables" / f"{name}.parquet", data)
            files.write_atomic(self.path / "tables" / f"{name}.json", readable_json(note))

    def read_table(self, name: str) -> tuple[pa.Table, dict[str, Any]] | None:
        """A kept table and its provenance; None when absent, damaged, or made from other content than the run's."""
        try:
            note = json.loads(files.read_bytes(self.path / "tables" / f"{name}.json", "kept table's note"))
            data = files.read_bytes(self.path / "tables" / f"{name}.parquet", "kept table", 1 << 40)
        except (ValueError, RecursionError):
            return None
        if not isinstance(note, dict) or note.get("run_content_hash") != self.content_hash:
            return None
        return (pq.read_table(pa.BufferReader(data)), note) if note.get("sha256") == files.sha256(data) else None


def content_of(manifest: Mapping[str, Any], shards: Sequence[Shard]) -> str:
    """The content hash of a run that holds these shards."""
    config = manifest["config"]
    if manifest["schema_version"] == FIRST:
        return first_run_content(config, sorted((s["number"], s["content"]) for s in shards))
    uneven = {"counts": config["counts"]} if config.get("counts") is not None else {}
    asked = {**identity(config), "n_rollouts": config["n_rollouts"], "prompts": config["prompts_hash"], **uneven}
    return run_content(asked, (s["content"] for s in shards))


# ------------------------------------------------------------------------------------------------------- opening


def open_run(path: str | Path, *, allow_partial: bool = False) -> Run:
    """Open a run for reading, after every file was compared with what was stored.

    Files are read through once for each change; after that, opening looks at their size and times only. An incomplete
    or damaged run raises UserError; with ``allow_partial`` its intact shards are read, and ``complete`` and
    ``damaged`` say what is lacking.
    """
    path = files.place(path)
    if not path.is_dir():
        raise UserError(f"There is no run folder {path}. Give the folder that `generate` wrote.")
    manifest = read_manifest(path)
    prompts = stored_prompts(path, manifest)
    run = as_it_lies(path, manifest, prompts)
    if not allow_partial:
        _refuse_partial(run)
    return run


def stored_prompts(path: Path, manifest: Manifest) -> list[Prompt]:
    """A run's prompts; UserError where the file is not the one that the manifest names."""
    altered = UserError(f"{path / PROMPTS} is missing or was altered. Run the same `generate` again: it restores it.")
    data = files.read_if_there(path / PROMPTS, "prompts of the run", 1 << 36)
    if data is None or files.sha256(data) != manifest["config"]["prompts_hash"]:
        raise altered
    prompts = read_prompt_lines(data)
    if len(prompts) != manifest["n_prompts"]:
        raise UserError(f"{path / MANIFEST} says {manifest['n_prompts']} prompts, {PROMPTS} holds {len(prompts)}: one "
                        "was edited. Restore it, or generate again into another folder.")
    return prompts


def as_it_lies(path: Path, manifest: Manifest, prompts: Sequence[Prompt]) -> Run:
    """The run with its shards sorted into intact and damaged ones."""
    config, hashes = read_config(manifest), [p.prompt_hash for p in prompts]
    shards = read_shards(path, manifest, hashes)
    strange = plan.strangers(shards, hashes, _counts(config, hashes))
    own = [s for s in shards if s["number"] not in strange]
    first = manifest["schema_version"] == FIRST
    damaged = {*strange, *damaged_shards(path, own, {p.prompt_hash: p for p in prompts}, first=first)}
    intact = tuple(sorted((s for s in shards if s["number"] not in damaged), key=lambda s: s["number"]))
    told = {**manifest, "shards": [dict(s) for s in shards]}
    run = Run(path, config, told, intact, tuple(sorted(damaged)))
    run.__dict__["_prompts"] = tuple(prompts)
    return run


def _counts(config: RunConfig, hashes: Sequence[str]) -> list[int]:
    """Rollouts of each prompt; UserError where the manifest tells them of another number of prompts."""
    counts = config.rollouts_of(len(hashes))
    if len(counts) != len(hashes):
        raise UserError(f"The manifest tells the rollouts of {len(counts)} prompts, and the run holds {len(hashes)}: "
                        "one was edited. Restore it, or make the run again in another folder.")
    return counts


def _refuse_partial(run: Run) -> None:
    if run.damaged:
        listed = ", ".join(map(str, run.damaged[:5])) + (", ..." if len(run.damaged) > 5 else "")
        raise UserError(f"{run.path} is damaged: {len(run.damaged)} of {len(run.manifest['shards'])} shards ({listed}) "
                        "do not hold what was stored. Run the same `generate` again: it draws these anew, or open it "
                        "with allow_partial=True.")
    if not run.complete:
        wanted = sum(run.counts)
        raise UserError(f"{run.path} is not complete: {run.n_stored:,} of {wanted:,} rollouts are there. Run the same "
                        "`generate` again: it resumes, or open it with allow_partial=True.")
    if (said := run.manifest["content_hash"]) is not None and said != run.content_hash:
        raise UserError(f"{run.path} does not hold the content that it was finished with: its files and their hashes "
                        "were edited together. Restore it, or generate again into another folder.")
