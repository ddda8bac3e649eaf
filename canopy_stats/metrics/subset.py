"""Measuring only some of a run's rollouts: which, and under what name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from canopy_stats.metrics.rollouts import prompt_codes
from canopy_stats.schema import UserError

if TYPE_CHECKING:
    from canopy_stats.store import Run

Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Selection:
    """The rollouts that are kept, (R,) aligned with ``run.rollouts()``, and what they are called in a panel's law."""

    kept: Flags
    label: str = "a selection of rollouts"


SelectionLike = Selection | Flags | pd.DataFrame


def selection_of(rollouts: SelectionLike, run: Run) -> Selection:
    """A selection from a boolean mask (R,) or a table with the columns prompt_id and rollout, whose rows are kept (of
    a table with a boolean column ``kept``, those where it holds). Each prompt must keep at least two rollouts."""
    chosen = rollouts if isinstance(rollouts, Selection) else Selection(
        _from_table(rollouts, run) if isinstance(rollouts, pd.DataFrame) else _mask(rollouts))
    table = run.rollouts(["prompt_id"])
    if chosen.kept.shape != (table.num_rows,):
        raise UserError(f"The selection says of {chosen.kept.size} rollouts whether they are kept, the run has "
                        f"{table.num_rows}: give one value for each row of run.rollouts().")
    code, ids = prompt_codes(table)
    few = np.flatnonzero(np.bincount(code[chosen.kept], minlength=len(ids)) < 2)
    if few.size:
        listed = ", ".join(ids[i] for i in few[:5]) + (", ..." if few.size > 5 else "")
        raise UserError(f"{few.size} prompt(s) keep fewer than two rollouts ({listed}); covariance and diversity need "
                        "two: keep more of each prompt.")
    return chosen


def _mask(values: Any) -> Flags:
    mask = np.asarray(values)
    if mask.ndim != 1 or mask.dtype != np.bool_:
        raise UserError(f"rollouts has shape {mask.shape} and type {mask.dtype}; give booleans (R,), or a table with "
                        "the columns prompt_id and rollout.")
    return mask


def _from_table(table: pd.DataFrame, run: Run) -> Flags:
    if missing := {"prompt_id", "rollout"} - set(table):
        raise UserError(f"The table of rollouts lacks {' and '.join(sorted(missing))}: it names each rollout by its "
                        "prompt_id and its index rollout.")
    rows = table[table["kept"].to_numpy(np.bool_)] if "kept" in table else table
    named = pd.MultiIndex.from_arrays([rows["prompt_id"].astype(str), rows["rollout"].astype(int)])
    there = run.rollouts(["prompt_id", "rollout"]).to_pandas()
    own = pd.MultiIndex.from_arrays([there["prompt_id"].astype(str), there["rollout"].astype(int)])
    if named.has_duplicates or not named.isin(own).all():
        raise UserError("The table of rollouts names some twice, or some that the run does not hold: make it from the "
                        "rollouts of this run.")
    return np.asarray(own.isin(named))
