"""The specification curve is the fits one would run by hand, counted without losing any."""

from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from scipy import stats

import canopy_stats as cs
from canopy_stats.slope import curve as curves
from canopy_stats.slope.columns import with_columns
from canopy_stats.slope.curve import agreement, specification_curve
from canopy_stats.slope.simulate import Scenario, simulate_panel
from canopy_stats.slope.specifications import make_grid, shared_rates

SMALL = {"response": ["D"], "length": ["log"], "task": ["fixed"], "family": ["fixed"], "slopes": ["same"]}


@pytest.fixture(scope="module")
def panel():
    rng = np.random.default_rng(5)
    made = simulate_panel(Scenario(families=2, tasks=2, prompts=30, difference=0.2), rng)
    return made.assign(M=10, VS=1 + 9 * np.clip(made["D"] + rng.normal(0, 0.03, len(made)), 0.01, 0.99),
                       RSE=np.log(8) * np.clip(made["D"] + rng.normal(0, 0.1, len(made)), 0, 1), rse_m=8)


@pytest.fixture(scope="module")
def by_hand(panel):
    """The panel with the standardised columns, made here."""
    scale = lambda x: (x - x.mean()) / x.std()  # noqa: E731
    return panel.assign(R_sc=scale(panel["R_bar"]), invN_sc=scale(1 / panel["N_bar"]),
                        logN_sc=scale(np.log(panel["N_bar"])))


@pytest.fixture(scope="module")
def small(panel):
    return specification_curve(panel, choices=SMALL)


def only(table, **choices):
    rows = table
    for name, option in choices.items():
        rows = rows[rows[name] == option]
    assert len(rows) == 1
    return rows.iloc[0]


@pytest.mark.slow
def test_the_grid_is_every_combination_once(panel, small):
    assert len(small.table) == 2 * 2 * 2 and small.table["spec"].tolist() == list(range(8))
    assert not small.table.duplicated(["model", "rate", "support"]).any()
    assert len(make_grid({"a": panel}).specifications) == 3 * 2 * 2 * 3 * 3 * 2 * 2 * 2


@pytest.mark.slow
def test_paper_model_is_the_direct_glmm(panel, by_hand):
    curve = specification_curve(panel, choices={
        "response": ["D", "Vendi", "RSE"], "model": ["beta"], "rate": ["straight"], "length": ["spline"],
        "task": ["fixed"], "family": ["random"], "slopes": ["same"], "support": ["all"]})
    formula = "R_sc*model_variant + ns(invN_sc, 4)*model_variant + task + (1|prompt_uid) + (1|model_name)"
    length = {"D": "ns(invN_sc, 3)", "RSE": "ns(invN_sc, 3)", "Vendi": "ns(invN_sc, 4)*model_variant"}
    y = {"D": by_hand["D"], "Vendi": (by_hand["VS"] - 1) / 9, "RSE": by_hand["RSE"] / np.log(8)}
    for response, values in y.items():
        fit = cs.glmm(f"y ~ {formula}", by_hand.assign(y=values), squeeze=1e-6, reference={"model_variant": "base"},
                      dispersion=f"~ model_variant*task + {length[response]} + R_sc*model_variant + model_name")
        row = only(curve.table, response=response)
        assert row["paper"] and row["native_scale"] == "logit per SD of the rate"
        name = "R_sc:model_variant[T.tuned]"
        assert row["native"] == pytest.approx(fit.params[name], abs=1e-6)
        assert row["native_std_error"] == pytest.approx(fit.bse[name], rel=1e-5)
        assert row["statistic"] == pytest.approx(row["native"] / row["native_std_error"])
        factor = (values * (1 - values)).mean() / values.std()
        assert row["estimate"] == pytest.approx(factor * row["native"])
        assert row["squeezed"] == (~values.between(1e-6, 1 - 1e-6)).sum()
    assert only(curve.table, response="RSE")["squeezed"] > 0


