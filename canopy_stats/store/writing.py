"""The one writer of a run folder: what is stored stays, what is missing is drawn, and a run may grow."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from canopy_stats import files
from canopy_stats.schema import Prompt, Rollout, RunConfig, UserError
from canopy_stats.store import plan, prompts
from canopy_stats.store.content import shard_content
from canopy_stats.store.identity import differences, identity_differences, surroundings, surroundings_id
from canopy_stats.store.locking import LOCK, held
from canopy_stats.store.manifest import (
    FIRST,
    MANIFEST,
    PROMPTS,
    Manifest,
    append_shard,
    new_manifest,
    now,
    read_config,
    read_manifest,
    rewrite_log,
    write_manifest,
)
from canopy_stats.store.plan import Shard, ShardPlan
from canopy_stats.store.reading import Run, as_it_lies, content_of
from canopy_stats.store.shard_files import DECLARED, content_now, shard_path
from canopy_stats.store.tables import Decode, ShardTables, parquet_bytes, shard_tables


class RunWriter:
    """The one writer of a run folder, used as a context manager: it holds the lock and keeps what is intact.

    Entering it refuses a folder that is not a run, that another process writes, or whose run has another identity, an
    edited prompt or more rollouts than asked for, and leaves ``missing``: the shards still to be drawn. With
    ``strict`` it also refuses a run that was drawn elsewhere (hardware, threads, versions, batch size, code).

    ``whole`` says that a batch decides how terms are rounded: a block of which a part is stored is then drawn again as
    a whole, so that a run that grew has the bits of a run drawn at once. ``versions`` and ``origin`` (where the model
    was found) are noted in the manifest and decide nothing.
    """

    def __init__(self, path: str | Path, config: RunConfig, asked: Sequence[Prompt], *,
                 versions: Mapping[str, Any] | None = None, origin: Mapping[str, Any] | None = None,
                 strict: bool = False, whole: bool = False) -> None:
        self.path = files.place(path)
        self.config = json.loads(files.canonical_json(config.to_dict()))
        self.prompts = list(asked)
        prompts.refuse_twins(self.prompts)
        self.strict, self.whole = strict, whole
        self._counts = config.rollouts_of(len(self.prompts))
        self._manifest = new_manifest(self.config, len(self.prompts), versions or {}, origin or {})
        self._shards: dict[int, Shard] = {}
        self._next, self._task = 0, config.task
        self._here = surroundings_id(surroundings(self.config))

    def __enter__(self) -> Self:
        _refuse_foreign(self.path)
        files.make_folder(self.path)
        self._held = held(self.path, wait=0)
        self._held.__enter__()
        try:
            self._prepare()
        except BaseException:
            self._held.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._held.__exit__(None, None, None)

    # --- going on with what is there ----------------------------------------------------------------------------

    def _prepare(self) -> None:
        stored = read_manifest(self.path) if (self.path / MANIFEST).exists() else None
        unchanged = stored is not None and self._adopt(stored)
        files.remove_temporaries(self.path)
        if unchanged:
            return self._restore_prompts()
        self._manifest["surroundings"][self._here] = surroundings(self.config)
        if stored is None:
            # The manifest comes first: any later file then lies in a folder that is known to be a run.
            write_manifest(self.path, self._manifest)
        for kind in DECLARED:
            files.make_folder(self.path / kind)
        self._restore_prompts()
        if stored is not None:
            rewrite_log(self.path, self._shards.values())
            write_manifest(self.path, self._manifest)
            for name in self._orphans:
                (self.path / name).unlink(missing_ok=True)

    def _restore_prompts(self) -> None:
        if files.file_sha256(self.path / PROMPTS) != self.config["prompts_hash"]:
            files.write_atomic(self.path / PROMPTS, prompts.prompt_lines(self.prompts))

    def _adopt(self, stored: Manifest) -> bool:
        """Take over a stored run; True where it is finished and all that is asked for, so that nothing changes."""
        self._refuse_another(stored)
        run = as_it_lies(self.path, {**stored, "n_prompts": len(self._there)}, self._there)
        said = stored["content_hash"]
        if run.complete and said is not None and said != run.content_hash:
            raise UserError(f"{self.path} does not hold the content that it was finished with: its files and their "
                            "hashes were edited together. Restore it, or generate into another folder.")
        self._shards = {s["number"]: s for s in run.shards}
        lost = (s for s in run.manifest["shards"] if s["number"] in run.damaged)
        self._orphans = _files_of(lost) - _files_of(run.shards)
        self._next = max((s["number"] + 1 for s in run.manifest["shards"]), default=0)
        same = (stored["config"]["n_rollouts"], stored["config"]["prompts_hash"]) == (
            self.config["n_rollouts"], self.config["prompts_hash"])
        origin = self._manifest["origin"]
        if same and not run.damaged and not self.missing and stored["finished"] is not None:
            self._manifest = {**stored, "origin": origin}
            if origin != stored["origin"]:
                write_manifest(self.path, self._manifest)
            return True
        if stored["schema_version"] == FIRST:
            self._renew_first(stored)
        self._manifest = {**self._manifest, "created": stored["created"],
                          "surroundings": dict(stored.get("surroundings") or self._manifest["surroundings"])}
        return False

    def _refuse_another(self, stored: Manifest) -> None:
        """UserError unless what is stored is part of what is asked for."""
        if differing := identity_differences(stored["config"], self.config):
            self._refuse("another configuration", differing, "Ask for the stored values, or choose another folder.")
        self._there = self._prompts_there(stored)
        if changed := prompts.changes(self._there, self.prompts):
            self._refuse("other prompts", [f"prompt {c}" for c in changed], "Prompts may be added and not changed: ask "
                         "for the stored ones too, or choose another folder.")
        stored_n, asked_n = stored["config"]["n_rollouts"], self.config["n_rollouts"]
        if asked_n < stored_n:
            self._refuse("another configuration", [f"n_rollouts: stored {stored_n}, asked {asked_n}"],
                         "Ask for at least as many rollouts as are stored, or choose another folder.")
        elsewhere = differences(surroundings(stored["config"]), surroundings(self.config))
        if self.strict and elsewhere:
            self._refuse("rollouts that were drawn elsewhere (strict)", elsewhere, "Draw it as it was begun, allow the "
                         "change by leaving strict out, or choose another folder.")

    def _refuse(self, what: str, differing: Sequence[str], advice: str) -> None:
        shown = "; ".join(differing[:12]) + ("; ..." if len(differing) > 12 else "")
        raise UserError(f"{self.path} holds a run with {what}; nothing was changed. Differing: {shown}. {advice}")

    def _prompts_there(self, stored: Manifest) -> list[Prompt]:
        """The stored prompts. Where their file is lost or was changed by hand, the asked ones if they are the same."""
        data = files.read_if_there(self.path / PROMPTS, "prompts of the run", 1 << 36) or b""
        # A writer killed while a run grew may have left the new prompts beside the old manifest.
        if files.sha256(data) in (stored["config"]["prompts_hash"], self.config["prompts_hash"]):
            return prompts.read_prompt_lines(data)
        if stored["config"]["prompts_hash"] == self.config["prompts_hash"]:
            return self.prompts
        raise UserError(f"{self.path / PROMPTS} is missing or was altered, and other prompts are asked for. Ask for "
                        "the prompts that the run was drawn with: that restores it.")

    def _renew_first(self, stored: Manifest) -> None:
        """Give the shards of the first format the content that this format compares; their files stay."""
        by_hash = {p.prompt_hash: p for p in self._there}
        self._shards = {n: {**s, "content": content_now(self.path, s, by_hash)} for n, s in self._shards.items()}
        where = surroundings(stored["config"])
        self._manifest["surroundings"] = {surroundings_id(where): where}

    # --- what is missing, and writing it ------------------------------------------------------------------------

    @property
    def missing(self) -> list[ShardPlan]:
        """The shards that are still to be drawn."""
        return plan.missing([p.prompt_hash for p in self.prompts], self._counts, self._shards.values(),
                            whole=self.whole)

    @property
    def here(self) -> str:
        """The name of the surroundings in which shards are drawn now."""
        return self._here

    @property
    def finished(self) -> bool:
        return self._manifest["finished"] is not None and not self.missing

    def shard_prompts(self, shard: ShardPlan) -> list[Prompt]:
        """The prompts of one shard."""
        return [self.prompts[i] for i in shard.prompts]

    def write_shard(self, shard: ShardPlan, drawn: Iterable[Rollout], decode: Decode, *, batch_size: int) -> None:
        """Store the rollouts of one shard durably, then vouch for them. ``batch_size`` is the one really used."""
        self.write_tables(shard, shard_tables(self.shard_prompts(shard), drawn, self._task, decode),
                          batch_size=batch_size)

    def write_tables(self, shard: ShardPlan, tables: ShardTables, *, batch_size: int,
                     drawn_by: RunConfig | None = None) -> None:
        """The same for a shard's tables, which may have been made by another process: ``drawn_by`` is the run's
        configuration there, whose surroundings may be others than those here.

        Raises WrongRows where they do not hold exactly the rollouts of the shard. The cost does not depend on how
        many shards there are.
        """
        listed, number = self.shard_prompts(shard), self._next
        content, where = shard_content(tables, listed, shard.rollouts), self._surroundings(drawn_by)
        per_prompt = tables.rollouts["length"].to_numpy().reshape(len(listed), -1).sum(axis=1)
        # Of rollouts some columns are read whole, of steps a few rollouts; each group of rows lengthens the footer.
        rows = {"rollouts": [], "steps": per_prompt.tolist()}
        vouched = {kind: self._write_file(kind, number, getattr(tables, kind), rows[kind]) for kind in DECLARED}
        entry: Shard = {
            "number": number, "prompts": [p.prompt_hash for p in listed],
            "span": [shard.rollouts.start, shard.rollouts.stop], "n_rollouts": tables.rollouts.num_rows,
            "n_tokens": tables.steps.num_rows, "batch_size": batch_size, "content": content,
            "rollouts": vouched["rollouts"], "steps": vouched["steps"], "surroundings": where,
            "replaces": list(shard.replaces)}
        append_shard(self.path, entry)
        self._next = number + 1
        self._shards[number] = entry
        self._drop(shard.replaces)

    def _surroundings(self, drawn_by: RunConfig | None) -> str:
        """The name of the surroundings of a shard; new ones enter the manifest before the first shard from there."""
        if drawn_by is None:
            return self._here
        config = json.loads(files.canonical_json(drawn_by.to_dict()))
        if other := identity_differences(self.config, config):
            raise UserError(f"A part of {self.path} was drawn by another model than the rest: {'; '.join(other)}. Give "
                            "every machine the same weights and settings.")
        found = surroundings(config)
        name = surroundings_id(found)
        if name not in self._manifest["surroundings"]:
            self._manifest["surroundings"][name] = found
            write_manifest(self.path, self._manifest)
        return name

    def _write_file(self, kind: str, number: int, table: Any, rows: Sequence[int]) -> plan.Vouched:
        name, data = shard_path(kind, number), parquet_bytes(table, rows)
        files.write_atomic(self.path / name, data)
        return {"path": name, "sha256": files.sha256(data)}

    def _drop(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            gone = self._shards.pop(number)
            for kind in DECLARED:
                (self.path / plan.vouched(gone, kind)["path"]).unlink(missing_ok=True)

    def finish(self, drift: Mapping[str, Any] | None, engine: Mapping[str, Any] | None = None) -> None:
        """Close a run whose shards are all there, with its measured drift, where it was drawn, and what the engine
        that drew the last of it has counted."""
        if lacking := len(self.missing):
            raise ValueError(f"{lacking} shards are missing")
        shards = list(self._shards.values())
        self._manifest = {**self._manifest, "finished": now(), "drift": dict(drift) if drift is not None else None,
                          "content_hash": content_of(self._manifest, shards), "drawn": drawn_where(shards)}
        if engine:
            self._manifest["engine"] = dict(engine)
        write_manifest(self.path, self._manifest)

    def run(self) -> Run:
        """What is stored so far, for reading."""
        shards = tuple(sorted(self._shards.values(), key=lambda s: s["number"]))
        told = json.loads(json.dumps({**self._manifest, "shards": shards}))
        return Run(self.path, read_config(self._manifest), told, shards)


def _files_of(shards: Iterable[Shard]) -> set[str]:
    return {plan.vouched(s, kind)["path"] for s in shards for kind in DECLARED}


def drawn_where(shards: Iterable[Shard]) -> list[dict[str, Any]]:
    """For each of the surroundings in which shards were drawn: how many shards, rollouts and tokens."""
    found: dict[str, dict[str, Any]] = {}
    for shard in shards:
        name = shard.get("surroundings", "")
        one = found.setdefault(name, {"surroundings": name, "shards": 0, "rollouts": 0, "tokens": 0})
        one["shards"] += 1
        one["rollouts"] += shard["n_rollouts"]
        one["tokens"] += shard["n_tokens"]
    return list(found.values())


def _refuse_foreign(path: Path) -> None:
    """A folder with other people's files is not written to."""
    if path.exists() and not path.is_dir():
        raise UserError(f"{path} is a file; a run needs a folder. Choose another place.")
    if not path.is_dir() or (path / MANIFEST).exists():
        return
    # A writer killed before its first manifest leaves no more than its lock and a temporary file.
    foreign = [p.name for p in path.iterdir() if p.name != LOCK and not files.is_temporary(p)]
    if foreign:
        raise UserError(f"{path} is not empty and is not a run ({', '.join(sorted(foreign)[:3])}). Choose another "
                        "folder, or empty this one.")

