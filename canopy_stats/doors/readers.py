"""The formats: each reader takes a source to a stream of completions, and holds no more than a row of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from canopy_stats.doors.records import Logged
from canopy_stats.doors.rows import Fields, completions, text_of
from canopy_stats.schema import UserError

LogRow = tuple[str, Mapping[str, Any]]
"""Where a row stands, and the row."""


# --- rows of files ----------------------------------------------------------------------------------------------


def json_lines(path: Path) -> Iterator[LogRow]:
    """The rows of a JSONL file, one line in memory at a time; a file of one JSON list or object gives its items."""
    with _opened(path) as file:
        begun = False
        for number, raw in enumerate(file, start=1):
            where, line = f"{path.name}, line {number}", raw.strip().removeprefix(b"\xef\xbb\xbf")
            if line and not begun:
                _refuse_other_bytes(path.name, line)
                if line[:1] == b"[" or line == b"{":
                    yield from _whole(path)
                    return
            begun = begun or bool(line)
            if line:
                yield where, _object(line, where, cut=not raw.endswith(b"\n"))


_OTHER = {b"\x1f\x8b": "compressed; unpack it", b"PK\x03\x04": "an archive; unpack it", b"\x28\xb5\x2f\xfd":
          "compressed; unpack it", b"BZh": "compressed; unpack it", b"\xff\xfe": "no UTF-8 text; save it as UTF-8",
          b"\xfe\xff": "no UTF-8 text; save it as UTF-8", b"PAR1": "a Parquet file; name it .parquet"}
"""How files begin that hold no lines of JSON, and what to do with them."""


def _refuse_other_bytes(name: str, line: bytes) -> None:
    for start, what in _OTHER.items():
        if line.startswith(start):
            raise UserError(f"{name} is {what}, or give a table.")
    if line[:1] not in b"{[" and line.count(b",") and name.lower().endswith((".csv", ".tsv")):
        raise UserError(f"{name} holds no JSON; read it with pandas.read_csv and give the table, or write JSON lines.")


def _opened(path: Path) -> Any:
    try:
        return path.open("rb")
    except FileNotFoundError:
        raise UserError(f"There is no file {path}.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}).") from None


def _object(line: bytes, where: str, *, cut: bool) -> Mapping[str, Any]:
    try:
        row = json.loads(line)
    except UnicodeDecodeError:
        raise UserError(f"{where} is no UTF-8 text; save the file as UTF-8.") from None
    except (ValueError, RecursionError):
        why = "breaks off: the log was cut" if cut else "is not valid JSON"
        raise UserError(f"{where} {why}. Remove the line, or write one object a line, such as "
                        '{"prompt": "...", "completions": ["..."]}.') from None
    if not isinstance(row, dict):
        raise UserError(f"{where} is a {type(row).__name__}; write one object a line.")
    return row


def _whole(path: Path) -> Iterator[LogRow]:
    """A file that is one JSON list of rows, or one row."""
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        raise UserError(f"{path.name} breaks off or is not valid JSON; write it again, or as JSONL.") from None
    rows = value if isinstance(value, list) else [value]
    for i, row in enumerate(rows):
        if not isinstance(row, dict):
            raise UserError(f"{path.name}, item {i} is a {type(row).__name__}; give a list of objects.")
        yield f"{path.name}, item {i}", row


# --- what becomes of a row --------------------------------------------------------------------------------------


def plain_rows(rows: Iterable[LogRow], fields: Fields) -> Iterator[Logged]:
    """Rows in the project's own schema (records.FIELDS)."""
    for where, row in rows:
        yield from completions(row, where, fields)


def openai_rows(rows: Iterable[LogRow], fields: Fields) -> Iterator[Logged]:
    """Responses of ``/v1/completions`` or ``/v1/chat/completions``, each with what was asked.

    The request stands in the row itself (``prompt`` or ``messages``) or in its ``request`` or ``body``, the response in
    the row or in its ``response``.
    """
    for where, row in rows:
        response = _response(row)
        asked = {**row, **(_part(row, ("request", "body")) or {})}
        asked = {**asked, **(_part(asked, ("body",)) or {})}
        choices = response.get("choices")
        if not isinstance(choices, list) or not choices:
            raise UserError(f"{where} has no choices, so it is no response of an OpenAI-compatible server; remove the "
                            "row, or name the format.")
        yield from completions({**_asked(asked), "completions": [_choice(c, where) for c in choices]}, where, fields)


