"""Results that are kept while what they were made from is unchanged, and are made anew otherwise.

A stamp, ``stages/NAME.json`` in the study's folder, says what a result was made from and names its files with their
hashes. Only files that a stamp of ours names are ever deleted, and only inside the folder.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from canopy_stats import files
from canopy_stats.schema import UserError

State = Literal["done", "stale", "missing"]
Key = Mapping[str, Any]
"""What a result is made from, in plain values."""

FOLDER = "stages"


def staged(out: Path, name: str, key: Key, make: Callable[[], Sequence[Path]]) -> list[Path]:
    """The files of a stage: those on the disk if made from the same ``key`` and intact, else what ``make`` writes.

    The stamp, written last, holds the key's hash and that of every file. Files that an earlier stamp names and that
    are no longer made are removed.
    """
    before = stamped(out, name)
    if before is not None and before["key"] == digest(key) and not _altered(out, before):
        return [out / path for path in before["files"]]
    made = list(make())
    note: dict[str, Any] = {
        "key": digest(key), "made_from": dict(key),
        "files": {path.relative_to(out).as_posix(): files.file_sha256(path) for path in made}}
    remove(out, (before or {"files": {}})["files"].keys() - note["files"].keys())
    write_stamp(out, name, note)
    return made


def forget(out: Path, name: str) -> None:
    """Remove a stamp alone."""
    _path(out, name).unlink(missing_ok=True)


def discard(out: Path, name: str) -> None:
    """Remove a result that is no longer wanted: the files that its stamp names, then the stamp."""
    stamp = stamped(out, name)
    if stamp is not None:
        remove(out, stamp["files"])
        forget(out, name)


def remove(out: Path, names: Any) -> None:
    """Delete files that a stamp names; what is no file, or not inside the folder, stays."""
    for name in names:
        path = files.inside(out, name)
        if path.is_file() and not path.is_symlink():
            path.unlink(missing_ok=True)


def state(out: Path, name: str, key: Key) -> tuple[State, str]:
    """Whether a stage's files are those that ``key`` makes, and in words what differs."""
    stamp = stamped(out, name)
    if stamp is None:
        return "missing", ""
    if stamp["key"] != digest(key):
        return "stale", f"changed: {', '.join(differing(stamp['made_from'], key))}"
    altered = _altered(out, stamp)
    return ("stale", f"altered or missing: {', '.join(altered[:3])}") if altered else ("done", "")


def digest(key: Key) -> str:
    """The hash of what a result is made from."""
    return files.sha256(files.canonical_json(dict(key)))


def differing(before: Key, now: Key) -> list[str]:
    """The entries in which two keys differ, such as ``law.top_k``."""
    return files.differences(before, json.loads(files.canonical_json(dict(now))))


def stamped(out: Path, name: str) -> dict[str, Any] | None:
    """A stage's stamp; None where there is none or it is not readable."""
    try:
        note = json.loads(_path(out, name).read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return note if _is_stamp(note) else None


def _is_stamp(note: Any) -> bool:
    """Whether a value has the form of a stamp."""
    if not isinstance(note, dict) or not {"key", "made_from", "files"} <= note.keys():
        return False
    return isinstance(note["made_from"], dict) and isinstance(note["files"], dict)


def write_stamp(out: Path, name: str, note: Mapping[str, Any]) -> None:
    """Keep a stage's stamp, which replaces an earlier one."""
    files.make_folder(out / FOLDER)
    files.write_json(_path(out, name), dict(note))


def names(out: Path) -> list[str]:
    """The stamps that are there."""
    return [path.stem for path in sorted((out / FOLDER).glob("*.json"))]


def files_of(out: Path, name: str) -> list[Path]:
    """The files that a stage left."""
    return [files.inside(out, path) for path in (stamped(out, name) or {"files": {}})["files"]]


def _path(out: Path, name: str) -> Path:
    return out / FOLDER / f"{name}.json"


def _altered(out: Path, stamp: Mapping[str, Any]) -> list[str]:
    """The stamp's files that are missing or have another content."""
    return [path for path, stored in stamp["files"].items() if _file_hash(out, path) != stored]


def _file_hash(out: Path, path: str) -> str | None:
    try:
        return files.file_sha256(files.inside(out, path))
    except (OSError, UserError):  # a folder in a file's place, or a place outside
        return None


# --- what results are made from ---------------------------------------------------------------------------------


def code_hash(*parts: str) -> str:
    """SHA-256 of the package's sources under the named modules or folders: changed code makes its results stale."""
    return files.sha256(*(path.read_bytes() for path in sources(*parts)))


def sources(*parts: str) -> list[Path]:
    """The package's code under the named modules or folders, the page's template, style and script included."""
    root = Path(__file__).parents[1]
    found = {part: [*root.glob(f"{part}.py"), *root.glob(f"{part}/**/*")] for part in parts}
    if gone := [part for part, paths in found.items() if not paths]:
        raise ValueError(f"the package has no {', '.join(gone)}: results would never become stale with it")
    every = {path for paths in found.values() for path in paths}
    return sorted(path for path in every if path.suffix in (".py", ".html", ".css", ".js"))


def versions_of(*packages: str) -> dict[str, str]:
    """The installed versions of packages that decide a result."""
    return {name: metadata.version(name) for name in packages}


def model_identity(model: str | Path) -> str:
    """A name for a model by its content: the hash of the weights, settings and templates of a path, else the name."""
    path = files.place(model)
    return files.model_sha256(path) if path.exists() else str(model)
