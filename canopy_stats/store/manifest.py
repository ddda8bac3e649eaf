"""The manifest and the shard log of a run, as they lie on the disk: read with every field checked, and written.

::

    manifest.json   what was asked, what was drawn where, and once the run is complete its content and drift
    shards.jsonl    one line a shard, appended when its files are durable; a torn last line is a shard never written

The first format kept the shards inside manifest.json; it is read, and rewritten when such a run grows.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from canopy_stats import files
from canopy_stats.schema import SCHEMA_VERSION, RunConfig, UserError
from canopy_stats.store.identity import first_run_id, run_id, surroundings, surroundings_id
from canopy_stats.store.plan import Count, Digest, Shard, Vouched

MANIFEST, LOG, PROMPTS = "manifest.json", "shards.jsonl", "prompts.jsonl"
FORMAT = "canopy_stats run"
FIRST = 1
"""The format whose manifest holds the shards."""


class Manifest(TypedDict):
    """manifest.json."""

    format: Literal["canopy_stats run"]
    schema_version: Count
    run_id: str
    config: dict[str, Any]
    n_prompts: Count
    origin: dict[str, Any]
    versions: dict[str, Any]
    created: str
    finished: str | None
    drift: dict[str, Any] | None
    content_hash: str | None
    surroundings: NotRequired[dict[str, dict[str, Any]]]
    drawn: NotRequired[list[dict[str, Any]]]
    engine: NotRequired[dict[str, Any]]
    shards: NotRequired[list[dict[str, Any]]]


class _FirstShard(TypedDict):
    """A shard's entry in the first format."""

    index: Count
    n_rollouts: Count
    n_tokens: Count
    batch_size: Count
    content: Digest
    rollouts: Vouched
    steps: Vouched


_MANIFEST, _SHARD, _FIRST_SHARDS = TypeAdapter(Manifest), TypeAdapter(Shard), TypeAdapter(list[_FirstShard])
_CONFIG = TypeAdapter(Annotated[RunConfig, Field()])


def new_manifest(config: Mapping[str, Any], n_prompts: int, versions: Mapping[str, Any],
                 origin: Mapping[str, Any]) -> Manifest:
    """The manifest of a run that begins."""
    return {"format": "canopy_stats run", "schema_version": SCHEMA_VERSION, "run_id": run_id(config),
            "config": dict(config), "n_prompts": n_prompts, "origin": dict(origin), "versions": dict(versions),
            "created": now(), "finished": None, "drift": None, "content_hash": None, "surroundings": {}, "drawn": []}


def now() -> str:
    """The time, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def readable_json(value: Any) -> bytes:
    """JSON for people: one field a line."""
    return (json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


# ------------------------------------------------------------------------------------------------------- reading


def stored_config(path: Path) -> dict[str, Any] | None:
    """The configuration of the run in a folder, whatever its state; None where there is no run yet."""
    return read_manifest(path)["config"] if (path / MANIFEST).is_file() else None


def read_manifest(path: Path) -> Manifest:
    """The manifest of a run folder; UserError where there is none, or one that is damaged, edited or newer."""
    try:
        data = files.read_if_there(path / MANIFEST, "manifest")
        if data is None:
            raise UserError(f"{path} holds no run (no {MANIFEST}). Give the folder that `generate` wrote.")
        raw = json.loads(data)
    except (ValueError, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        raise _damaged(path) from None
    if isinstance(raw, dict) and isinstance(version := raw.get("schema_version"), int) and version > SCHEMA_VERSION:
        raise UserError(f"{path} was written by a newer canopy_stats (format {version}, this one reads up to "
                        f"{SCHEMA_VERSION}). Upgrade canopy_stats.")
    return _validated(path, raw)


def _validated(path: Path, raw: Any) -> Manifest:
    try:
        manifest = _MANIFEST.validate_python(raw)
        read_config(manifest)
        name = first_run_id if manifest["schema_version"] == FIRST else run_id
        known = name(manifest["config"]) == manifest["run_id"]
    except (ValidationError, RecursionError, ValueError, TypeError, AttributeError):
        raise _damaged(path) from None
    if not known:
        raise UserError(f"The configuration in {path / MANIFEST} was edited after the run: it no longer matches its "
                        "run_id. Restore the file, or generate again into another folder.")
    return manifest


def _damaged(path: Path) -> UserError:
    return UserError(f"{path / MANIFEST} is not the manifest of a run, or is damaged. Restore it, or generate into "
                     "another folder.")


def read_config(manifest: Manifest) -> RunConfig:
    """The configuration that a manifest holds."""
    return _CONFIG.validate_python(manifest["config"])


def read_shards(path: Path, manifest: Manifest, hashes: Sequence[str]) -> list[Shard]:
    """The shards that a run's log or first manifest lists, without those that a later one replaced.

    ``hashes`` are the prompts' in their order. Lines that are no shard vouch for nothing and are left out.
    """
    if manifest["schema_version"] == FIRST:
        return _first_shards(path, manifest, hashes)
    found: dict[int, Shard] = {}
    for shard in map(_shard, _lines(path)):
        if shard is not None:
            for number in shard.get("replaces", []):
                found.pop(number, None)
            found[shard["number"]] = shard
    return list(found.values())


def _lines(path: Path) -> list[bytes]:
    return (files.read_if_there(path / LOG, "shard log", 1 << 33) or b"").split(b"\n")


def _shard(line: bytes) -> Shard | None:
    try:
        shard = _SHARD.validate_json(line)
    except ValidationError:
        return None
    start, stop = shard["span"]
    return shard if shard["n_rollouts"] == len(shard["prompts"]) * (stop - start) > 0 else None


def _first_shards(path: Path, manifest: Manifest, hashes: Sequence[str]) -> list[Shard]:
    """The shards of the first format: consecutive whole prompts, about 256 rollouts."""
    try:
        listed = _FIRST_SHARDS.validate_python(manifest.get("shards"))
    except ValidationError:
        raise _damaged(path) from None
    n = read_config(manifest).n_rollouts
    size = max(1, round(256 / n))
    where = surroundings_id(surroundings(manifest["config"]))
    return [{"number": s["index"], "prompts": list(hashes[s["index"] * size:(s["index"] + 1) * size]), "span": [0, n],
             "n_rollouts": s["n_rollouts"], "n_tokens": s["n_tokens"], "batch_size": s["batch_size"],
             "content": s["content"], "rollouts": s["rollouts"], "steps": s["steps"], "surroundings": where}
            for s in {s["index"]: s for s in listed}.values() if s["index"] * size < len(hashes)]


# ------------------------------------------------------------------------------------------------------- writing


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Replace the manifest whole."""
    files.write_atomic(path / MANIFEST, readable_json(manifest))


def append_shard(path: Path, shard: Shard) -> None:
    """Vouch for a shard whose files are durable: one line, whatever the number of shards before it."""
    files.append_durably(path / LOG, files.canonical_json(dict(shard)) + b"\n")


def rewrite_log(path: Path, shards: Iterable[Shard]) -> None:
    """A log of these shards alone: what damaged or torn lines there were is gone."""
    files.write_atomic(path / LOG, b"".join(files.canonical_json(dict(s)) + b"\n" for s in shards))
