"""The rollouts that a report carries: all of a small study, and of a large one an even sample of its prompts."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from canopy_stats.report.page import tokens
from canopy_stats.report.page.explorer import Explorer, ShownPrompt, ShownRollouts
from canopy_stats.schema import STOP

if TYPE_CHECKING:
    import pandas as pd

    from canopy_stats.store import Run

BYTES_PER_TOKEN = 8.0
"""What a token takes on the page at most: six bytes, in base64. Compressed it is less, on the demo 4.6."""
FEWEST = 4
"""Rollouts of a prompt that are shown at least."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What is shown: of each task these prompts, by id in their order, and the first ``rollouts`` of each."""

    prompts: Mapping[str, Sequence[str]]
    rollouts: int


def explorer(runs: Mapping[str, Run], panel: pd.DataFrame, room: float) -> Explorer:
    """The explorer's cells within about ``room`` bytes, and what they leave out in words."""
    sample = choose(runs, int(room / BYTES_PER_TOKEN))
    facts = measured(panel)
    return Explorer(tuple(cell(run, sample, facts) for run in runs.values()), said(runs, sample))


def choose(runs: Mapping[str, Run], most_tokens: int) -> Sample:
    """As many prompts of each task, evenly spread, as keep the tokens within the limit; if one prompt of each is too
    much, fewer of its rollouts."""
    every = {run.config.task: [p.prompt_id for p in run.prompts()] for run in runs.values()}
    total = sum(shard["n_tokens"] for run in runs.values() for shard in run.shards)
    share = min(1.0, most_tokens / max(total, 1))
    chosen = {task: spread(ids, int(len(ids) * share)) for task, ids in every.items()}
    most = max(run.config.n_rollouts for run in runs.values())
    kept = sum(len(ids) for ids in chosen.values()) / max(sum(len(ids) for ids in every.values()), 1)
    return Sample(chosen, max(min(most, FEWEST), int(most * min(1.0, share / kept))) if share < 1 else most)


def spread(ids: Sequence[str], count: int) -> list[str]:
    """``count`` of the ids, at least one, evenly spread over them."""
    count = min(max(count, 1), len(ids))
    return [ids[i * len(ids) // count] for i in range(count)]


def said(runs: Mapping[str, Run], sample: Sample) -> str:
    """What the sample leaves out; nothing when it is everything."""
    every = {run.config.task: len(run.prompts()) for run in runs.values()}
    shown, total = sum(len(ids) for ids in sample.prompts.values()), sum(every.values())
    most = max(run.config.n_rollouts for run in runs.values())
    fewer = f", and of each prompt the first {sample.rollouts} of {most} rollouts" if sample.rollouts < most else ""
    return (f"To keep this page small it holds {shown} of {total} prompts, evenly spread over each task's file{fewer}. "
            "Tables and figures are of all.") if shown < total or fewer else ""


def measured(panel: pd.DataFrame) -> dict[tuple[str, str, str, str], str]:
    """What the panel says of each prompt of each cell, by task, family, variant and prompt id."""
    keys = ["task", "model_name", "model_variant", "prompt_id"]
    columns = [*keys, "D", "CE", "N_bar", "R_bar"]
    return {(str(t), str(f), str(v), str(p)): f"D {d:.3f} · CE* {ce:.1f} nats · mean length {n:.1f} tokens · mean rate "
                                              f"{r:.2f} nats/token"
            for t, f, v, p, d, ce, n, r in panel[columns].itertuples(index=False, name=None)}


# --- one cell ---------------------------------------------------------------------------------------------------


def cell(run: Run, sample: Sample, facts: Mapping[tuple[str, str, str, str], str]) -> ShownRollouts:
    """The chosen rollouts of a run with their tokens' texts and terms."""
    config, wanted = run.config, set(sample.prompts[run.config.task])
    kept = [_kept(part, wanted, sample.rollouts) for part in run.parts()]
    rows, terms = (pa.concat_tables(tables) for tables in zip(*kept, strict=True))
    reader = tokens.reader(run)
    names, special, token = indexed(rows["token_ids"].to_pylist(), reader)
    here = (config.task, config.family, config.variant)
    return ShownRollouts(*here, prompts=_prompts(run, rows, here, facts), pieces=names, special=special, token=token,
                         length=rows["length"].to_numpy(),
                         stopped=rows["finish_reason"].to_numpy(zero_copy_only=False) == STOP,
                         texts=None if reader else tuple(rows["text"].to_pylist()),
                         **{name: terms[name].to_numpy() for name in terms.column_names})


def _kept(part: Run, prompts: Collection[str], rollouts: int) -> tuple[pa.Table, pa.Table]:
    """The rows and the terms of the first ``rollouts`` of these prompts in one part of a run."""
    index = part.rollouts(["prompt_id", "rollout", "length"])
    kept = np.isin(index["prompt_id"].to_numpy(zero_copy_only=False), list(prompts)) & (
        index["rollout"].to_numpy() < rollouts)
    read = part if kept.any() else part.only([])
    rows, terms = read.rollouts(["prompt_id", "rollout", "length", "finish_reason", "token_ids", "text"]), read.steps(
        ["entropy", "logprob", "stop_probability"])
    if kept.any():
        rows, terms = rows.filter(pa.array(kept)), terms.filter(pa.array(np.repeat(kept, index["length"].to_numpy())))
    return rows, terms


def _prompts(run: Run, rows: pa.Table, here: tuple[str, str, str],
             facts: Mapping[tuple[str, str, str, str], str]) -> tuple[ShownPrompt, ...]:
    ids = rows["prompt_id"].to_pylist()
    counts = {prompt_id: ids.count(prompt_id) for prompt_id in dict.fromkeys(ids)}
    return tuple(ShownPrompt(p.prompt_id, prompt_text(p.source), counts[p.prompt_id],
                             facts.get((*here, p.prompt_id), "")) for p in run.prompts() if p.prompt_id in counts)


def prompt_text(source: Any) -> str:
    """A prompt's source as text: chat messages with their roles, token ids as numbers."""
    if isinstance(source, str):
        return source
    if all(isinstance(part, Mapping) for part in source):
        return "\n\n".join(f"{part.get('role', '')}: {part.get('content', '')}" for part in source)
    return "token ids " + " ".join(map(str, source))


def indexed(rollouts: Sequence[Sequence[int]],
            reader: tokens.Reader | None) -> tuple[tuple[str, ...], tuple[int, ...], np.ndarray]:
    """The distinct (token, text) pairs' texts, which of them are special, and every token as an index into them."""
    found: dict[tuple[int, str], int] = {}
    index = []
    for ids in rollouts:
        split = reader.split(ids) if reader else [f"⟨{i}⟩" for i in ids]
        index += [found.setdefault((i, piece), len(found)) for i, piece in zip(ids, split, strict=True)]
    special = reader.special if reader else frozenset()
    return (tuple(piece for _, piece in found), tuple(n for n, (i, _) in enumerate(found) if i in special),
            np.array(index, dtype=np.int64))
