"""What the tests with vLLM share: the birch models, prompts, laws, and both engines over them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from canopy_stats.generation.plain import plain_logits
from canopy_stats.generation.plain_law import law_terms
from canopy_stats.schema import STEP_TERMS, Prompt, Rollout, RunKey, SamplingPolicy

ROOT = Path(__file__).parents[3]
BASE, TUNED = ROOT / "data/models/birch/base", ROOT / "data/models/birch/instruct"
EAGER = {"enforce_eager": True}
"""Compiling a model this small takes longer than everything else."""
KEY = RunKey(3, "birch", "base")
CAP = 160
LAWS = {"full": SamplingPolicy(max_new_tokens=CAP), "top-k": SamplingPolicy(top_k=100, max_new_tokens=CAP),
        "mixed": SamplingPolicy(temperature=0.8, top_k=200, top_p=0.95, min_p=0.01, max_new_tokens=CAP)}
Pair = tuple[int, int]


def prompts(engine, count: int, task: str = "stories") -> list[Prompt]:
    lines = (ROOT / f"data/prompts/{task}.jsonl").read_text().splitlines()[:count]
    texts = [json.loads(line)["prompt"] for line in lines]
    return [Prompt(str(i), f"hash {i}", text, engine.encode(text)) for i, text in enumerate(texts)]


def pairs(n_prompts: int, n_rollouts: int) -> list[Pair]:
    return [(p, r) for p in range(n_prompts) for r in range(n_rollouts)]


def by_pair(drawn: Iterable[Rollout]) -> dict[Pair, Rollout]:
    return {(r.prompt_index, r.rollout): r for r in drawn}


def flips(ours: dict[Pair, Rollout], theirs: dict[Pair, Rollout]) -> int:
    """Rollouts that are not the same tokens with the same end."""
    assert set(ours) == set(theirs)
    return sum(a.token_ids.tolist() != theirs[p].token_ids.tolist() or a.finish_reason != theirs[p].finish_reason
               for p, a in ours.items())


def apart(ours: dict[Pair, Rollout], theirs: dict[Pair, Rollout]) -> float:
    """The largest difference of a term between rollouts of the same tokens."""
    same = [(a, theirs[p]) for p, a in ours.items() if a.token_ids.tolist() == theirs[p].token_ids.tolist()]
    return max(float(np.abs(a.steps[t] - b.steps[t]).max()) for a, b in same for t in STEP_TERMS)


def from_transformers(model, asked: list[Prompt], drawn: dict[Pair, Rollout], end_ids,
                      policy: SamplingPolicy) -> tuple[float, int, int]:
    """The largest difference of a term from plain transformers, steps at a filter boundary (left out), all steps."""
    worst, near, steps = 0.0, 0, 0
    for (prompt, _), rollout in drawn.items():
        logits = plain_logits(model, asked[prompt].token_ids, rollout.token_ids).float().numpy()
        want = law_terms(logits, rollout.token_ids, end_ids, policy, prompt_ids=asked[prompt].token_ids)
        near, steps = near + int(want.near.sum()), steps + len(want.near)
        worst = max(worst, *(float(np.abs(rollout.steps[t] - want.steps[t])[~want.near].max(initial=0))
                             for t in STEP_TERMS))
    return worst, near, steps
