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
    from rich.console import Console
    from rich.text import Text

    from canopy_stats.store import Run

_WIDEST = 100


def tell(*texts: object, to: TextIO | None = None, end: str = "\n") -> None:
    """Print, with control characters written out: names, replies and files of others never steer a terminal."""
    print(*(printable(str(text)) for text in texts), file=to or sys.stdout, end=end)


def show(table: pd.DataFrame, csv: str | None = None, whole: pd.DataFrame | None = None) -> None:
    """Print a table, ruled and coloured on a terminal; with ``csv`` write it (or the ``whole`` one behind it) to that
    file too."""
    from canopy_stats.report.printed import console

    if sys.stdout.isatty():
        ruled(table)
    else:
        tell(console(table))
    write_csv(table if whole is None else whole, csv)


def ruled(table: pd.DataFrame) -> None:
    """A table as a terminal can show it. Colours obey NO_COLOR; no cell is read as markup."""
    from rich import box
    from rich.table import Table

    from canopy_stats.report.printed import console, headed, notes_of, to_the_left

    text = headed(table)
    grid = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    for heading, left in zip(text.columns, to_the_left(text), strict=True):
        grid.add_column(_cell(str(heading)), justify="left" if left else "right", overflow="fold")
    for row in text.itertuples(index=False, name=None):
        grid.add_row(*map(_cell, row))
    out = terminal()
    if out.measure(grid, options=out.options.update(max_width=10_000)).maximum > out.width:
        tell(console(table))  # broken headings are worse than long lines
        return
    out.print(grid)
    for line in notes_of(table):
        tell(line)


def terminal() -> Console:
    """The terminal behind stdout."""
    from rich.console import Console

    return Console(highlight=False, markup=False, emoji=False)


_MARKS = {"WRONG": "bold red", "no": "yellow", "missing": "yellow", "stale": "yellow", "ok": "green", "done": "green"}
"""Cells, and words of a report, that stand out."""


def _cell(text: str) -> Text:
    from rich.text import Text

    return Text(printable(text), style=_MARKS.get(text, ""))


def marked(report: object) -> None:
    """Print a report whose verdicts stand out on a terminal."""
    if not sys.stdout.isatty():
        tell(report)
        return
    from rich.text import Text

    text = Text(printable(str(report)))
    text.highlight_words(["WRONG"], style="bold red")
    text.highlight_regex(r"(?<= )ok\b", style="green")
    terminal().print(text, soft_wrap=True)


def warned(words: str, rest: object, style: str) -> None:
    """A line on stderr whose first words stand out on a terminal."""
    if not sys.stderr.isatty():
        tell(words, rest, to=sys.stderr)
        return
    from rich.console import Console
    from rich.text import Text

    line = Text.assemble((words, style), " ", printable(str(rest)))
    Console(stderr=True, highlight=False).print(line, soft_wrap=True)


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
