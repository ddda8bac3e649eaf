"""What every row of a panel must be, whoever made it: named, there once, and with numbers that can be.

It stands below the models and the panel's own module, so that no door to either takes rows without it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from canopy_stats.schema import UserError

KEYS = ("task", "prompt_uid", "model_name", "model_variant")
"""A panel has one row for each value of these."""
LARGEST = {"R_bar": 1e4, "N_bar": 1e12, "D": 1e4, "CE": 1e15}
"""Beyond these no entropy rate (nats/token), length (tokens), diversity or entropy lies."""
LOST = ("", "nan", "NaN", "None", "<NA>", "NaT")
"""What a missing name becomes when somebody turns it into text."""
_SHOWN = 5


def check_rows(panel: pd.DataFrame, keys: Sequence[str] = KEYS) -> None:
    """UserError for a name that is missing (also as the text 'nan'), for rows that repeat their names, and for numbers
    that no measurement gives. Columns that are not there are not looked at: whoever needs one says so."""
    if not isinstance(panel, pd.DataFrame):
        raise UserError(f"The panel is a {type(panel).__name__}; give a pandas DataFrame, such as canopy_stats.panel() "
                        "makes, or read one with canopy_stats.panels.read_panel.")
    if not panel.columns.is_unique:
        twice = panel.columns[panel.columns.duplicated()]
        raise UserError(f"The panel has the column {str(twice[0])!r} twice; keep one of them.")
    named = [name for name in keys if name in panel]
    for name in named:
        _refuse_lost(panel, name)
    if len(named) == len(keys):
        _refuse_repeated(panel, named)
    for name, bound in LARGEST.items():
        if name in panel:
            _refuse_impossible(panel, name, bound)


def _refuse_lost(panel: pd.DataFrame, name: str) -> None:
    lost = (panel[name].isna() | panel[name].astype("object").isin(LOST)).to_numpy(dtype=bool)
    if lost.any():
        raise UserError(f"{name} is missing in {int(lost.sum())} row(s) of the panel ({_rows(panel, lost)}). Name "
                        "them, or leave these rows out.")


def _refuse_repeated(panel: pd.DataFrame, keys: Sequence[str]) -> None:
    repeated = panel[panel.duplicated(list(keys))]
    if len(repeated):
        shown = [name for name in ("model_name", "model_variant", "prompt_uid") if name in panel]
        names = ["/".join(map(str, row)) for row in repeated[shown].head(_SHOWN).itertuples(index=False, name=None)]
        more = ", ..." if len(repeated) > _SHOWN else ""
        raise UserError(f"{len(repeated)} row(s) repeat the same task, prompt, family and variant: {', '.join(names)}"
                        f"{more}. Give each run once, or name families and variants apart.")


def _refuse_impossible(panel: pd.DataFrame, name: str, bound: float) -> None:
    values = pd.to_numeric(panel[name], errors="coerce").to_numpy(dtype=float)
    wrong = np.isfinite(values) & (np.abs(values) > bound)
    if wrong.any():
        raise UserError(f"{name} is {values[wrong][0]:g} ({_rows(panel, wrong)}): no measurement gives that. Correct "
                        "it, or leave the row out.")


def _rows(panel: pd.DataFrame, where: np.ndarray) -> str:
    labels = [str(label) for label in panel.index[where][:_SHOWN]]
    return f"row {', '.join(labels)}{', ...' * bool(where.sum() > _SHOWN)}"
