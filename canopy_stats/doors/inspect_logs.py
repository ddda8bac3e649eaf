"""Completions from inspect_ai's logs: .eval archives through the package itself, .json logs as they are."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from canopy_stats.doors.records import Logged
from canopy_stats.doors.rows import completions, text_of
from canopy_stats.schema import UserError

_EXTRA = "pip install 'canopy-stats[logs]'"


def inspect_log(path: Path) -> Iterator[Logged]:
    """The samples of one log; a sample's epochs are rollouts of one prompt.

    What the model was given is the sample's messages before its answer. Samples that failed, and those in which the
    model spoke more than once, are refused by name.
    """
    samples = _archive(path) if path.suffix == ".eval" else _json(path)
    for sample in samples:
        if not isinstance(sample, Mapping):
            raise UserError(f"{path.name} holds a sample that is no object: it is no log of inspect_ai.")
        where = f"{path.name}, sample {sample.get('id')} epoch {sample.get('epoch')}"
        yield from completions(_row(sample, where), where, {})


def _archive(path: Path) -> Iterator[Mapping[str, Any]]:
    try:
        from inspect_ai.log import read_eval_log_samples
    except ImportError:
        raise UserError(f"{path.name} is an archive that inspect_ai reads; install it ({_EXTRA}), or convert the log "
                        "(inspect log convert --to json).") from None
    try:
        for sample in read_eval_log_samples(str(path), all_samples_required=False):
            yield sample.model_dump(mode="json", exclude={"events", "attachments", "store"})
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise UserError(f"{path.name} cannot be read as an inspect log ({' '.join(str(error).split())[:200]}); was it "
                        "cut off?") from None


def _json(path: Path) -> Iterator[Mapping[str, Any]]:
    try:
        log = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        raise UserError(f"{path.name} breaks off or is not valid JSON: the log was cut. Write it again.") from None
    samples = log.get("samples") if isinstance(log, dict) else None
    if not samples or not isinstance(samples, list):
        raise UserError(f"{path.name} is an inspect log without samples; write it with log_samples.")
    yield from samples


def _row(sample: Mapping[str, Any], where: str) -> dict[str, Any]:
    if failed := sample.get("error"):
        why = failed.get("message") if isinstance(failed, Mapping) else failed
        raise UserError(f"{where} failed ({str(why)[:80]}), so it has no completion; leave "
                        "it out of the log, or run it again.")
    output = sample.get("output")
    choices = output.get("choices") if isinstance(output, Mapping) else None
    if not isinstance(choices, list) or not all(isinstance(c, Mapping) and isinstance(c.get("message"), Mapping)
                                                for c in choices):
        choices = None
    if not choices:
        raise UserError(f"{where} has no output; leave it out of the log, or run it again.")
    return {"prompt_id": sample.get("id"), "prompt": _asked(sample, where),
            "completions": [{"completion": text_of(c["message"].get("content"), where) or "",
                             "logprobs": c.get("logprobs"), "finish_reason": c.get("stop_reason")} for c in choices]}


def _asked(sample: Mapping[str, Any], where: str) -> Any:
    """What the model was given before its one answer."""
    messages = sample.get("messages") or []
    if not isinstance(messages, list) or not all(isinstance(m, Mapping) and "role" in m for m in messages):
        raise UserError(f"{where} has messages that are none: each is an object with role and content.")
    turns = [i for i, m in enumerate(messages) if m.get("role") == "assistant"]
    if len(turns) > 1:
        raise UserError(f"{where} has {len(turns)} answers of the model: a rollout is one answer to one prompt, and "
                        "logs of agents hold none. Leave the sample out.")
    if not turns:
        return sample.get("input")
    before = [{"role": m["role"], "content": text_of(m.get("content"), where) or ""} for m in messages[:turns[0]]]
    return before[0]["content"] if [m["role"] for m in before] == ["user"] else before
