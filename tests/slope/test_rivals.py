"""Rival explanations: the one that made the data is found, and the pieces are right."""

import numpy as np
import pytest
import statsmodels.api as sm

import canopy_stats as cs
from canopy_stats.schema import UserError
from canopy_stats.slope.rivals import EXPLANATIONS, VARIANTS, _clustered, _folds, _fractional_logit

LAW = cs.Scenario(prompts=60, families=3, tasks=3, precision=60, length_effect=0.0)


def rivals(law, seed=1):
    return cs.slope_rivals(cs.simulate_panel(law, np.random.default_rng(seed)))


@pytest.mark.slow
def test_total_entropy_is_found_where_it_made_the_data():
    found = rivals(LAW.but(curve="total entropy", length_ratio=2.0))
    assert (found.simplest["explanation"], found.simplest["variant"]) == ("total entropy", "one law")
    assert "One shared law of total entropy explains base and tuned" in found.verdict == str(found)
    shared = found.table[found.table["variant"] == "one law"].set_index("explanation")
    assert shared.loc["total entropy", "r_squared"] > shared.loc[["rate", "length"], "r_squared"].max() + 0.05


@pytest.mark.slow
def test_a_tripled_slope_is_not_explained_by_one_law():
    found = rivals(LAW.but(difference=0.6))
    assert found.simplest["variant"] == "own levels and slopes" and "slope of the tuned variant's own" in found.verdict


@pytest.mark.slow
def test_the_rate_alone_suffices_where_it_made_the_data():
    found = rivals(LAW.but(curve="root", length_ratio=2.0))
    assert (found.simplest["explanation"], found.simplest["variant"]) == ("rate", "one law")
    assert "No slope of the tuned variant's own is needed" in found.verdict


@pytest.mark.slow
def test_table_has_every_rival_and_an_order():
    found = rivals(LAW.but(prompts=20))
    assert len(found.table) == len(EXPLANATIONS) * len(VARIANTS)
    best = found.table["rmse"].idxmin()
    assert found.table.loc[best, "estimate"] == 0 == found.table["estimate"].min() and found.table["suffices"][best]
    levels = found.table[found.table["explanation"] == "levels alone"].iloc[0]
    assert levels["r_squared"] == 0 and levels["parameters"] == 9
    assert found.simplest["parameters"] <= found.best["parameters"]


def test_fractional_logit_is_statsmodels():
    rng = np.random.default_rng(0)
    x = np.column_stack([np.ones(200), rng.standard_normal((200, 2))])
    y = rng.beta(2, 3, 200).round(1)
    expected = sm.GLM(y, x, family=sm.families.Binomial()).fit().params
    np.testing.assert_allclose(_fractional_logit(x, y), expected, atol=1e-6)


def test_prompts_stay_together_and_are_clusters():
    panel = cs.simulate_panel(LAW.but(prompts=25), np.random.default_rng(0))
    fold = _folds(panel, 5, np.random.default_rng(1))
    assert (panel.assign(fold=fold).groupby("prompt_uid")["fold"].nunique() == 1).all()
    assert panel.assign(fold=fold).groupby(["task", "fold"])["prompt_uid"].nunique().eq(5).all()
    by_prompt = np.random.default_rng(2).standard_normal(75)
    codes = panel["prompt_uid"].astype("category").cat.codes.to_numpy()
    mean, error = _clustered(by_prompt[codes], panel["prompt_uid"])
    assert mean == pytest.approx(by_prompt.mean()) and error == pytest.approx(by_prompt.std(ddof=1) / np.sqrt(75))


def test_refusals():
    panel = cs.simulate_panel(LAW.but(prompts=6), np.random.default_rng(0))
    with pytest.raises(UserError, match="folds is 10 and a task has 6 prompts"):
        cs.slope_rivals(panel)
    with pytest.raises(UserError, match="3 rows have an entropy rate of zero"):
        cs.slope_rivals(panel.assign(R_bar=panel["R_bar"].where(panel.index > 2, 0.0)), folds=3)
