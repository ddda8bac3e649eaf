"""One writer a folder."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from canopy_stats import files

LOCK = ".lock"


def held(path: Path, wait: float) -> AbstractContextManager[None]:
    """Hold a run's folder while the block lasts; UserError where another process has it."""
    return files.held(path, LOCK, f"Another process is writing {path}. Wait for it or stop it, then run this again; or "
                      "choose another folder.", wait)
