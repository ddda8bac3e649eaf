"""A finished study's folder as one file, ``report.html``, that asks nothing of a network."""

from __future__ import annotations

from pathlib import Path

from canopy_stats import files
from canopy_stats.report.folder import Folder
from canopy_stats.report.page import content, html

__all__ = ["write_report"]


def write_report(folder: str | Path) -> Path:
    """Write ``report.html`` into the folder of a finished study and return its path.

    The page is made from what lies there: the panel, tables, figures, fits, checks and runs. The same folder gives the
    same bytes. UserError where the study is not finished.
    """
    out = Path(folder)
    # a text of a model may hold half of a surrogate pair, which no encoding has
    files.write_atomic(out / "report.html", html.page(content.of_folder(Folder(out))).encode("utf-8", "replace"))
    return out / "report.html"
