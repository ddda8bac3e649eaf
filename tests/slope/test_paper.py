import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import canopy_stats as cs
from canopy_stats.schema import UserError
from canopy_stats.slope.models import TABLE

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="module")
def panel():
    return pd.read_csv(GOLDEN / "panels" / "panel_a.csv.gz")


@pytest.fixture(scope="module")
def table(panel):
    return cs.slope_table(panel).set_index("model")


def test_interaction_slopes_are_lme4s(table):
    """lme4's estimates of the interaction model (tests/golden/reference_fits.json, a.lmm_interaction)."""
    row = table.loc["interaction"]
    assert row["base_slope"] == pytest.approx(0.07101487268059, rel=1e-6)
    assert row["estimate"] == pytest.approx(0.09389421194798, rel=1e-6)
    assert row["std_error"] == pytest.approx(0.008042542996132, rel=1e-5)
    assert row["ratio"] == pytest.approx((0.07101487268059 + 0.09389421194798) / 0.07101487268059, rel=1e-6)
    assert row["ratio_kind"] == "bounded" and row["ratio_conf_low"] < row["ratio"] < row["ratio_conf_high"]
    assert row["p_value"] == pytest.approx(2 * stats.t.sf(0.09389421194798 / 0.008042542996132, 2085.2), rel=1e-3)


def test_main_model_has_one_slope(table):
    row = table.loc["main"]
    assert row["base_slope"] == row["tuned_slope"] == pytest.approx(0.06028798512654, rel=1e-6)
    assert np.isnan(row["estimate"]) and np.isnan(row["ratio"]) and row["ratio_kind"] == "not modelled"


def test_quadratic_is_tested_against_the_interaction(panel, table):
    row = table.loc["quadratic"]
    formula = "D ~ R_bar*model_variant + N_bar + task + model_name + (1|prompt_uid)"
    linear = cs.lmm(formula, panel, reml=False)
    centred = panel.assign(R_c=panel["R_bar"] - panel["R_bar"].mean())
    full = cs.lmm(formula.replace("R_bar*", "(R_c + I(R_c**2))*"), centred, reml=False)
    assert row["lrt_chi2"] == pytest.approx(2 * (full.llf - linear.llf), abs=1e-6)
    assert row["lrt_df"] == 2 and row["lrt_p"] == pytest.approx(stats.chi2.sf(row["lrt_chi2"], 2))
    assert table["lrt_p"].notna().sum() == 1


def test_slope_change_says_what_it_is(panel):
    change = cs.slope_change(panel, model="interaction")
    low, high = change.ratio.interval
    assert change.identified and change.ratio.interval.kind == "bounded" and low < change.ratio.estimate < high
    assert change.tuned.estimate == pytest.approx(change.base.estimate + change.difference.estimate)
    assert change.ratio.pvalue == change.difference.pvalue < 1e-9
    assert "the slopes differ" in change.verdict
    for text in (change.verdict, change.estimand):
        assert "Curvature" in text and "Measurement error" in text


def test_slope_of_one_family_and_one_task(panel):
    one = panel[(panel["model_name"] == "Qwen3-8b") & (panel["task"] == "stories")]
    table = cs.slope_table(one)
    assert table.attrs["notes"] == ["model_name has one level (Qwen3-8b); its term is left out.",
                                    "task has one level (stories); its term is left out."]
    assert table["nobs"].eq(200).all() and np.isfinite(table["base_slope"]).all()
    expected = cs.lmm("D ~ R_bar*model_variant + N_bar + (1|prompt_uid)", one)
    assert cs.slope_change(one, model="interaction").base.estimate == pytest.approx(expected.params["R_bar"])
    formula = TABLE["main"].formula(frozenset({"model_name"}))
    assert formula == "D ~ R_bar + N_bar + task + model_variant + (1|prompt_uid)"


@pytest.mark.parametrize(("change", "message"), [
    (lambda p: p.drop(columns="N_bar"), "lacks N_bar"),
    (lambda p: p[p["model_variant"] == "base"], "model_variant has base; a slope change needs"),
    (lambda p: p.replace({"model_variant": {"base": "plain"}}), "has instruct, plain; a slope change needs 'base'"),
    (lambda p: p.assign(model_variant=["rl", *p["model_variant"][1:]]), "has base, instruct, rl"),
    (lambda p: p.assign(R_bar=[np.nan, *p["R_bar"][1:]]), r"R_bar is missing \(NaN\) in row 0"),
])
def test_bad_panels(panel, change, message):
    with pytest.raises(UserError, match=message):
        cs.slope_change(change(panel))


def test_unknown_model(panel):
    with pytest.raises(UserError, match="choose one of main, .*, paper_beta, .*, robust"):
        cs.slope_change(panel, model="cubic")


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_few_prompts_have_an_answer_or_none_and_never_half_a_one(seed):
    """12 prompts of two families: one panel's likelihood has no maximum; the others' modes are far from zero."""
    law = cs.Scenario(families=2, tasks=1, prompts=12, reaction_slope_sd=0.4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = cs.slope_change(cs.simulate_panel(law, np.random.default_rng(seed)), model="paper_beta")
    assert found.identified == (seed != 0)
    assert found.identified == bool(np.isfinite(found.difference.interval).all())
    assert found.identified == ("no maximum" not in found.verdict) and "nan" not in found.verdict
