"""Scores that evaluation harnesses logged: one tidy frame, a row a sample, epoch and metric."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import pandas as pd

from canopy_stats import files
from canopy_stats.doors.arguments import check_whole
from canopy_stats.doors.rows import whole_text
from canopy_stats.schema import UserError, printable
from canopy_stats.schema.problems import require

COLUMNS = ("task", "item", "epoch", "model", "metric", "score")
"""The columns that every frame of scores begins with; what follows is the log's own metadata."""

Paths = str | Path | Iterable[str | Path]


@dataclass
class _File:
    """What one file holds: rows, and what could not be read, in words."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    errors: list[dict[str, Any]] = field(default_factory=list)


def read_lm_eval(files: Paths, *, metric: str | Sequence[str] | None = None, workers: int = 1) -> pd.DataFrame:
    """Scores of lm-evaluation-harness: the ``samples_*.jsonl`` that ``--log_samples`` writes.

    Parameters
    ----------
    files : path or paths
        Files, or folders that are searched for them (the model's name is that of ``results_*.json`` beside them, else
        the folder's).
    metric : str or sequence of str, optional
        Metrics to keep; None keeps each that a sample names.
    workers : int
        Processes that read files side by side.

    Returns
    -------
    DataFrame
        A row a sample and metric: task, item (the doc_id), epoch (1), model, metric, score, then filter, doc_hash,
        prompt_hash, target_hash, file. ``attrs["errors"]`` lists the samples that gave no score: file, item, reason.

    Raises
    ------
    UserError
        No such file; a file that is cut off or is no such log; a metric that none has; a sample that stands twice.
    """
    found = _files(files, "samples_*.jsonl")
    return _frame(_each(_lm_eval_file, found, workers), metric, found)


def read_inspect(logs: Paths, *, metric: str | Sequence[str] | None = None, workers: int = 1) -> pd.DataFrame:
    """Scores of inspect_ai: its ``.eval`` and ``.json`` logs. Needs inspect_ai (``canopy-stats[logs]``).

    Parameters
    ----------
    logs : path or paths
        Logs, or folders that are searched for them.
    metric : str or sequence of str, optional
        Scorers to keep; None keeps all. A score that is a mapping gives a metric for each of its keys.
    workers : int
        Processes that read files side by side.

    Returns
    -------
    DataFrame
        A row a sample, epoch and scorer: task, item (the sample's id), epoch, model, metric, score, then run_id,
        created, file. Correct is 1, partial .5, incorrect and no answer 0, as inspect_ai counts them.
        ``attrs["errors"]`` lists samples that failed or have no number: file, item, reason.

    Raises
    ------
    UserError
        No such log, a log that cannot be read, a scorer that none has, a sample that stands twice.
    """
    found = _files(logs, "*.eval", "*.json")
    return _frame(_each(_inspect_file, found, workers), metric, found)


# --- files ------------------------------------------------------------------------------------------------------


def _files(given: Paths, *patterns: str) -> list[Path]:
    """Every file that is named, or lies in a folder that is named."""
    paths = [files.place(p) for p in _listed(given)]
    found: list[Path] = []
    for path in paths:
        inside = sorted(p for pattern in patterns for p in path.rglob(pattern)) if path.is_dir() else [path]
        if path.is_dir() and not inside:
            raise UserError(f"{path} holds no {' or '.join(patterns)}. Give the folder that the logs were written to.")
        found += inside
    if not found:
        raise UserError("No log was named: give a file or a folder.")
    if missing := [p for p in found if not p.is_file()]:
        raise UserError(f"There is no log {missing[0]}.")
    return list(dict.fromkeys(found))


def _listed(given: Any) -> list[str | Path]:
    found = [given] if isinstance(given, (str, Path)) else list(given) if isinstance(given, Iterable) else [given]
    for one in found:
        require(isinstance(one, (str, Path)) and str(one) != "", "A log", one, "a file or a folder")
    return found


def _each(read: Callable[[Path], _File], files: Sequence[Path], workers: int) -> Iterator[_File]:
    check_whole("workers", workers)
    if workers == 1 or len(files) == 1:
        return map(read, files)
    with ProcessPoolExecutor(min(workers, len(files))) as pool:
        return iter(list(pool.map(read, files)))


def _frame(parts: Iterable[_File], metric: str | Sequence[str] | None, files: Sequence[Path]) -> pd.DataFrame:
    """The rows below each other, checked; errors beside them."""
    every = list(parts)
    rows, errors = [row for one in every for row in one.rows], [error for one in every for error in one.errors]
    if not rows:
        why = f" ({errors[0]['item']}: {errors[0]['reason']})" if errors else ""
        raise UserError(f"{files[0]}{' and others' if len(files) > 1 else ''} give no score{why}.")
    table = pd.DataFrame(rows)
    table = table[[*COLUMNS, *(name for name in table.columns if name not in COLUMNS)]]
    table = _kept(table, metric)
    key = [name for name in ("task", "item", "epoch", "model", "metric", "filter", "run_id") if name in table]
    if (twice := table.duplicated(key)).any():
        first = table[twice].iloc[0]
        raise UserError(f"{first['task']}, item {first['item']} of {first['model']} stands twice ({first['file']}). "
                        "Leave one of the two logs out.")
    table.attrs["errors"] = errors
    return table.reset_index(drop=True)


def _kept(table: pd.DataFrame, metric: str | Sequence[str] | None) -> pd.DataFrame:
    if metric is None:
        return table
    wanted = [metric] if isinstance(metric, str) else list(metric) if isinstance(metric, Iterable) else [metric]
    require(bool(wanted), "metric", metric, "a name, a list of names, or None for all")
    if unknown := [name for name in wanted if name not in set(table["metric"])]:
        known = ", ".join(sorted(set(table["metric"])))
        raise UserError(f"No sample has the metric {unknown[0]!r}; there are {known}.")
    return table[table["metric"].isin(wanted)]


# --- lm-evaluation-harness --------------------------------------------------------------------------------------

_STEM = re.compile(r"samples_(.+?)(?:_(\d{4}-\d{2}-\d{2}T[\d.:-]+))?")
_HASHES = ("doc_hash", "prompt_hash", "target_hash")


def _lm_eval_file(path: Path) -> _File:
    name = _STEM.fullmatch(path.stem)
    task = name[1] if name else path.stem
    model, found = _lm_eval_model(path, name[2] if name else None), _File()
    common = {"task": task, "model": model, "file": str(path)}
    with _opened(path) as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                _lm_eval_sample(_lm_eval_line(line, path, number), common, found)
    return found


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}).") from None


def _lm_eval_line(line: bytes, path: Path, number: int) -> Mapping[str, Any]:
    try:
        value = json.loads(line.removeprefix(b"\xef\xbb\xbf"))
    except UnicodeDecodeError:
        raise UserError(f"{path}, line {number} is no UTF-8 text; save the file as UTF-8.") from None
    except (ValueError, RecursionError):
        raise UserError(f"{path}, line {number} is not JSON; was the file cut off? Log the task again, or delete the "
                        "line.") from None
    if not isinstance(value, dict) or "doc_id" not in value:
        raise UserError(f"{path}, line {number} has no doc_id: it is no sample of lm-evaluation-harness "
                        "(--log_samples).")
    named = [value["doc_id"], value.get("filter", ""), *(_names(value) if "metrics" in value else [])]
    if not all(isinstance(name, str | int) and not isinstance(name, bool) and whole_text(str(name)) for name in named):
        raise UserError(f"{path}, line {number}: doc_id, filter and the names of metrics must be texts or numbers.")
    return value


def _names(sample: Mapping[str, Any]) -> list[Any]:
    """The metrics that a sample names."""
    names = sample.get("metrics") or []
    return names if isinstance(names, list) else [names]


def _lm_eval_model(path: Path, stamp: str | None) -> str:
    """The model's name in the results that were written with the samples, else the folder's name."""
    for results in sorted(path.parent.glob(f"results_{stamp}.json" if stamp else "results_*.json")):
        try:
            values = json.loads(results.read_bytes())
        except (ValueError, OSError, RecursionError):
            continue
        if isinstance(values, dict) and isinstance(values.get("model_name"), str):
            return str(values["model_name"])
    return path.parent.name


def _lm_eval_sample(sample: Mapping[str, Any], common: dict[str, Any], found: _File) -> None:
    """A row for each metric that the sample names."""
    item = printable(str(sample["doc_id"]))
    names = _names(sample)
    if not names:
        found.errors.append({"file": common["file"], "item": item, "reason": "names no metric"})
    more = {"filter": str(sample.get("filter", "none")), **{h: _text(sample.get(h)) for h in _HASHES}}
    for name in names:
        value = _number(sample.get(name))
        if value is None:
            found.errors.append({"file": common["file"], "item": item, "reason": f"{name} is no number"})
            continue
        found.rows.append({"item": item, "epoch": 1, "metric": str(name), "score": value, **common, **more})


def _text(value: Any) -> str | None:
    return None if value is None else json.dumps(value) if not isinstance(value, str) else printable(value)


def _number(value: Any) -> float | None:
    """A finite number, or what can be read as one."""
    if not isinstance(value, (bool, int, float)):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


# --- inspect_ai -------------------------------------------------------------------------------------------------


def _inspect_file(path: Path) -> _File:
    log = _inspect_log(path)
    found = _File()
    common = {"task": str(log.eval.task), "model": str(log.eval.model), "run_id": str(log.eval.run_id),
              "created": str(log.eval.created), "file": str(path)}
    for sample in log.samples or []:
        _inspect_sample(sample, common, found)
    if not log.samples:
        found.errors.append({"file": str(path), "item": "", "reason": f"holds no sample (status {log.status})"})
    return found


def _inspect_log(path: Path) -> Any:
    try:
        from inspect_ai.log import read_eval_log
    except ImportError:
        raise UserError("Logs of inspect_ai are read by inspect_ai itself: pip install 'canopy-stats[logs]'.") from None
    from zipfile import BadZipFile

    try:
        return read_eval_log(str(path))
    except (ValueError, KeyError, OSError, EOFError, BadZipFile, NotImplementedError) as error:
        why = " ".join(str(error).split())[:200]
        raise UserError(f"{path} cannot be read as a log of inspect_ai ({why}).") from None


def _inspect_sample(sample: Any, common: dict[str, Any], found: _File) -> None:
    """A row for each scorer's number."""
    if sample.error is not None or not sample.scores:
        reason = " ".join(str(sample.error.message).split())[:200] if sample.error is not None else "has no score"
        found.errors.append({"file": common["file"], "item": str(sample.id), "reason": reason})
        return
    for scorer, score in sample.scores.items():
        values = score.value if isinstance(score.value, dict) else {"": score.value}
        for key, value in values.items():
            metric = f"{scorer}/{key}" if key else scorer
            number = _grade(value)
            if number is None:
                reason = f"{metric} is no number"
                found.errors.append({"file": common["file"], "item": str(sample.id), "reason": reason})
            else:
                found.rows.append({"item": str(sample.id), "epoch": int(sample.epoch), "metric": metric,
                                   "score": number, **common})


_GRADES = {"C": 1.0, "P": 0.5, "I": 0.0, "N": 0.0}


def _grade(value: Any) -> float | None:
    """A number of a score: inspect_ai's letters, numbers, true and false, or a text that is a number."""
    if isinstance(value, str):
        if value in _GRADES:
            return _GRADES[value]
        if value.lower() in ("yes", "true", "no", "false"):
            return float(value.lower() in ("yes", "true"))
        try:
            return _number(float(value))
        except ValueError:
            return None
    return _number(value)
