"""Files that are whole or absent: durable atomic writes, and the hashes that prove what a file holds."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from canopy_stats.schema import UserError, printable

TEMPORARY_SUFFIX = ".tmp"

_DISK_FULL = {errno.ENOSPC, errno.EDQUOT}
_FILE_TOO_LARGE = {errno.EFBIG}
_LONGEST = 255
"""Bytes of a file's name."""


def canonical_json(value: Any) -> bytes:
    """JSON with sorted keys and no spare white space: equal values give equal bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def sha256(*parts: bytes | memoryview) -> str:
    """SHA-256 of the parts in order, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def file_sha256(path: Path) -> str | None:
    """SHA-256 of a file, or None where there is none; UserError where something else lies there."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}.") from error


MODEL_FILES = (".safetensors", ".bin", ".gguf", ".json", ".jinja", ".model", ".txt")
"""Suffixes of the files of a model's folder that decide what it does: weights, settings, templates, vocabulary."""


def model_sha256(path: Path, which: Collection[str] = MODEL_FILES, *, deep: bool = False, mark: str = ":") -> str:
    """SHA-256 of a model's content: of a folder's files of these suffixes or names by name and content, or of the one
    file.

    The same model has the same hash wherever it lies. ``deep`` looks into folders below; ``mark`` stands between a
    name and its hash, and is part of what stored hashes were made of.
    """
    found = [path] if path.is_file() else sorted(
        p for p in (path.rglob("*") if deep else path.iterdir()) if {p.suffix, p.name} & set(which) and p.is_file())
    root = path.parent if path.is_file() else path
    return sha256(*(f"{p.relative_to(root).as_posix()}{mark}{_known_sha256(p)}\n".encode() for p in found))


def _known_sha256(path: Path) -> str:
    """A file's hash, taken once as long as the file does not change."""
    known = path.stat()
    return _remembered_sha256(path, known.st_mtime_ns, known.st_size, known.st_ino)


@lru_cache(maxsize=4096)
def _remembered_sha256(path: Path, modified: int, size: int, inode: int) -> str:
    return str(file_sha256(path))


def write_atomic(path: Path, data: bytes) -> None:
    """Write ``data`` under ``path`` so that a reader sees the old file or the whole new one, whatever happens.

    The bytes go to a temporary name in the same folder, which nobody can foresee, are flushed to the disk, and take
    their name by a rename that is itself flushed. A failure removes the temporary file and raises UserError.
    """
    _refuse_strange_place(path)
    temporary = _reserved(path, len(data))
    try:
        _write_through(temporary, data)
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise _explained(error, path, len(data)) from error
    finally:
        temporary.unlink(missing_ok=True)


def _refuse_strange_place(path: Path) -> None:
    """A link stays a link and what it points to stays as it is: whoever planted it would choose what is written. A
    device or a pipe would be replaced by a file."""
    try:
        link, folder = path.is_symlink(), not path.name or path.is_dir()
        strange = path.exists() and not folder and not path.is_file()
    except OSError as error:  # a name that is too long
        raise _explained(error, path, 0) from error
    if link:
        raise UserError(f"{path} is a link, and links are not written through: give the file that it points to, or "
                        "remove it.")
    if folder:
        raise UserError(f"{path} is a folder; give the name of a file in it.")
    if strange:
        raise UserError(f"{path} is a pipe or a device, and only files are written; give another name.")


def _reserved(path: Path, size: int) -> Path:
    """A new, empty file beside ``path``, made under a random name that did not exist, with the usual permissions."""
    try:
        handle, name = tempfile.mkstemp(TEMPORARY_SUFFIX, f".{path.name[:40]}.", path.parent)
        os.fchmod(handle, 0o666 & ~_umask())
        os.close(handle)
    except ValueError as error:
        raise UserError(f"No file can be called {str(path)!r} ({error}).") from None
    except OSError as error:
        raise _explained(error, path, size) from error
    return Path(name)


