"""What commands read: runs, panels, study files."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from canopy_stats.files import place
from canopy_stats.schema import UserError

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

    from canopy_stats.store import Run
    from canopy_stats.study.load import StudyFile


def open_runs(paths: Sequence[str]) -> list[Run]:
    from canopy_stats.store import open_run

    return [open_run(path) for path in paths]


def open_panel(path: str | None) -> pd.DataFrame:
    """A panel file; without one, the panel that comes with the package."""
    import pandas as pd

    from canopy_stats.panels import load_demo_panel, read_cells

    if path is None:
        return load_demo_panel()
    if not place(path).is_file():
        raise UserError(f"There is no panel file {path}. Write one with `canopy-stats panel RUN... --out {path}`.")
    try:
        return read_cells(path) if path.endswith(".csv") else pd.read_parquet(path)
    except (ValueError, OSError) as error:
        raise UserError(f"{path} cannot be read as a panel ({error}). Give a .parquet or .csv file.") from error


def open_study(options: argparse.Namespace) -> tuple[StudyFile, Path]:
    """The study file, and where its results go."""
    from canopy_stats.study import read_study

    file = read_study(options.study)
    return file, file.folder(options.out)
