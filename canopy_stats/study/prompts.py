"""The prompts that a study uses: chosen evenly from a file, and with worked examples before them on request."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from canopy_stats import files
from canopy_stats.schema import UserError
from canopy_stats.study.spec import FewShot


@dataclass(frozen=True, slots=True)
class Chosen:
    """The prompts of one task: their lines as stored, how many, and the hash of the lines."""

    lines: bytes
    count: int
    sha256: str


def chosen(source: str | Path, wanted: int | None, few_shot: FewShot | None = None, task: str = "") -> Chosen:
    """The prompts of a task; read once as long as the files stay what they are, for a study asks for each run."""
    versions = tuple(_version(path) for path in (source, *([few_shot.pool] if few_shot else [])))
    return _chosen(str(source), wanted, few_shot.model_dump_json() if few_shot else None, task, versions)


def _version(path: str | Path) -> tuple[int, int, int]:
    """What changes when a file does; zeros where there is none, which reading it will say."""
    try:
        known = Path(path).stat()
    except (OSError, ValueError):
        return 0, 0, 0
    return known.st_mtime_ns, known.st_size, known.st_ino


@lru_cache(maxsize=1024)
def _chosen(source: str, wanted: int | None, few_shot: str | None, task: str, versions: Any) -> Chosen:
    examples = FewShot.model_validate_json(few_shot) if few_shot else None
    lines = prompt_lines(source, wanted, examples, task)
    return Chosen(lines, lines.count(b"\n"), files.sha256(lines))


def choose_prompts(source: str | Path, wanted: int | None, copy: Path, few_shot: FewShot | None = None,
                   task: str = "") -> Path:
    """Copy ``wanted`` prompts, evenly spread over a prompt file (all of them for None), to ``copy``."""
    files.make_folder(copy.parent)
    files.write_atomic(copy, prompt_lines(source, wanted, few_shot, task))
    return copy


def prompt_lines(source: str | Path, wanted: int | None, few_shot: FewShot | None = None, task: str = "") -> bytes:
    """The chosen lines of a prompt file, as :func:`choose_prompts` stores them."""
    lines = read_lines(source)
    if wanted is not None and not 1 <= wanted <= len(lines):
        raise UserError(f"prompts_per_task is {wanted}, but {Path(source).name} has {len(lines)} prompts: ask for 1 to "
                        f"{len(lines)} of them.")
    count = len(lines) if wanted is None else wanted
    chosen = [lines[i * len(lines) // count] for i in range(count)]
    if few_shot is not None:
        chosen = with_examples(chosen, few_shot, task)
    return "".join(line + "\n" for line in chosen).encode()


def read_lines(source: str | Path) -> list[str]:
    """The lines of a prompt file that are not blank; UserError where it cannot be read."""
    path = Path(source)
    try:
        return [line for line in files.read_text(path, "prompt file").split("\n") if line.strip()]
    except UserError as error:
        where = "" if path.exists() else (" The project has its own in data/prompts: run this in a checkout, or say "
                                          "where they are.")
        raise UserError(f"{error}{where}") from None


# --- examples before a prompt -----------------------------------------------------------------------------------


def with_examples(lines: Sequence[str], few_shot: FewShot, task: str) -> list[str]:
    """Prompt lines with examples before each prompt: the same for every family and variant.

    Which ones depends on (seed, task, prompt) alone, so that adding a prompt changes no other; or on (seed, task),
    where all prompts of a task have the same.
    """
    pool = examples(few_shot.pool, task)
    return [_with_examples(_record(line, place), place, pool, few_shot, task) for place, line in enumerate(lines)]


def _with_examples(record: Mapping[str, Any], place: int, pool: Sequence[Mapping[str, Any]], few_shot: FewShot,
                   task: str) -> str:
    prompt = record["prompt"]
    choices = pool if few_shot.same else [e for e in pool if e["prompt"] != prompt]
    if not 1 <= few_shot.shots <= len(choices):
        raise UserError(f"few_shot.shots is {few_shot.shots}, but {Path(few_shot.pool).name} has {len(choices)} "
                        f"examples for {task}: ask for 1 to {len(choices)}, or add some.")
    key = files.sha256(files.canonical_json([few_shot.seed, task, *([] if few_shot.same else [prompt])]))
    places = np.random.default_rng(int(key, 16)).choice(len(choices), few_shot.shots, replace=False)
    drawn = [choices[i] for i in places]
    if any(e["prompt"] == prompt for e in drawn):
        raise UserError(f"Prompt {place + 1} of {task} is among its own examples: with few_shot.same, the pool holds "
                        "none of the prompts. Leave it out of the pool, or choose another few_shot.seed.")
    example, opening = FORMS[few_shot.form_of(task)]
    shown = [example.format(**{name: e[name] for name in ("prompt", "answer")}) for e in drawn]
    dressed = {**record, "id": str(record.get("id", place)),
               "prompt": "\n\n".join([*shown, opening.format(prompt=prompt)])}
    return json.dumps(dressed, ensure_ascii=False)


FORMS = {"lines": ("{prompt}\n{answer}", "{prompt}"), "continuation": ("{prompt} {answer}", "{prompt}"),
         "question-answer": ("Question: {prompt}\nAnswer: {answer}", "Question: {prompt}\nAnswer:")}
"""How an example and the prompt behind the examples are written."""


def _record(line: str, place: int) -> dict[str, Any]:
    """A prompt line whose prompt is a text: examples are written before it as text."""
    try:
        record: dict[str, Any] = json.loads(line)
        text = isinstance(record["prompt"], str)
    except (ValueError, KeyError, TypeError):
        raise UserError(f"Prompt {place + 1} is not a JSON object with a 'prompt'; write one object a line.") from None
    if not text:
        raise UserError(f"Prompt {place + 1} is not a text; few_shot writes its examples before texts only.")
    return record


def examples(pool: str | Path, task: str) -> list[dict[str, Any]]:
    """The pool's examples for a task: those that name it, and those that name none."""
    found = []
    for number, line in enumerate(read_lines(pool), 1):
        try:
            record = json.loads(line)
            usable = all(isinstance(record[key], str) and record[key].strip() for key in ("prompt", "answer"))
        except (ValueError, KeyError, TypeError):
            usable = False
        if not usable:
            raise UserError(f'{pool}, line {number}: an example is an object with texts "prompt" and "answer".')
        if record.get("task", task) == task:
            found.append(record)
    return found
