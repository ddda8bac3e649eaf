"""Whether the files of a run still hold what was stored, read through once for each change of a file.

What was found is kept in RUN/.verified.json for each file by its size, times, inode and hash. An entry is believed
only for a file of which all of these are still the same, and never for one that changed in the moment of looking.
"""

from __future__ import annotations

import json
import os
import stat
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from canopy_stats import files
from canopy_stats.schema import Prompt, UserError
from canopy_stats.store.plan import Shard, vouched
from canopy_stats.store.shard_files import DECLARED, fresh_content

KEPT = ".verified.json"
TOO_FRESH = 100_000_000
"""Nanoseconds within which a second change of a file could leave its times as they are."""

Seen = dict[str, list[Any]]


def damaged_shards(path: Path, shards: Iterable[Shard], prompts: Mapping[str, Prompt], *, first: bool) -> list[int]:
    """Numbers of the shards whose files are missing or hold other bytes or other content than the log says.

    ``prompts`` are the run's by their hash; ``first`` means the first format.
    """
    kept = _read(path)
    now: Seen = {}
    found = [s["number"] for s in shards if not _intact(path, s, prompts, first, kept, now)]
    if now != kept:
        # A folder that cannot be written is read through every time.
        with suppress(UserError, OSError):
            files.write_atomic(path / KEPT, json.dumps({"files": now}).encode())
    return found


def _intact(path: Path, shard: Shard, prompts: Mapping[str, Prompt], first: bool, kept: Seen, now: Seen) -> bool:
    began = time.time_ns()
    marks = {kind: _mark(path, shard, kind) for kind in DECLARED}
    if any(mark is None for mark in marks.values()):
        return False
    names = {kind: vouched(shard, kind)["path"] for kind in DECLARED}
    if not all(kept.get(names[kind]) == mark for kind, mark in marks.items()):
        same = all(files.file_sha256(path / names[kind]) == vouched(shard, kind)["sha256"] for kind in DECLARED)
        if not same or fresh_content(path, shard, prompts, first=first) != shard["content"]:
            return False
    now.update({names[k]: m for k, m in marks.items() if m is not None and max(m[1:3]) < began - TOO_FRESH})
    return True


def _mark(path: Path, shard: Shard, kind: str) -> list[Any] | None:
    """What a file looks like from outside, and what it is said to hold; None where it is no file."""
    entry = vouched(shard, kind)
    try:
        about = os.stat(f"{path}/{entry['path']}")  # a Path would take longer to make than to look at
    except OSError:
        return None
    if not stat.S_ISREG(about.st_mode):
        return None
    return [about.st_size, about.st_mtime_ns, about.st_ctime_ns, about.st_ino, entry["sha256"], shard["content"]]


def _read(path: Path) -> Seen:
    try:
        kept = json.loads(files.read_bytes(path / KEPT, "record of what was verified"))["files"]
        return kept if isinstance(kept, dict) else {}
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}
