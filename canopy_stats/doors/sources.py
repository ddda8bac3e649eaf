"""Whatever holds completions, to one stream of them: files by name and content, tables, lists, vLLM's outputs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from canopy_stats import files
from canopy_stats.doors.inspect_logs import inspect_log
from canopy_stats.doors.readers import FORMATS, LogRow, json_lines, request_outputs, vllm_rows
from canopy_stats.doors.records import Logged
from canopy_stats.doors.rows import Fields, check_fields
from canopy_stats.schema import UserError

NAMES = ("auto", "jsonl", "openai", "vllm", "inspect", "lm-eval")
_ROWS = (list, tuple)


def records(source: Any, format: str = "auto", fields: Fields | None = None) -> Iterator[Logged]:
    """Every completion of a source, in its order.

    ``source`` is a file, a list of files, a table (pandas, polars, pyarrow, datasets), a list of mappings, or a list of
    vLLM's RequestOutput. ``format`` is one of :data:`NAMES`; "auto" looks at the file's name and its first row.
    """
    if format not in NAMES:
        raise UserError(f"There is no format {format!r}; choose one of {', '.join(NAMES)}.")
    check_fields(fields or {})
    if isinstance(source, str | Path):
        return _file(source, format, fields or {})
    if isinstance(source, _ROWS) and source and all(isinstance(s, str | Path) for s in source):
        return chain.from_iterable(_file(s, format, fields or {}) for s in source)
    if isinstance(source, _ROWS) and source and hasattr(source[0], "outputs"):
        return vllm_rows(request_outputs(source), fields or {})
    return _by_rows(_table(source), format, fields or {}, "The table")


def _file(source: str | Path, format: str, fields: Fields) -> Iterator[Logged]:
    path = files.place(source)
    if path.is_dir():
        raise UserError(f"{path} is a folder; give the files in it.")
    if path.suffix == ".parquet":
        return _by_rows(_parquet(path), format, fields, path.name)
    if format == "inspect" or (format == "auto" and (path.suffix == ".eval" or _is_inspect_json(path))):
        if not path.is_file():
            raise UserError(f"There is no file {path}.")
        return inspect_log(path)
    return _by_rows(json_lines(path), format, fields, path.name)


def _is_inspect_json(path: Path) -> bool:
    """Whether a .json file begins as inspect's logs do."""
    if path.suffix != ".json" or not path.is_file():
        return False
    with path.open("rb") as file:
        start = b"".join(file.read(400).split())
    return start.startswith(b'{"version":') and b'"eval":' in start


def _by_rows(rows: Iterator[LogRow], format: str, fields: Fields, name: str) -> Iterator[Logged]:
    """Rows of one format, which the first one shows."""
    first = next(rows, None)
    if first is None:
        raise UserError(f"{name} holds no rows; give one with completions.")
    known = [f for f in FORMATS if f.name == format or (format == "auto" and f.known_by(first[1]))]
    if not known:
        raise UserError(f"{name} holds rows, and {format!r} logs are files of their own; leave the format out.")
    return known[0].read(chain([first], rows), fields)


def _table(source: Any) -> Iterator[LogRow]:
    """The rows of a list of mappings, of a table that narwhals knows, or of a Hugging Face data set."""
    import narwhals as nw

    try:
        frame = nw.from_native(source, eager_only=True, pass_through=True)
    except nw.exceptions.DuplicateError:
        raise UserError("The table has two columns of one name; rename one of them.") from None
    if isinstance(frame, nw.DataFrame):
        return _numbered(frame.iter_rows(named=True))
    if isinstance(source, Mapping | str | bytes) or not hasattr(source, "__iter__"):
        raise UserError(f"Completions cannot be read from a {type(source).__name__}; give a file, a table, or a list "
                        "of mappings with a prompt and its completions.")
    return _numbered(source)


def _numbered(rows: Iterable[Any]) -> Iterator[LogRow]:
    for i, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise UserError(f"Row {i} is a {type(row).__name__}; give mappings with a prompt and its completions.")
        yield f"row {i}", row


def _parquet(path: Path) -> Iterator[LogRow]:
    """The rows of a Parquet file, a batch at a time."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(256):
                yield from _numbered(batch.to_pylist())
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{path} is no readable Parquet file ({str(error).splitlines()[0]}).") from None


def mapping(pairs: Sequence[str]) -> dict[str, str]:
    """``field=name`` texts as a mapping, as the command line gives them."""
    found = dict(p.partition("=")[::2] for p in pairs)
    if wrong := [p for p in pairs if not p.partition("=")[2]]:
        raise UserError(f"{json.dumps(wrong[0])} is not of the form field=name, such as completion=answer.")
    return found