def _response(row: Mapping[str, Any]) -> Mapping[str, Any]:
    response = _part(row, ("response",)) or row
    return _part(response, ("body",)) or response


def _part(row: Mapping[str, Any], names: Sequence[str]) -> Mapping[str, Any] | None:
    return next((row[n] for n in names if isinstance(row.get(n), Mapping)), None)


def _asked(row: Mapping[str, Any]) -> dict[str, Any]:
    drop = ("choices", "response", "request", "body", "id", "logprobs", "top_logprobs", "output", "finish_reason",
            "usage", "object", "stop")
    kept = {k: v for k, v in row.items() if k not in drop}
    return {**kept, "prompt_id": row.get("custom_id", row.get("prompt_id"))}


def _choice(choice: Any, where: str) -> dict[str, Any]:
    if not isinstance(choice, Mapping):
        raise UserError(f"{where}: a choice is a {type(choice).__name__}; it must be an object.")
    message = choice.get("message")
    text = text_of(message.get("content"), where) if isinstance(message, Mapping) else choice.get("text")
    if isinstance(message, Mapping) and message.get("reasoning_content") and isinstance(text, str | None):
        text = f"<think>{message['reasoning_content']}</think>{text or ''}"
    return {"completion": text, "token_ids": choice.get("token_ids"), "logprobs": choice.get("logprobs"),
            "finish_reason": choice.get("finish_reason")}


def vllm_rows(rows: Iterable[LogRow], fields: Fields) -> Iterator[Logged]:
    """vLLM's RequestOutput, as its fields: prompt, prompt_token_ids, and outputs with text, token_ids, logprobs."""
    for where, row in rows:
        given = row.get("outputs") or []
        outputs = [dict(_as_mapping(o)) for o in given] if isinstance(given, list) else given
        own = {k: v for k, v in row.items() if k in ("prompt", "messages", "prompt_token_ids", "prompt_id")}
        yield from completions({**own, "completions": outputs}, where, fields)


def _as_mapping(value: Any) -> Mapping[str, Any]:
    if isinstance(value, Mapping):
        return value
    return {name: getattr(value, name, None) for name in ("text", "token_ids", "logprobs", "finish_reason")}


def request_outputs(items: Iterable[Any]) -> Iterator[LogRow]:
    """RequestOutput objects of vLLM, as rows."""
    for i, item in enumerate(items):
        yield f"output {i}", {"prompt": getattr(item, "prompt", None), "outputs": list(item.outputs),
                              "prompt_token_ids": getattr(item, "prompt_token_ids", None)}


def lm_eval_rows(rows: Iterable[LogRow], fields: Fields) -> Iterator[Logged]:
    """Samples that lm-evaluation-harness logs (``--log_samples``) of tasks that generate."""
    for where, row in rows:
        given = row.get("arguments")
        first = _asked_first(given)
        texts = _generated(row.get("resps"))
        if not texts:
            raise UserError(f"{where} holds log-likelihoods and no completions: its task compares choices. Give the "
                            "samples of a task with output_type generate_until.")
        own = {"prompt_id": row.get("doc_id"), "prompt": first, "completions": texts}
        yield from completions(own, where, fields)


def _asked_first(given: Any) -> Any:
    """The prompt of a sample's first request; None where it holds none."""
    if isinstance(given, Mapping):
        request = given.get("gen_args_0")
        return request.get("arg_0") if isinstance(request, Mapping) else None
    request = given[0] if isinstance(given, list) and given else None
    return request[0] if isinstance(request, list) and request else None


def _generated(resps: Any) -> list[str]:
    if not isinstance(resps, list):
        return []
    flat = [text for of_request in resps or [] for text in (of_request if isinstance(of_request, list)
                                                          else [of_request])]
    return flat if all(isinstance(text, str) for text in flat) else []


# --- the table of formats ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Format:
    """A format of rows: how one is known by a row's keys, and what reads them."""

    name: str
    known_by: Callable[[Mapping[str, Any]], bool]
    read: Callable[[Iterable[LogRow], Fields], Iterator[Logged]]


FORMATS = (
    Format("lm-eval", lambda row: {"doc_id", "resps", "arguments"} <= row.keys(), lm_eval_rows),
    Format("vllm", lambda row: "prompt_token_ids" in row and isinstance(row.get("outputs"), list), vllm_rows),
    Format("openai", lambda row: "choices" in _response(row), openai_rows),
    Format("jsonl", lambda row: True, plain_rows),
)
