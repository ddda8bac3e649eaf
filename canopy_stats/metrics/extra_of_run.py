"""What the measures on request read of a run: verdicts, likelihoods and rewards, prompt by prompt."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from canopy_stats.metrics.extra import AskedMeasure, Judged, OnePrompt
from canopy_stats.metrics.judge import JudgeLike, judged_by
from canopy_stats.metrics.judging.comparisons import MISSING, SAME
from canopy_stats.schema import UserError

if TYPE_CHECKING:
    from canopy_stats.store import Run

Floats = NDArray[np.float64]
JudgeOrSpec = JudgeLike | Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Material:
    """What was given for the measures on request beside the embeddings: a judge (or a mapping that describes one), and
    rewards: a reward model's folder or name, or the table that :func:`canopy_stats.reward` gives."""

    judge: JudgeOrSpec | None = None
    reward: Any = None


def extra_columns(run: Run, asked: Sequence[AskedMeasure], prompts: Iterable[tuple[Floats, Floats | None]],
                  material: Material) -> pd.DataFrame:
    """A row for each prompt, in order; ``prompts`` has each one's lengths (M,) and unit embeddings (M, d)."""
    reads = any("judge" in one.kind.needs for one in asked)
    judged = list(_judged(run, material, any("reward" in one.kind.needs for one in asked))) if reads else None
    rows = []
    for place, (length, unit) in enumerate(prompts):
        prompt = OnePrompt(length, unit, judged[place] if judged else None)
        rows.append({name: value for one in asked for name, value in one.of(prompt).items()})
    return pd.DataFrame(rows)


def _judged(run: Run, material: Material, scored: bool) -> Iterator[Judged]:
    assert material.judge is not None
    table = judged_by(run, material.judge)
    rows = run.rollouts(["prompt_uid", "rollout", "surprisal_sum", "length", "token_ids"]).to_pandas()
    if scored:
        rows["reward"] = _rewards(run, material.reward)
    by_prompt = {uid: own.set_index("rollout") for uid, own in rows.groupby("prompt_uid", sort=False)}
    for one in table.select(["prompt_uid", "rollouts", "verdicts"]).to_pylist():
        own = by_prompt[one["prompt_uid"]].loc[one["rollouts"]]
        verdicts = np.array(one["verdicts"], np.int8).reshape(len(own), len(own))
        yield Judged(verdicts == SAME, -own["surprisal_sum"].to_numpy(np.float64), own["length"].to_numpy(np.float64),
                     [tuple(ids) for ids in own["token_ids"]],
                     own["reward"].to_numpy(np.float64) if scored else None, not bool((verdicts == MISSING).any()))


def _rewards(run: Run, reward: Any) -> Floats:
    """Rewards (R,) of the run's rollouts, in their order."""
    from canopy_stats.metrics.reward import reward as scores

    table = reward if isinstance(reward, pd.DataFrame) else scores(run, reward, progress=False)
    own = run.rollouts(["prompt_id", "rollout"]).to_pandas()
    found = own.merge(table[["prompt_id", "rollout", "reward"]], on=["prompt_id", "rollout"], how="left",
                      validate="one_to_one")["reward"]
    if found.isna().any():
        raise UserError(f"{int(found.isna().sum())} rollout(s) of {run.path} have no reward: score this run with "
                        "canopy_stats.reward.")
    return np.asarray(found, np.float64)
