"""How the entropy and length quantities of a run depend on its length cap, from stored terms alone."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import pandas as pd

from canopy_stats.metrics.pooling import pool, three_level
from canopy_stats.metrics.rollouts import RolloutTerms, StepTerms
from canopy_stats.metrics.tree import tree_metrics
from canopy_stats.schema import UserError

if TYPE_CHECKING:
    from canopy_stats.store import Run


def cap_curve(run: Run, caps: Iterable[int] | None = None) -> pd.DataFrame:
    """The run's pooled metrics as they would have been under smaller length caps: one row per cap, ascending.

    Columns: ``cap``, the names of :func:`canopy_stats.metrics.pool`, ``cov_between`` (between-prompt covariance of
    mean length and mean rate) and ``truncation_rate``. ``caps`` None halves the run's own cap down to 4 tokens.
    """
    drawn = run.config.policy.max_new_tokens
    wanted = halvings(drawn) if caps is None else sorted(set(caps))
    if not wanted or wanted[-1] > drawn:
        raise UserError(f"caps are {wanted}; give at least one, and none above {drawn}, the cap under which the "
                        "rollouts were drawn.")
    prompts: dict[int, list[dict[str, float]]] = {cap: [] for cap in wanted}
    for part in run.parts():
        steps = StepTerms.of(part)
        for cap in wanted:
            prompts[cap] += _of_prompts(steps.cut(cap))
    return pd.DataFrame([{"cap": cap, **_pooled(pd.DataFrame(prompts[cap]))} for cap in wanted])


def halvings(cap: int, smallest: int = 4) -> list[int]:
    """cap, cap/2, cap/4, ... down to ``smallest``, ascending."""
    halved = [cap]
    while halved[-1] // 2 >= smallest:
        halved.append(halved[-1] // 2)
    return halved[::-1]


def _of_prompts(terms: RolloutTerms) -> list[dict[str, float]]:
    return [{**tree_metrics(terms.length[rows], terms.entropy_sum[rows]), "rollouts": float(len(rows)),
             "stopped": float(terms.stopped[rows].sum())} for rows in terms.groups()]


def _pooled(prompts: pd.DataFrame) -> dict[str, float]:
    count = prompts["rollouts"].to_numpy()
    return {**pool(prompts, count), "cov_between": three_level(prompts)["cov_between"],
            "truncation_rate": float(1 - prompts["stopped"].sum() / count.sum())}
