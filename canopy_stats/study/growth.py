"""Whether a run that is asked for otherwise than it was begun only has to grow: what is drawn stays, more is added."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from canopy_stats.schema import Prompt, UserError

if TYPE_CHECKING:
    from canopy_stats.store import Run

GROWING = frozenset({"rollouts", "prompts"})
"""What of a run may become more."""


def lost(run: Run, n_rollouts: int, prompts: bytes) -> list[str]:
    """What a stored run holds that is no longer asked for, in words; nothing where it only has to grow.

    ``prompts`` are the lines of the prompts that are asked for.
    """
    from canopy_stats.store import prompt_changes

    fewer = n_rollouts < run.config.n_rollouts
    stored = run.prompts()
    known = {p.prompt_hash: p.token_ids for p in stored}
    # What a prompt is read as stands in the run's identity: template, tokenizer and date.
    asked = [Prompt(prompt_id, name, [], known.get(name, ())) for prompt_id, name in named(prompts)]
    return ([f"fewer than the {run.config.n_rollouts} rollouts that are drawn"] if fewer else []) + [
        f"prompt {change}" for change in prompt_changes(stored, asked)]


def alike(run: Run, n_rollouts: int, prompts: bytes) -> bool:
    """Whether a stored run has the rollouts and prompts that are asked for."""
    return run.config.n_rollouts == n_rollouts and [(p.prompt_id, p.prompt_hash) for p in run.prompts()] == list(
        named(prompts))


@lru_cache(maxsize=64)
def named(prompts: bytes) -> Sequence[tuple[str, str]]:
    """(id, hash) of the prompts on these lines; none where they cannot be read, which drawing them will say."""
    try:
        from canopy_stats.generation.prompt_file import parse_prompts, prompt_hash

        return tuple((name, prompt_hash(source)) for name, source in parse_prompts(prompts, "The prompts"))
    except UserError:
        return ()
