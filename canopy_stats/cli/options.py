"""Options that several commands share, and the argument types that argparse lacks."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable
from typing import Any

from canopy_stats.schema import RENDERED_TEXT, printable


def runs_argument(command: argparse.ArgumentParser) -> None:
    command.add_argument("runs", nargs="+", metavar="RUN", help="folder that `canopy-stats generate` wrote")


def study_argument(command: argparse.ArgumentParser) -> None:
    command.add_argument("study", metavar="STUDY", help="study file (YAML)")
    command.add_argument("--out", metavar="FOLDER",
                         help="where everything is stored (default: the file's 'out', else runs/<name of the file>)")


def embedder_option(command: argparse.ArgumentParser, default: str | None) -> None:
    command.add_argument("--embedder", default=default, metavar="NAME",
                         help="minilm (in a package), tfidf (no model), or a sentence-transformers name or folder "
                              f"(default {default or 'none: no diversity columns'})")


def workers_option(command: argparse.ArgumentParser) -> None:
    command.add_argument("--workers", type=int, default=1, metavar="W",
                         help="processes; the answer does not depend on their number (default 1)")


def csv_option(command: argparse.ArgumentParser) -> None:
    command.add_argument("--csv", metavar="FILE", help="write the table to this file too")


def json_option(command: argparse.ArgumentParser) -> None:
    """For commands whose answer is a table: they leave it in ``options.answer``."""
    command.add_argument("--json", action="store_true",
                         help="print the table as JSON records and nothing else (missing and infinite numbers: null)")


def batch_size(text: str) -> int | str:
    """``auto`` or a whole number."""
    if text == "auto" or text.isdigit():
        return text if text == "auto" else int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is neither 'auto' nor a whole number")


def whole_number(least: int) -> Callable[[str], int]:
    """A whole number of at least so much."""
    def read(text: str) -> int:
        if not text.strip().lstrip("-").isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {least}")
        return int(text)

    return read


def plain_name(text: str) -> str:
    """A name that may stand in a table and on a terminal."""
    if not text.strip() or not text.isprintable() or len(text.encode(errors="replace")) > 200:
        raise argparse.ArgumentTypeError(f"{printable(text[:40])!r} is no name: give a short, printable text")
    return text


def device(text: str) -> str:
    """Where a model runs."""
    if not re.fullmatch(r"auto|cpu|(cuda|mps|xpu|hpu|npu)(:\d+)?", text):
        raise argparse.ArgumentTypeError(f"{printable(text[:40])!r} is no device; give auto, cpu, mps, cuda or cuda:1")
    return text


def chat_format(text: str) -> str:
    """The one value that ``--chat`` takes; alone it means the template."""
    if text != RENDERED_TEXT:
        raise argparse.ArgumentTypeError(f"{text!r} is not {RENDERED_TEXT!r}; --chat alone applies the template (give "
                                         "the model before it)")
    return text


def json_object(text: str) -> dict[str, Any]:
    """A JSON object."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"""{text!r} is not a JSON object such as '{{"name": "value"}}'""")
    return value


def whole_numbers(text: str) -> list[int]:
    """Whole numbers between commas."""
    parts = text.split(",")
    if not all(part.strip().isdigit() for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of whole numbers such as 20,40,80")
    return [int(part) for part in parts]


def only(text: str) -> tuple[str, list[str]]:
    """A choice of the specification curve and the options of it to keep, as ``choice=option,option``."""
    choice, equals, options = text.partition("=")
    if not (choice and equals and options):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form choice=option,option")
    return choice, options.split(",")
