"""No door takes rows that are nameless, there twice, or impossible."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import canopy_stats as cs
from canopy_stats.panel_rows import check_rows
from canopy_stats.panels import validate
from canopy_stats.schema import UserError

DOORS = {
    "fit": lambda panel: cs.slope_change(panel, model="interaction"),
    "table": cs.slope_table,
    "scrutinise": lambda panel: cs.slope_scrutiny(panel, paper="interaction"),
    "curve": lambda panel: cs.specification_curve(panel, choices={"model": ["linear"], "response": ["D"]}),
    "power": lambda panel: cs.slope_power(panel, effect=0.1, prompts=[20], rollouts=[5], method="closed",
                                          model="interaction"),
    "contrasts": lambda panel: cs.slope_contrasts(panel, model="interaction"),
    "panel": validate,
}


@pytest.fixture(scope="module")
def panel():
    return cs.load_demo_panel()


def without_name(panel, value):
    broken = panel.astype({"task": "object"})
    broken.loc[broken.index[3], "task"] = value
    return broken


@pytest.mark.parametrize("door", DOORS.values(), ids=DOORS)
def test_a_repeated_row_is_refused_at_every_door(panel, door):
    with pytest.raises(UserError, match=r"2400 row\(s\) repeat the same task, prompt, family and variant"):
        door(pd.concat([panel] * 2, ignore_index=True).iloc[: 2 * len(panel)])


@pytest.mark.parametrize("door", DOORS.values(), ids=DOORS)
@pytest.mark.parametrize("value", [None, np.nan, "nan", "None", "<NA>", ""])
def test_a_missing_name_is_refused_at_every_door(panel, door, value):
    with pytest.raises(UserError, match=r"task is missing in 1 row\(s\) of the panel \(row 3\)"):
        door(without_name(panel, value))


@pytest.mark.parametrize("door", DOORS.values(), ids=DOORS)
def test_an_impossible_number_is_refused_at_every_door(panel, door):
    with pytest.raises(UserError, match=r"R_bar is [\d.e+]+ .*no measurement gives that"):
        door(panel.assign(R_bar=panel["R_bar"] * 1e200))


def test_a_prompt_may_be_called_na(panel):
    check_rows(panel.assign(prompt_id="NA"))


@pytest.mark.parametrize(("broken", "words"), [
    ([1, 2], "The panel is a list"),
    (pd.DataFrame([[1, 2]], columns=["D", "D"]), "the column 'D' twice")])
def test_what_is_no_panel(broken, words):
    with pytest.raises(UserError, match=words):
        check_rows(broken)
