"""How commands answer: tables, paragraphs, files."""

from __future__ import annotations

import io
import json
import math
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from shutil import get_terminal_size
from textwrap import fill
from typing import TYPE_CHECKING, Any, TextIO

from canopy_stats.schema import printable

if TYPE_CHECKING:
    import pandas as pd

    from canopy_stats.store import Run

_WIDEST = 100


def tell(*texts: object, to: TextIO | None = None, end: str = "\n") -> None:
    """Print, with control characters written out: names, replies and files of others never steer a terminal."""
    print(*(printable(str(text)) for text in texts), file=to or sys.stdout, end=end)


def show(table: pd.DataFrame, csv: str | None = None, whole: pd.DataFrame | None = None) -> None:
    """Print a table; with ``csv`` write it (or the ``whole`` one behind it) to that file too."""
    from canopy_stats.report.printed import console

    tell(console(table))
    write_csv(table if whole is None else whole, csv)


@contextmanager
def for_people(silent: bool) -> Iterator[None]:
    """While it lasts, what people read is not printed where it is ``silent``: stdout is left to JSON."""
    if silent:
        with redirect_stdout(io.StringIO()):
            yield
    else:
        yield


def show_json(table: pd.DataFrame) -> None:
    """A table as JSON records, with whole numbers and full precision; NaN and infinities are null."""
    rows = [{str(name): _plain(value) for name, value in row.items()} for row in table.to_dict("records")]
    print(json.dumps(rows, indent=1, allow_nan=False))


def _plain(value: Any) -> Any:
    """A cell as JSON has it: numpy's numbers as Python's, what has no number as null."""
    import pandas as pd

    value = value.item() if hasattr(value, "item") else value
    if value is None or value is pd.NA or value is pd.NaT or (isinstance(value, float) and not math.isfinite(value)):
        return None
    return value if isinstance(value, str | bool | int | float) else str(value)


def write_csv(table: pd.DataFrame, path: str | None) -> None:
    if path:
        from canopy_stats.files import write_atomic
        from canopy_stats.report.printed import csv

        write_atomic(Path(path), csv(table).encode())
        written(path)


def written(*paths: str | Path) -> None:
    tell("written: " + ", ".join(map(str, paths)))


def labelled(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Tables by the label of their run, below each other with the label as first column ``run``."""
    import pandas as pd

    for label, table in tables.items():
        table.insert(0, "run", label)
    return pd.concat(list(tables.values()), ignore_index=True)


def label_of(run: Run) -> str:
    """Family, variant and task of a run, as a reader would name it."""
    return f"{run.config.family}/{run.config.variant}/{run.config.task}"


def paragraph(text: str, hanging: str = "") -> str:
    """Text wrapped at the terminal's width, at most 100 columns (and at 100 where there is no terminal).

    Words stay whole, and so does ``p < 0.001``. ``hanging`` indents all lines but the first, so that notes can be told
    apart.
    """
    width = min(get_terminal_size(fallback=(_WIDEST, 24)).columns, _WIDEST)
    held = re.sub(r" ([<=>]) ", "\N{NO-BREAK SPACE}\\1\N{NO-BREAK SPACE}", text)
    lines = fill(held, width, subsequent_indent=hanging, break_long_words=False, break_on_hyphens=False)
    return lines.replace("\N{NO-BREAK SPACE}", " ")


def note(text: str) -> str:
    """One note of several that stand below each other."""
    return paragraph(text, hanging="  ")
