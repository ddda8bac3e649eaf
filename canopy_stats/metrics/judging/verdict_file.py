"""Verdicts that were paid for, kept in a file that only grows."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Self

from canopy_stats.files import make_folder
from canopy_stats.schema import UserError


class VerdictFile:
    """Verdicts by key, one JSON line each, used as a context manager.

    A line is written by a single append as soon as its verdict is there, so a process killed at any moment loses at
    most the verdicts that had not come back. A last line that a crash cut short is skipped and closed off. Threads may
    share an object, and processes on one machine a file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.known, torn = _read(path)
        self.torn = torn
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        make_folder(self.path.parent)
        try:
            self._file = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
        except OSError as error:
            raise UserError(f"Cannot keep verdicts in {self.path}: {error.strerror}. Choose another cache file.") \
                from error
        if _ends_open(self._file):
            os.write(self._file, b"\n")
        return self

    def __exit__(self, *error: object) -> None:
        os.fsync(self._file)
        os.close(self._file)

    def put(self, key: str, same: bool) -> None:
        """Keep one verdict, in memory and in the file."""
        line = json.dumps({"key": key, "same": same}, separators=(",", ":")).encode() + b"\n"
        with self._lock:
            try:
                whole = os.write(self._file, line) == len(line)
            except OSError as error:
                whole, reason = False, error.strerror
            else:
                reason = "the disk is full"
            if not whole:
                raise UserError(f"Cannot keep a verdict in {self.path}: {reason}. Free some space and run the same "
                                "again; what is there stays.")
            self.known[key] = same


def _read(path: Path) -> tuple[dict[str, bool], int]:
    """The verdicts in a file, and the number of lines that hold none."""
    known: dict[str, bool] = {}
    torn = 0
    if path.is_file():
        try:
            lines = path.read_bytes().splitlines()
        except OSError as error:
            raise UserError(f"Cannot read the verdicts in {path}: {error.strerror}. Choose another cache file.") \
                from error
        for line in lines:
            try:
                entry = json.loads(line)
                key, same = entry["key"], entry["same"]
                if not (isinstance(key, str) and isinstance(same, bool)):
                    raise TypeError
                known[key] = same
            except (ValueError, KeyError, TypeError, RecursionError):
                torn += bool(line.strip())
    return known, torn


def _ends_open(file: int) -> bool:
    """Whether the file's last line lacks its end."""
    size = os.fstat(file).st_size
    return size > 0 and os.pread(file, 1, size - 1) != b"\n"
