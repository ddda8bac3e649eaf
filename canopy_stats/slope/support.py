"""Common support: the rates that base and tuned share within a task."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from canopy_stats.schema import UserError
from canopy_stats.slope.prepare import BASE

TRIM = 0.025
"""A variant's rates reach from this quantile to one minus it; its outermost prompts support nothing."""
LEAST_SHARE = 0.10
"""A task answers for itself when at least this share of each variant's rows lies within the shared rates."""
LEAST_ROWS = 10


@dataclass(frozen=True)
class Support:
    """``table``: task, low, high (nats/token), base_share, tuned_share, kept. ``inside`` (n,): rows within the shared
    rates of a kept task; ``usable`` (n,): all rows of kept tasks."""

    table: pd.DataFrame
    inside: np.ndarray
    usable: np.ndarray

    @property
    def kept(self) -> list[str]:
        """Tasks with enough common support."""
        return list(self.table.loc[self.table["kept"], "task"])

    @property
    def enough(self) -> bool:
        """Whether at least half of the tasks have enough of it."""
        return len(self.kept) > 0 and 2 * len(self.kept) >= len(self.table)


def common_support(data: pd.DataFrame) -> Support:
    """Shared rates by task. UserError where base and tuned have no rate in common in any task."""
    table = pd.DataFrame([_shared(str(task), rows) for task, rows in data.groupby("task", observed=True)])
    if (table["touch"] == 0).all():
        raise UserError("Not identified from common support: in no task do base and tuned have an entropy rate in "
                        "common, so no slope can be compared at matched rates. Add prompts on which they are alike, or "
                        "a checkpoint between the two.")
    place = table.set_index("task").loc[data["task"].astype(str).tolist()]
    rate = data["R_bar"].to_numpy()
    usable = place["kept"].to_numpy()
    inside = usable & (rate >= place["low"].to_numpy()) & (rate <= place["high"].to_numpy())
    return Support(table.drop(columns="touch"), inside, usable)


def _shared(task: str, rows: pd.DataFrame) -> dict[str, object]:
    is_base = (rows["model_variant"] == BASE).to_numpy()
    rates = [rows["R_bar"].to_numpy()[mask] for mask in (is_base, ~is_base)]
    if min(map(len, rates)) == 0:
        return {"task": task, "low": np.nan, "high": np.nan, "base_share": 0.0, "tuned_share": 0.0, "kept": False,
                "touch": 0}
    ends = np.array([np.quantile(r, [TRIM, 1 - TRIM]) for r in rates])
    low, high = ends[:, 0].max(), ends[:, 1].min()
    counts = [int(((r >= low) & (r <= high)).sum()) for r in rates]
    shares = [count / len(r) for count, r in zip(counts, rates, strict=True)]
    touch = int(max(r.min() for r in rates) <= min(r.max() for r in rates))
    kept = min(shares) >= LEAST_SHARE and min(counts) >= LEAST_ROWS
    return {"task": task, "low": low, "high": high, "base_share": shares[0], "tuned_share": shares[1], "kept": kept,
            "touch": touch}