@pytest.mark.slow
def test_linear_rows_are_lmms_on_their_rows(small, by_hand):
    inside = shared_rates(with_columns(by_hand))
    for rate, extra in (("straight", ""), ("smooth", "+ ns(R_sc, 4)")):
        for support, rows in (("all", by_hand), ("shared", by_hand[inside])):
            with pytest.warns() if extra else nullcontext():
                fit = cs.lmm(f"D ~ R_sc*model_variant {extra} + logN_sc + task + model_name + (1|prompt_uid)", rows,
                             reference={"model_variant": "base"})
            row = only(small.table, model="linear", rate=rate, support=support)
            name = "R_sc:model_variant[T.tuned]"
            assert row["native"] == pytest.approx(fit.params[name], rel=1e-6) and row["n"] == len(rows)
            assert row["p_value"] == pytest.approx(fit.pvalues[name], rel=1e-3)
            assert row["estimate"] == pytest.approx(fit.params[name] / by_hand["D"].std(), rel=1e-6)
            low, high = fit.conf_int().loc[name] / by_hand["D"].std()
            assert (row["conf_low"], row["conf_high"]) == (pytest.approx(low, rel=1e-4), pytest.approx(high, rel=1e-4))
    assert 0 < inside.sum() < len(by_hand)


@pytest.mark.slow
def test_a_linear_row_is_statsmodels_too(small, by_hand):
    found = smf.mixedlm("D ~ R_sc*C(model_variant) + logN_sc + task + model_name", by_hand,
                        groups=by_hand["prompt_uid"]).fit(reml=True)
    row = only(small.table, model="linear", rate="straight", support="all")
    name = "R_sc:C(model_variant)[T.tuned]"
    assert row["native"] == pytest.approx(found.params[name], rel=1e-4)
    assert row["native_std_error"] == pytest.approx(found.bse[name], rel=1e-3)


def test_varying_slopes_enter_by_task_and_family(panel, by_hand):
    curve = specification_curve(panel, choices={**SMALL, "slopes": ["vary"], "model": ["linear"], "rate": ["straight"],
                                                "support": ["all"]})
    rows = by_hand.assign(R_tuned=by_hand["R_sc"] * (by_hand["model_variant"] == "tuned"))
    fit = cs.lmm("D ~ R_sc*model_variant + logN_sc + task + model_name + (1|prompt_uid) + (0 + R_sc + R_tuned || task)"
                 " + (0 + R_sc + R_tuned || model_name)", rows, reference={"model_variant": "base"})
    row = curve.table.iloc[0]
    assert row["native"] == pytest.approx(fit.params["R_sc:model_variant[T.tuned]"], rel=1e-5)
    assert row["native_std_error"] == pytest.approx(fit.bse["R_sc:model_variant[T.tuned]"], rel=1e-4)


def test_shared_rates_are_those_of_the_robust_slope(panel):
    from canopy_stats.slope.support import common_support

    data = with_columns(panel)
    support = common_support(data)
    keys = ["task", "model_name"]
    ends = panel.groupby([*keys, "model_variant"])["R_bar"].quantile([0.025, 0.975]).unstack()
    low, high = (ends[q].groupby(keys).agg(how) for q, how in ((0.025, "max"), (0.975, "min")))
    at = pd.MultiIndex.from_frame(panel[keys])
    inside = panel["R_bar"].between(low.loc[at].to_numpy(), high.loc[at].to_numpy())
    assert support.table["kept"].all() and inside.tolist() == shared_rates(data).tolist() == support.near.tolist()
    assert support.inside.sum() < inside.sum() < len(panel) and not (support.inside & ~inside).any()


@pytest.mark.slow
def test_paper_rows_are_the_papers_models(panel):
    curve = specification_curve(panel, choices={**SMALL, "response": ["D", "Vendi", "RSE"], "length": ["spline"],
                                                "family": ["random"], "model": ["beta"], "rate": ["straight"],
                                                "support": ["all"]})
    for response, model in (("D", "paper_beta"), ("Vendi", "paper_vendi"), ("RSE", "paper_rse")):
        found = cs.slope_change(panel, model=model)
        row = only(curve.table, response=response)
        assert row["paper"] and row["native"] == pytest.approx(found.difference.estimate, abs=1e-6)
        assert row["native_std_error"] == pytest.approx(found.difference.se, rel=1e-4)


