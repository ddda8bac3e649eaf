"""Results that are kept while what they were made from is unchanged, and are made anew otherwise."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from canopy_stats import files
from canopy_stats.schema import UserError

Say = Callable[[str], None]
State = Literal["done", "stale", "missing"]
Key = Mapping[str, Any]

LOCK = ".lock"


@dataclass(frozen=True)
class Stage:
    """One step of the chain: its ``kind`` (such as panel), the name of its stamp, what it is made from, and how.

    ``key`` gives None as long as something that it is made from is missing; ``needs`` says in words what that is.
    """

    kind: str
    name: str
    key: Callable[[], Key | None]
    make: Callable[[], Sequence[Path]]
    needs: str

    def run(self, out: Path) -> list[Path]:
        """The stage's files, made now if they are not there or stale."""
        key = self.key()
        if key is None:
            raise UserError(f"The stage {self.kind} needs {self.needs}: not there yet, or no longer of this study. Run "
                            "the study without --only, or the stages before this one first.")
        return staged(out, self.name, key, self.make)

    def state(self, out: Path) -> tuple[State, str]:
        """Whether the stage is done, and if not, why."""
        key = self.key()
        if key is None:
            there = stamped(out, self.name) is not None
            return ("stale" if there else "missing"), f"waits for {self.needs}"
        return state(out, self.name, key)


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
    for path in (before or {"files": {}})["files"].keys() - note["files"].keys():
        (out / path).unlink(missing_ok=True)
    write_stamp(out, name, note)
    return made


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
    old, new = _flat(before), _flat(json.loads(files.canonical_json(dict(now))))
    return [name for name in sorted(old.keys() | new.keys()) if old.get(name) != new.get(name)]


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    if not isinstance(value, Mapping) or not value:
        return {name: value}
    return {k: v for key, part in value.items() for k, v in _flat(part, f"{name}.{key}" if name else str(key)).items()}


def stamped(out: Path, name: str) -> dict[str, Any] | None:
    """A stage's stamp; None where there is none or it is not readable."""
    try:
        note = json.loads((out / "stages" / f"{name}.json").read_bytes())
        return note if {"key", "made_from", "files"} <= note.keys() else None
    except (FileNotFoundError, ValueError, AttributeError):
        return None


def write_stamp(out: Path, name: str, note: Mapping[str, Any]) -> None:
    """Keep a stage's stamp, which replaces an earlier one."""
    files.make_folder(out / "stages")
    files.write_atomic(out / "stages" / f"{name}.json", json.dumps(note, indent=1, ensure_ascii=False).encode())


def _altered(out: Path, stamp: Mapping[str, Any]) -> list[str]:
    return [path for path, stored in stamp["files"].items() if files.file_sha256(out / path) != stored]


# --- what results are made from ---------------------------------------------------------------------------------


def code_hash(*parts: str) -> str:
    """SHA-256 of the package's sources under the named modules or folders: changed code makes its results stale."""
    return files.sha256(*(path.read_bytes() for path in sources(*parts)))


def sources(*parts: str) -> list[Path]:
    """The package's code under the named modules or folders, the page's template, style and script included."""
    root = Path(__file__).parents[1]
    found = {path for part in parts for path in [*root.glob(f"{part}.py"), *root.glob(f"{part}/**/*")]}
    return sorted(path for path in found if path.suffix in (".py", ".html", ".css", ".js"))


def versions_of(*packages: str) -> dict[str, str]:
    """The installed versions of packages that decide a result."""
    return {name: metadata.version(name) for name in packages}


_CONTENT = (".safetensors", ".bin", ".gguf", ".json", ".jinja", ".model", ".txt")


def model_identity(model: str | Path) -> str:
    """A name for a model by its content: the hash of the weights, settings and templates of a path, else the name."""
    path = Path(model).expanduser()
    if not path.exists():
        return str(model)
    found = [path] if path.is_file() else sorted(p for p in path.iterdir() if p.suffix in _CONTENT)
    return files.sha256(*(f"{p.name}:{_file_hash(p, p.stat().st_mtime_ns, p.stat().st_size)}\n".encode()
                          for p in found))


@lru_cache(maxsize=1024)
def _file_hash(path: Path, modified: int, size: int) -> str:
    return str(files.file_sha256(path))


# --- one call at a time, and what it says -----------------------------------------------------------------------


@contextmanager
def held(out: Path) -> Iterator[None]:
    """Hold the study's folder: two calls would make the same stages. The system frees it when its holder dies."""
    import filelock

    try:
        lock = filelock.FileLock(out / LOCK).acquire(timeout=0)
    except filelock.Timeout:
        raise UserError(f"Another process is at work in {out}. Wait for it or stop it, then run this again.") from None
    except OSError as error:
        raise UserError(f"Cannot write in {out}: {error.strerror}. Choose another folder.") from error
    with lock:
        yield


@contextmanager
def explained(kind: str) -> Iterator[None]:
    """Failures to read or write in a stage, as to a colleague."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        where = f" {error.filename}" if error.filename else ""
        raise UserError(f"{kind} could not go on: {error.strerror or error}{where}. Mend that (free some space on a "
                        "full disk) and run the same command again: it resumes.") from error


@contextmanager
def timed(stage: str, seconds: dict[str, float], say: Say) -> Iterator[None]:
    """Say when a stage begins and how long it took."""
    say(f"{stage} ...")
    began = time.monotonic()
    with explained(stage):
        yield
    seconds[stage] = round(time.monotonic() - began, 1)
    say(f"{stage}: {seconds[stage]:.1f} s")