@cache
def _umask() -> int:
    """The process's mask of permissions, which can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _write_through(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    # Without this a power cut may forget the rename although the file's bytes are on the disk.
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _explained(error: OSError, path: Path, size: int) -> UserError:
    if error.errno in _DISK_FULL:
        why, what = "the disk or quota is full", "Free some space and run the same command again: it resumes."
    elif error.errno in _FILE_TOO_LARGE:
        why, what = "files of this size are not allowed here", "Raise the limit (ulimit -f) and run the command again."
    else:
        why, what = error.strerror or str(error), "Check the folder and its permissions, then run the command again."
    return UserError(f"Could not write {path} ({readable_size(size)}): {why}; nothing half-written is kept. {what}")


def append_durably(path: Path, data: bytes) -> None:
    """Add ``data`` to the end of a file, flushed to the disk; UserError where that is impossible."""
    try:
        with path.open("ab") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise _explained(error, path, len(data)) from error


def place(name: str | Path) -> Path:
    """What a user named, ``~`` expanded, whether or not something lies there; UserError for what no file can be called
    and where nobody may look."""
    try:
        path = Path(name).expanduser()
        if max(len(os.fsencode(part)) for part in (*path.parts, "")) > _LONGEST:  # below what is not there, too
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, ValueError, RuntimeError) as error:
        why = getattr(error, "strerror", None) or str(error).rstrip(".")
        raise UserError(f"{printable(str(name)[:80])!r} cannot be looked up ({printable(why)}). Give the path of a "
                        "file or folder that can be read.") from None
    return path


def inside(root: Path, name: str) -> Path:
    """The place ``name`` in the folder ``root``; UserError for one outside of it, by links too."""
    try:
        path = root / name
        if path.resolve().is_relative_to(root.resolve()) and not Path(name).is_absolute():
            return path
    except (OSError, ValueError, RuntimeError):
        pass
    raise UserError(f"A file in {root} names {name!r}, which lies outside of that folder: it was not made here. "
                    "Nothing there was touched; take the files of someone else out of the folder.")


def differences(before: Any, now: Any) -> list[str]:
    """The entries in which two values of JSON differ, such as ``law.top_k``, in order."""
    if before == now:
        return []
    old, new = flat(before), flat(now)
    return [entry for entry in sorted(old.keys() | new.keys()) if old.get(entry) != new.get(entry)]


def flat(value: Any, name: str = "") -> dict[str, Any]:
    """Nested mappings as one, their keys joined by points."""
    if not isinstance(value, Mapping) or not value:
        return {name: value}
    return {k: v for key, part in value.items() for k, v in flat(part, f"{name}.{key}" if name else str(key)).items()}


def read_bytes(path: Path, what: str, limit: int = 1 << 30) -> bytes:
    """A regular file's bytes; UserError for what is missing, no file (a folder, a pipe, a device) or over ``limit``.

    ``what`` names it in the message, such as "study file".
    """
    try:
        if not path.is_file():
            there = path.exists()
            raise UserError(f"The {what} {path} cannot be read: it is a folder, a pipe or a device." if there
                            else f"There is no {what} {path}.")
        if path.stat().st_size > limit:
            raise UserError(f"The {what} {path} has more than {readable_size(limit)}: that is no {what}.")
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"The {what} {path} cannot be read ({error.strerror}).") from None
    except ValueError as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"The {what} cannot have the name {str(path)!r} ({error}).") from None


def read_if_there(path: Path, what: str, limit: int = 1 << 30) -> bytes | None:
    """The same, and None for what is missing."""
    try:
        there = path.exists()
    except (OSError, ValueError):
        there = True
    return read_bytes(path, what, limit) if there else None


def read_text(path: Path, what: str, limit: int = 1 << 30) -> str:
    """A UTF-8 text file as :func:`read_bytes` reads it."""
    try:
        return read_bytes(path, what, limit).decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"The {what} {path} cannot be read ({error}); give a UTF-8 text file.") from None


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON that people can read, whole or not at all."""
    write_atomic(path, json.dumps(value, indent=1, ensure_ascii=False).encode())


def make_folder(path: Path) -> None:
    """Create a folder and its parents; UserError where that is impossible."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise UserError(f"Cannot create the folder {printable(str(path))}: {why}. Choose another place.") from error


@contextmanager
def held(folder: Path, name: str, busy: str, wait: float = 0) -> Iterator[None]:
    """Hold a folder's lock file ``name``; UserError ``busy`` if another has it. The system frees it when its holder
    dies."""
    import filelock

    try:
        lock = filelock.FileLock(folder / name).acquire(timeout=wait)
    except filelock.Timeout:
        raise UserError(busy) from None
    except OSError as error:
        raise UserError(f"Cannot write in {folder}: {error.strerror}. Choose another folder.") from error
    with lock:
        yield


def is_temporary(path: Path) -> bool:
    """Whether the name is one that :func:`write_atomic` writes under before the rename."""
    return path.name.startswith(".") and path.name.endswith(TEMPORARY_SUFFIX)


def remove_temporaries(folder: Path) -> None:
    """Remove what a killed writer left behind. Only the folder's one writer may call this."""
    for path in folder.rglob("*"):
        if is_temporary(path):
            path.unlink(missing_ok=True)


def readable_size(size: float) -> str:
    """A number of bytes for people: ``1.5 MB``."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    raise AssertionError("unreachable")
