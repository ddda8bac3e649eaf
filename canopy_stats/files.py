"""Files that are whole or absent: durable atomic writes, and the hashes that prove what a file holds."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from canopy_stats.schema import UserError

TEMPORARY_SUFFIX = ".tmp"

_DISK_FULL = {errno.ENOSPC, errno.EDQUOT}
_FILE_TOO_LARGE = {errno.EFBIG}


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
    """SHA-256 of a file, or None where there is none."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return None


def table_hash(table: pa.Table) -> str:
    """SHA-256 of a table's values: independent of compression, chunks, row groups and metadata."""
    digest = hashlib.sha256()
    for field in table.schema:
        digest.update(f"{field.name}:{field.type}:{table.num_rows};".encode())
        for chunk in _column_parts(table[field.name].combine_chunks()):
            digest.update(chunk)
    return digest.hexdigest()


def _column_parts(column: pa.Array | pa.ChunkedArray) -> list[bytes]:
    """The bytes that carry a column without nulls: values, and lengths where they vary from row to row."""
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    return [part for chunk in chunks for part in _array_parts(chunk)]


def _array_parts(array: pa.Array) -> list[bytes]:
    if array.null_count:
        raise ValueError("a stored column must not hold nulls")
    if pa.types.is_string(array.type):
        offsets = np.frombuffer(array.buffers()[1] or b"\0\0\0\0", dtype=np.int32)
        offsets = offsets[array.offset:array.offset + len(array) + 1]
        text = array.buffers()[2]
        body = bytes(memoryview(text)[offsets[0]:offsets[-1]]) if text is not None and len(offsets) else b""
        return [np.diff(offsets).tobytes(), body]
    if pa.types.is_list(array.type):
        return [np.diff(array.offsets.to_numpy()).tobytes(), *_array_parts(array.flatten())]
    return [array.to_numpy(zero_copy_only=False).tobytes()]


def write_atomic(path: Path, data: bytes) -> None:
    """Write ``data`` under ``path`` so that a reader sees the old file or the whole new one, whatever happens.

    The bytes go to a temporary name in the same folder, are flushed to the disk, and take their name by a rename
    that is itself flushed. A failure removes the temporary file and raises UserError.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY_SUFFIX}")
    try:
        _write_through(temporary, data)
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise _explained(error, path, len(data)) from error
    finally:
        temporary.unlink(missing_ok=True)


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


def make_folder(path: Path) -> None:
    """Create a folder and its parents; UserError where that is impossible."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"Cannot create the folder {path}: {error.strerror}. Choose another place.") from error


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
