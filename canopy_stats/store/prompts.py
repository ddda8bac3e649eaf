"""prompts.jsonl: what the model was given, one line a prompt in the run's order, and whether a run may grow."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from canopy_stats import files
from canopy_stats.schema import Prompt, UserError


def prompts_hash(prompts: Sequence[Prompt]) -> str:
    """SHA-256 over the prompts' ids, sources and token ids, in order: what the model is given, and under what name."""
    return files.sha256(prompt_lines(prompts))


def prompt_lines(prompts: Sequence[Prompt]) -> bytes:
    """The file's bytes."""
    rows = ({"prompt_id": p.prompt_id, "hash": p.prompt_hash, "source": p.source, "token_ids": list(p.token_ids)}
            for p in prompts)
    return b"".join(files.canonical_json(row) + b"\n" for row in rows)


def read_prompt_lines(data: bytes) -> list[Prompt]:
    """The prompts that :func:`prompt_lines` wrote; UserError where it did not."""
    try:
        # One list is read in half the time of its lines.
        return [_prompt(row) for row in json.loads(b"[" + b",".join(filter(None, data.split(b"\n"))) + b"]")]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise UserError("The prompts.jsonl of a run is damaged. Run the same `generate` again: that restores it."
                        ) from None


def _prompt(row: dict[str, Any]) -> Prompt:
    return Prompt(str(row["prompt_id"]), str(row["hash"]), row["source"], tuple(map(int, row["token_ids"])))


def refuse_twins(prompts: Sequence[Prompt]) -> None:
    """Rollouts are known by their prompt's hash and index: a prompt may stand once."""
    seen: dict[str, str] = {}
    for prompt in prompts:
        for key in (f"id {prompt.prompt_id}", prompt.prompt_hash):
            if key in seen:
                raise UserError(f"The prompt {prompt.prompt_id!r} stands twice in the run (also as {seen[key]!r}); "
                                "remove one.")
            seen[key] = prompt.prompt_id


def changes(stored: Sequence[Prompt], asked: Sequence[Prompt]) -> list[str]:
    """Every stored prompt that the asked ones lack or changed, in words; none where they only add to the stored."""
    by_id, by_hash = {p.prompt_id: p for p in asked}, {p.prompt_hash: p for p in asked}
    return [what for old in stored if (what := _change(old, by_id.get(old.prompt_id), by_hash.get(old.prompt_hash)))]


def _change(old: Prompt, same_id: Prompt | None, same_text: Prompt | None) -> str:
    if same_id is not None and same_id.prompt_hash == old.prompt_hash:
        same = same_id.token_ids == old.token_ids
        return "" if same else f"{old.prompt_id!r} is read as other token ids (template, date, tokenizer)"
    if same_text is not None:
        return f"{old.prompt_id!r} is now called {same_text.prompt_id!r}"
    return f"{old.prompt_id!r} was edited" if same_id is not None else f"{old.prompt_id!r} is no longer there"
