"""A first study file for somebody's own checkpoints: commented, valid, and no longer than a screen."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from canopy_stats import files
from canopy_stats.schema import UserError


@dataclass(frozen=True, slots=True)
class ModelPair:
    """A base model and what was made of it, as the file shall name them."""

    name: str
    base: str
    tuned: str


def study_text(families: Sequence[ModelPair], tasks: Mapping[str, str], *, title: str, rollouts: int,
               max_new_tokens: int, embedder: str) -> str:
    """The text of a study file. Each line says what it decides; the page *The study file* has every key."""
    said = json.dumps  # a JSON text is a YAML text, whatever is in it
    arms = "\n".join(f"  - name: {said(f.name)}\n    base: {said(f.base)}\n    tuned: {said(f.tuned)}"
                     for f in families)
    files_of_tasks = "\n".join(f"  {said(name)}: {said(path)}" for name, path in tasks.items())
    return f"""\
# What a study compares, by which law, in which sizes.
#   canopy-stats plan THIS    what it would take, before anything is loaded
#   canopy-stats run THIS     draws, checks, measures, fits and reports; interrupted, the same command resumes
title: {said(title)}

# A hub name, a folder or a GGUF file each. Base models read the raw prompt, tuned ones their chat template; to say
# otherwise: tuned: {{model: NAME, chat: false}}. An adapter: tuned: {{model: BASE, adapter: FOLDER}}.
# Two families and more make the robust slope; with one you get the paper's.
families:
{arms}

# Prompt files: JSON lines with a "prompt" (text or chat messages) and an optional "id". Ten prompts a task at least.
tasks:
{files_of_tasks}
# prompts_per_task: 100    # the first so many; without it all

# The law that is sampled. max_new_tokens caps the length: a rollout that reaches it is cut, and counted as such.
law: {{temperature: 1.0, max_new_tokens: {max_new_tokens}}}    # also top_k, top_p, min_p, stop_strings
rollouts: {rollouts}              # of each prompt; the paper has 100
seed: 0

# What makes vectors of texts: minilm (in a package), tfidf (no model), or a sentence-transformers name or folder.
embedders: [{said(embedder)}]

# out: where results go; without it runs/<name of this file>
"""


def write_study(path: Path, text: str, *, overwrite: bool = False) -> None:
    """Write a study file that reads back. UserError where a file stands already, or where the text is no study."""
    from canopy_stats.study.load import read_study

    if path.exists() and not overwrite:
        raise UserError(f"{path} exists already. Give another name, or --force to replace it.")
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.draft")
    files.write_atomic(draft, text.encode())
    try:
        read_study(draft)
    except UserError as error:
        raise UserError(str(error).replace(str(draft), str(path))) from None
    finally:
        draft.unlink(missing_ok=True)
    files.write_atomic(path, text.encode())
