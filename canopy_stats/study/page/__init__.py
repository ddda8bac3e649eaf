"""A finished study's folder as one file, ``report.html``: the one place that knows both the folder and the page."""

from __future__ import annotations

from pathlib import Path

from canopy_stats import files
from canopy_stats.schema import UserError
from canopy_stats.study.page.folder import content

__all__ = ["write_report"]


def write_report(folder: str | Path) -> Path:
    """Write ``report.html`` into the folder of a finished study and return its path.

    The page is made from what lies there: the panel, tables, figures, fits, checks and runs. The same folder gives the
    same bytes. UserError where the study is not finished.
    """
    from canopy_stats.report.html import page

    out = Path(folder)
    if not (out / "panel.parquet").is_file():
        raise UserError(f"{out} holds no finished study (no panel.parquet). Run the study first; the same command "
                        "resumes one that was interrupted.")
    # a text of a model may hold half of a surrogate pair, which no encoding has
    files.write_atomic(out / "report.html", page(content(out)).encode("utf-8", "replace"))
    return out / "report.html"