@pytest.mark.slow
def test_agreement_counts_what_the_table_says(small):
    table = small.table.copy()
    table.loc[0, ["estimate", "p_value"]] = [-0.4, 0.001]
    table.loc[1, "usable"] = False
    table.loc[2:, "p_value"] = [0.2, 0.049, 0.051, 0.9, 0.001, 0.001]
    counted = agreement(table).set_index(["choice", "option"])
    good = table[table["usable"]]
    whole = counted.loc[("all", "all")]
    assert (whole["n"], whole["usable"], whole["negative"], whole["significant_negative"]) == (8, 7, 1, 1)
    assert whole["positive"] == (good["estimate"] > 0).sum() == 6
    assert (whole["significant_positive"], whole["not_significant"]) == (3, 3)
    assert agreement(table, 0.9).iloc[0]["significant_positive"] == 4
    assert whole["agree"] == pytest.approx(6 / 7) and whole["median"] == pytest.approx(good["estimate"].median())
    for name in ("model", "rate", "support"):
        parts = counted.loc[name]
        assert (parts[["n", "usable", "positive", "not_significant"]].sum()
                == whole[["n", "usable", "positive", "not_significant"]]).all()
    assert set(counted.index.get_level_values(0)) == {"all", "model", "rate", "support"}


@pytest.mark.slow
def test_words_tell_the_counts_and_what_was_left_out(small):
    whole = small.agreement.iloc[0]
    assert f"In {whole['positive']} of 8 specifications the slope is larger" in small.words
    assert f"{whole['median']:.2f} SD of the response per SD of the rate" in small.words
    assert "they are no test" in small.words


def test_failed_fits_are_rows_with_a_reason(panel):
    choices = {**SMALL, "model": ["linear", "beta"], "rate": ["straight"], "support": ["all"],
               "length": {"broken": "nothing_here", "log": "logN_sc"}}
    curve = specification_curve(panel, choices=choices)
    failed = curve.table[curve.table["length"] == "broken"]
    assert len(curve.table) == 4 and len(failed) == 2 and not failed["usable"].any()
    assert failed["reason"].str.contains("nothing_here").all() and failed["estimate"].isna().all()
    assert (failed["n"] == len(panel)).all() and "2 of 4 could not be used" in curve.words
    with pytest.raises(cs.UserError, match="nothing_here"):
        curve.fit(int(failed["spec"].iloc[0]))


def test_aliased_interaction_is_not_usable(panel):
    """Rates that do not vary within the tuned rows leave no slope there."""
    flat = panel.assign(R_bar=panel["R_bar"].where(panel["model_variant"] == "base", 0.4))
    curve = specification_curve(flat, choices={**SMALL, "model": ["linear"], "rate": ["straight"], "support": ["all"]})
    assert not curve.table["usable"].any() and "cannot be told from" in curve.table["reason"].iloc[0]
    assert "None of the 1 specifications" in curve.words


def test_a_fit_short_of_its_optimum_is_named(panel, monkeypatch):
    grid = make_grid({"a": panel}, {**SMALL, "model": ["beta"], "rate": ["straight"], "support": ["all"]})
    fit = curves.fit_specification(grid, grid.specifications[0])
    short = replace(fit, evidence=replace(fit.certificate, distance=0.5))
    monkeypatch.setattr(curves, "fit_specification", lambda *_: short)
    row = curves._row(grid, 0, 0.95)
    assert not row["usable"] and not row["converged"] and "not certified: NOT converged" in row["reason"]
    assert row["estimate"] > 0 and row["distance"] == 0.5


@pytest.mark.slow
def test_workers_do_not_change_the_answer(panel, small):
    again = specification_curve(panel, choices=SMALL, workers=2)
    pd.testing.assert_frame_equal(again.table.drop(columns="seconds"), small.table.drop(columns="seconds"))


