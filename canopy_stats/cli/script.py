"""The command line of ``analysis/table_NAME.py`` and ``figure_NAME.py``: one entry of the catalogue each."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from canopy_stats import files, slope
from canopy_stats.cli.command import OK, USER_ERROR
from canopy_stats.panels import load_demo_panel, read_panel
from canopy_stats.report import catalogue
from canopy_stats.report.folder import Folder
from canopy_stats.report.source import Source
from canopy_stats.schema import UserError

KINDS: dict[str, catalogue.EntryKind] = {"table": "tables", "figure": "figures"}


def script(file: str, description: str | None, arguments: Sequence[str] | None = None) -> int:
    """The command line of ``analysis/table_NAME.py`` or ``figure_NAME.py``: make that one entry and print it."""
    kind, name = Path(file).stem.split("_", 1)
    options = _parsed(kind, name, description, arguments)
    try:
        files.make_folder(options.out)
        _tell(catalogue.write_one(KINDS[kind], name, _source(options), options.out))
    except UserError as error:
        print(error, file=sys.stderr)
        return USER_ERROR
    return OK


def _parsed(kind: str, name: str, description: str | None, arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=f"{kind}_{name}.py", description=description,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--panel", type=Path, help="a panel file (default: the demo panel in the package)")
    source.add_argument("--study", type=Path, help="a study folder: its panel, runs, checks and ablations")
    parser.add_argument("--out", type=Path, default=Path("runs") / f"{kind}s", help="where to write (%(default)s)")
    return parser.parse_args(arguments)


def _source(options: argparse.Namespace) -> Source:
    """What the options name; slope changes that it lacks are fitted by the slope models."""
    if options.study is not None:
        return Source.of(Folder(options.study), slope)
    return Source(read_panel(options.panel) if options.panel is not None else load_demo_panel(), slope)


def _tell(paths: Sequence[Path]) -> None:
    text = next((path for path in paths if path.suffix == ".txt"), None)
    if text is not None:
        print(text.read_text(encoding="utf-8"))
    print("\n".join(map(str, paths)))
