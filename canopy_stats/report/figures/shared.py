"""What the figures share: labels of the leftmost axes, and refusals."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from canopy_stats.report.figures.style import Facets
from canopy_stats.schema import UserError


def left_label(cells: Facets, *texts: str) -> None:
    """Label the y axes of the leftmost facets alone: the others share them."""
    for axes in cells.values():
        for ax, text in zip(axes, texts, strict=True):
            spec = ax.get_subplotspec()
            if spec is not None and spec.colspan.start == 0:
                ax.set_ylabel(text)


def need(frame: pd.DataFrame, columns: Sequence[str]) -> None:
    """UserError that names missing columns, or says that there are no rows."""
    missing = [c for c in columns if c not in frame.columns]
    if missing:
        raise UserError(f"This figure needs the column{'s'[:len(missing) - 1]} {', '.join(missing)}; "
                        f"the frame has {', '.join(map(str, frame.columns))}.")
    if frame.empty:
        raise UserError("This figure has no rows to draw: was the panel filtered to nothing?")


def distinct(frame: pd.DataFrame, column: str) -> list[str]:
    """A column's values in alphabetical order: every figure has its facets in the same one."""
    return sorted(frame[column].astype(str).unique())


def of(frame: pd.DataFrame, column: str, value: str) -> pd.DataFrame:
    """The rows whose column reads as the value."""
    return frame[frame[column].astype(str) == value]