def test_own_terms_and_responses(panel):
    curve = specification_curve(panel, choices={
        **SMALL, "response": {"D": lambda p: p["D"], "logit": lambda p: np.log(p["D"] / (1 - p["D"]))},
        "model": ["linear"], "rate": "straight", "support": ["all"], "length": {"linear": "N_bar"}})
    row = only(curve.table, response="logit")
    assert "N_bar" in row["formula"] and curve.fit(int(row["spec"])).params["N_bar"] != 0
    assert row["estimate"] == pytest.approx(row["native"] / np.log(panel["D"] / (1 - panel["D"])).std())


def test_embedders_are_a_choice_and_repeated_responses_are_left_out(panel):
    other = panel.assign(D=panel["D"] ** 1.1)
    choices = {**SMALL, "response": ["D", "RSE"], "model": ["linear"], "rate": ["straight"], "support": ["all"]}
    curve = specification_curve({"one": panel, "two": other}, choices=choices)
    assert curve.table[["embedder", "response"]].apply(tuple, axis=1).tolist() == [
        ("one", "D"), ("one", "RSE"), ("two", "D")]
    assert any("embedder two, response RSE: the same values as under one" in note for note in curve.left_out)
    assert curve.table["estimate"].nunique() == 3
    with pytest.raises(cs.UserError, match="one and two differ in their rows or entropy rates"):
        specification_curve({"one": panel, "two": other.iloc[1:]}, choices=choices)
    with pytest.raises(cs.UserError, match="one and two differ"):
        specification_curve({"one": panel, "two": other.assign(R_bar=other["R_bar"] * 1.01)}, choices=choices)


@pytest.mark.slow
def test_what_does_not_apply_is_named(panel):
    one = panel[(panel["task"] == "task0") & (panel["model_name"] == "family0")].drop(columns="RSE")
    curve = specification_curve(one, choices={"length": ["none"], "model": ["linear"], "response": ["D", "RSE"]})
    assert set(curve.table["task"]) == set(curve.table["family"]) == {"none"} and set(curve.table["slopes"]) == {"same"}
    notes = " ".join(curve.left_out)
    for text in ("response RSE: the panel has no column RSE", "task: the panel has one (task0)",
                 "family: the panel has one (family0)", "slopes vary: the panel has one task and one family"):
        assert text in notes and text in curve.words
    assert "task" not in " ".join(curve.table["formula"]) and curve.table["usable"].all()
    apart = panel.assign(R_bar=panel["R_bar"] + 10 * (panel["model_variant"] == "base"))
    assert "share too few entropy rates" in " ".join(make_grid({"a": apart}).left_out)


@pytest.mark.parametrize(("choices", "message"), [
    ({"lenght": ["log"]}, "There is no choice called lenght; choose among response, model"),
    ({"length": ["cubic"]}, "length has no option cubic; choose among spline, log, none or give a mapping"),
    ({"model": ["probit"]}, "model has no option probit; choose among beta, linear, ordbeta"),
    ({"model": []}, r"model has no option \(none given\)"),
    ({"response": {"X": lambda p: p["no_such"]}}, "None of the responses asked for .* no column no_such"),
])
def test_choices_that_do_not_exist(panel, choices, message):
    with pytest.raises(cs.UserError, match=message):
        specification_curve(panel, choices=choices)


def test_one_variant_is_refused(panel):
    with pytest.raises(cs.UserError, match="model_variant has base"):
        specification_curve(panel[panel["model_variant"] == "base"])
    with pytest.raises(cs.UserError, match="at least one panel"):
        specification_curve({})


@pytest.mark.slow
def test_no_change_is_not_found_by_the_smooth_curve():
    """One concave curve for both variants: the straight line sees a change of slope, the shared smooth does not."""
    scenario = Scenario(curve="log", prompts=150, tasks=2, families=2, gap=1.5)
    choices = {**SMALL, "model": ["linear"], "support": ["all"]}
    rows = [specification_curve(simulate_panel(scenario, np.random.default_rng(s)), choices=choices).table
            for s in range(10)]
    p = pd.concat(rows).pivot_table(index="spec", values="p_value", aggfunc=lambda v: (v < 0.05).mean())["p_value"]
    assert p[0] > 0.8 and p[1] < 0.35
    z = pd.concat(rows).set_index("spec")["statistic"]
    assert stats.ttest_1samp(z[1], 0).pvalue > 0.01
