"""Common support: the rates and lengths that base and tuned share within a task and family."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

TRIM = 0.025
"""A variant's values reach from this quantile to one minus it; its outermost prompts support nothing."""
LEAST_SHARE = 0.10
"""A cell answers for itself when at least this share of each variant's rows lies within the shared rates."""
LEAST_ROWS = 5
"""And at least so many rows of each variant."""
CELL = ["task", "model_name"]
ONE_VARIANT, NO_OVERLAP = "one variant only", "too few shared rates"


@dataclass(frozen=True)
class Support:
    """Which rows may be compared.

    ``table``, a row for each cell: task, model_name, rate_low and rate_high (nats/token; the shared rates), base_share
    and tuned_share (of the variant's rows within them), length_low and length_high (tokens, the shared lengths),
    matched (whether enough rows lie within both), kept, and why a cell is not. ``usable`` (n,): all rows of kept
    cells; ``near`` (n,): those within the rates that their cell shares; ``inside`` (n,): where the cell is matched,
    within the lengths as well; ``apart`` (n,): rows of kept cells that are not matched.
    """

    table: pd.DataFrame
    inside: np.ndarray
    near: np.ndarray
    usable: np.ndarray
    apart: np.ndarray

    @property
    def kept(self) -> pd.DataFrame:
        """The cells that are compared."""
        return self.table[self.table["kept"]]

    @property
    def enough(self) -> bool:
        """Whether at least half of the cells have common support."""
        return len(self.kept) > 0 and 2 * len(self.kept) >= len(self.table)

    @property
    def families(self) -> int:
        """Families with at least one compared cell."""
        return int(self.kept["model_name"].nunique())


def common_support(data: pd.DataFrame) -> Support:
    """Shared rates and lengths by cell, from R_bar, N_bar and ``tun`` (0 or 1)."""
    rows, (inside, near, usable, apart) = [], np.zeros((4, len(data)), dtype=bool)
    rate, length, tuned = (data[name].to_numpy(dtype=float) for name in ("R_bar", "N_bar", "tun"))
    for _, places in data.groupby([data[name].astype(str) for name in CELL], sort=True).indices.items():
        row, shared, at_rates = _shared(rate[places], length[places], tuned[places] > 0)
        rows.append({name: str(data[name].iloc[places[0]]) for name in CELL} | row)
        usable[places], near[places], inside[places] = row["kept"], at_rates & row["kept"], shared & row["kept"]
        apart[places] = row["kept"] and not row["matched"]
    return Support(pd.DataFrame(rows), inside, near, usable, apart)


def _shared(rate: np.ndarray, length: np.ndarray,
            tuned: np.ndarray) -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
    """A cell's row of the table, its rows (n,) within what its variants share, and those within the shared rates."""
    if tuned.all() or not tuned.any():
        nothing = dict.fromkeys(("rate_low", "rate_high", "length_low", "length_high"), np.nan)
        empty = {**nothing, "base_share": 0.0, "tuned_share": 0.0, "matched": False, "kept": False, "why": ONE_VARIANT}
        return empty, *np.zeros((2, len(rate)), dtype=bool)
    rates, lengths = _overlap(rate, tuned), _overlap(length, tuned)
    near = (rate >= rates[0]) & (rate <= rates[1])
    both = near & (length >= lengths[0]) & (length <= lengths[1])
    kept, matched = _suffices(near, tuned), _suffices(both, tuned)
    row = {"rate_low": rates[0], "rate_high": rates[1], "length_low": lengths[0], "length_high": lengths[1],
           "base_share": float(near[~tuned].mean()), "tuned_share": float(near[tuned].mean()), "matched": matched,
           "kept": kept, "why": "" if kept else NO_OVERLAP}
    return row, both if matched else near, near


def _overlap(values: np.ndarray, tuned: np.ndarray) -> tuple[float, float]:
    """Lowest and highest value that both variants reach; the first above the second where there is none."""
    ends = np.array([np.quantile(values[mask], [TRIM, 1 - TRIM]) for mask in (~tuned, tuned)])
    return float(ends[:, 0].max()), float(ends[:, 1].min())


def _suffices(inside: np.ndarray, tuned: np.ndarray) -> bool:
    """Whether enough rows of each variant are inside."""
    parts = (inside[~tuned], inside[tuned])
    return all(part.sum() >= LEAST_ROWS and part.mean() >= LEAST_SHARE for part in parts)
