"""Checks of a panel before a slope is fitted, and the columns that the models add to it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from canopy_stats.schema import UserError
from canopy_stats.slope.columns import BASE, with_columns

NEEDED = ("task", "prompt_uid", "model_name", "model_variant", "D", "R_bar", "N_bar")
FEWEST_PROMPTS = 10
SQUEEZE = 1e-6
"""Responses of the beta models are moved into [SQUEEZE, 1 - SQUEEZE]; the moved rows are counted."""


@dataclass(frozen=True)
class PreparedPanel:
    """A checked panel with the columns of :func:`~canopy_stats.slope.columns.with_columns`, its tuned variant, what was
    left out, the factors that have one level only, and ``rate_sd`` (nats/token), what R_sc divides by."""

    data: pd.DataFrame
    tuned: str
    notes: tuple[str, ...]
    single: frozenset[str]
    rate_sd: float


def prepare(panel: pd.DataFrame, response: str = "D") -> PreparedPanel:
    """Check a panel and add the models' columns. UserError says what is missing, constant or too small."""
    _refuse_columns(panel, response)
    _refuse_values(panel, response)
    tuned = _tuned_variant(panel)
    _refuse_few_prompts(panel)
    single = frozenset(name for name in ("task", "model_name") if panel[name].nunique() == 1)
    notes = tuple(f"{name} has one level ({panel[name].iloc[0]}); its term is left out." for name in sorted(single))
    return PreparedPanel(with_columns(panel), tuned, notes, single, float(panel["R_bar"].std()))


def _refuse_columns(panel: pd.DataFrame, response: str) -> None:
    wanted = dict.fromkeys([*NEEDED[:4], response, *NEEDED[5:]])
    lacking = [name for name in wanted if name not in panel.columns]
    if lacking:
        raise UserError(f"The panel lacks {', '.join(lacking)}; make it with canopy_stats.panel or rename its columns.")
    if panel.empty:
        raise UserError("The panel has no rows: was it filtered to nothing?")


def _refuse_values(panel: pd.DataFrame, response: str) -> None:
    for name in (response, "R_bar", "N_bar"):
        values = pd.to_numeric(panel[name], errors="coerce").to_numpy(dtype=float)
        bad = ~np.isfinite(values)
        if bad.any():
            rows = ", ".join(str(label) for label in panel.index[bad][:5])
            what = "NaN" if np.isnan(values[bad]).any() else "infinite"
            raise UserError(f"{name} is missing ({what}) in row {rows}{', ...' * bool(bad.sum() > 5)}. Measure these "
                            "again or leave them out by name.")
        if np.ptp(values) == 0:
            raise UserError(f"{name} is constant ({values[0]:g}) in this panel, so it has no slope. Is the column the "
                            "right one?")
    if (panel["N_bar"] <= 0).any() or (panel["R_bar"] < 0).any():
        raise UserError("R_bar must not be negative and N_bar must be positive: lengths count the end token.")


def _tuned_variant(panel: pd.DataFrame) -> str:
    variants = sorted(str(v) for v in panel["model_variant"].unique())
    if BASE not in variants or len(variants) != 2:
        raise UserError(
            f"model_variant has {', '.join(variants)}; a slope change needs '{BASE}' and one fine-tuned variant."
            " Select the rows of two variants, rename the reference one, or compare several by slope_contrasts."
        )
    return next(v for v in variants if v != BASE)


def _refuse_few_prompts(panel: pd.DataFrame) -> None:
    prompts = panel["prompt_uid"].nunique()
    if prompts < FEWEST_PROMPTS:
        raise UserError(f"The panel has {prompts} prompts; a slope needs at least {FEWEST_PROMPTS}, and a hundred a "
                        "task are better. Generate more prompts.")
