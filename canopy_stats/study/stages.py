"""Results that are kept while what they were made from is unchanged, and are made anew otherwise."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from canopy_stats import files

Say = Callable[[str], None]


def staged(out: Path, name: str, key: Mapping[str, Any], make: Callable[[], Sequence[Path]]) -> list[Path]:
    """The files of a stage: those on the disk if made from the same ``key`` and intact, else what ``make`` writes.

    The stamp, written last, holds the key's hash and that of every file: a stage that was interrupted has none.
    """
    stamp, digest = out / "stages" / f"{name}.json", files.sha256(files.canonical_json(dict(key)))
    kept = _kept(out, stamp, digest)
    if kept is not None:
        return kept
    stamp.unlink(missing_ok=True)
    made = list(make())
    note = {"key": digest, "made_from": dict(key),
            "files": {path.relative_to(out).as_posix(): files.file_sha256(path) for path in made}}
    files.make_folder(stamp.parent)
    files.write_atomic(stamp, json.dumps(note, indent=1).encode())
    return made


def _kept(out: Path, stamp: Path, digest: str) -> list[Path] | None:
    try:
        note = json.loads(stamp.read_bytes())
        intact = note["key"] == digest and all(files.file_sha256(out / p) == h for p, h in note["files"].items())
    except (FileNotFoundError, ValueError, KeyError):
        return None
    return [out / path for path in note["files"]] if intact else None


def code_hash(*parts: str) -> str:
    """SHA-256 of the package's sources under the named modules or folders: changed code makes its results stale."""
    root = Path(__file__).parents[1]
    found = sorted({path for part in parts for path in [*root.glob(f"{part}.py"), *root.glob(f"{part}/**/*.py")]})
    return files.sha256(*(path.read_bytes() for path in found))


@contextmanager
def timed(stage: str, seconds: dict[str, float], say: Say) -> Iterator[None]:
    """Say when a stage begins and how long it took."""
    say(f"{stage} ...")
    began = time.monotonic()
    yield
    seconds[stage] = round(time.monotonic() - began, 1)
    say(f"{stage}: {seconds[stage]:.1f} s")
