"""What a run holds in a few numbers, without opening its files again while they are what they were.

What was found is kept in RUN/.glance.json with the size, times and inode of every file that opening the run reads: the
manifest, the prompts, the log, and the files of the shards. It is believed only while all of these are still the same,
and never kept of files that changed in the moment of looking.
"""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from canopy_stats import files
from canopy_stats.schema import UserError
from canopy_stats.store.manifest import LOG, MANIFEST, PROMPTS
from canopy_stats.store.reading import open_run
from canopy_stats.store.shard_files import DECLARED
from canopy_stats.store.verify import TOO_FRESH

KEPT = ".glance.json"
_FORMAT = 1

Marks = list[tuple[str, int, int, int, int]]


@dataclass(frozen=True, slots=True)
class Glance:
    """What ``open_run(path, allow_partial=True)`` finds: rollouts and tokens stored, damaged shards, whether the run is
    complete and was finished, and its content hash."""

    rollouts: int
    tokens: int
    damaged: int
    complete: bool
    finished: bool
    content_hash: str


@dataclass(frozen=True, slots=True)
class _KeptGlance:
    """What was found, for files that looked so."""

    format: int
    looks: str
    found: Glance


_NOTE = TypeAdapter(_KeptGlance)


def glance(path: Path) -> Glance:
    """Look at a run; UserError where it cannot be opened. Files are read where one has changed since the last look."""
    began, marks = time.time_ns(), _marks(path)
    looks = files.sha256(json.dumps(marks).encode())
    kept = _kept(path)
    if kept is not None and (kept.format, kept.looks) == (_FORMAT, looks):
        return kept.found
    run = open_run(path, allow_partial=True)
    found = Glance(run.n_stored, run.n_tokens, len(run.damaged), run.complete, run.manifest["finished"] is not None,
                   run.content_hash)
    if max((max(changed, renamed) for _, _, changed, renamed, _ in marks), default=began) < began - TOO_FRESH:
        # A folder that cannot be written is opened every time.
        with suppress(UserError, OSError):
            files.write_atomic(path / KEPT, json.dumps(asdict(_KeptGlance(_FORMAT, looks, found))).encode())
    return found


def _marks(path: Path) -> Marks:
    """Name, size, time of change, time of the entry's change, and inode of every file that opening reads."""
    marks: Marks = []
    for name in (MANIFEST, PROMPTS, LOG):
        with suppress(OSError):
            marks.append(_mark(name, os.stat(f"{path}/{name}")))
    for kind in DECLARED:
        with suppress(OSError), os.scandir(f"{path}/{kind}") as entries:
            marks += sorted(_mark(f"{kind}/{entry.name}", entry.stat()) for entry in entries)
    return marks


def _mark(name: str, about: os.stat_result) -> tuple[str, int, int, int, int]:
    return name, about.st_size, about.st_mtime_ns, about.st_ctime_ns, about.st_ino


def _kept(path: Path) -> _KeptGlance | None:
    try:
        return _NOTE.validate_json(Path(path / KEPT).read_bytes())
    except (OSError, ValidationError):
        return None
