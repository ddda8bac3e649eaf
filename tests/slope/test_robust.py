"""The robust slope: its parts against direct calculations, what must not change it, what it refuses."""

import numpy as np
import pandas as pd
import pytest

import canopy_stats as cs
from canopy_stats.schema import UserError
from canopy_stats.slope.cells import cell_slopes, fit_cells, with_terms
from canopy_stats.slope.columns import with_columns
from canopy_stats.slope.reliability import uncorrected
from canopy_stats.slope.support import common_support

LAW = cs.Scenario(prompts=40, difference=0.6, gap=1.0)


def panel_of(law, seed=1):
    return cs.simulate_panel(law, np.random.default_rng(seed))


@pytest.fixture(scope="module")
def panel():
    return panel_of(LAW)


@pytest.fixture(scope="module")
def change(panel):
    return cs.slope_change(panel, model="robust")


def test_finds_a_tripling(change):
    low, high = change.difference.interval
    assert change.identified and low < 0.6 < high and change.difference.pvalue < 0.05
    assert change.tuned.estimate == pytest.approx(change.base.estimate + change.difference.estimate)
    assert change.ratio.estimate == pytest.approx(change.tuned.estimate / change.base.estimate)
    assert "the slopes differ" in change.verdict and "Measurement error is not corrected" in change.verdict
    assert "rates that base and tuned share within a task" in change.estimand


def test_a_shared_curve_is_no_difference_to_it():
    curved = panel_of(LAW.but(difference=0.0, curve="log", gap=2.0, prompts=100))
    assert cs.slope_change(curved).difference.pvalue < 1e-3
    robust = cs.slope_change(curved, model="robust")
    assert robust.difference.pvalue > 0.05 and "not shown to differ" in robust.verdict


@pytest.fixture(scope="module")
def joint(panel):
    data = with_terms(uncorrected(with_columns(panel)).data, panel["R_bar"].mean(), panel["R_bar"].std())
    return data, fit_cells(data)


def test_cell_differences_are_coefficients_of_the_joint_model(panel, joint):
    data, fit = joint
    link, _ = cell_slopes(fit, data, panel["R_bar"].mean(), panel["R_bar"].std())
    values, covariance = link.part("difference")
    names = [f"cell[{task} / {family}]:x_tun" for task, family in
             zip(link.names["task"], link.names["model_name"], strict=True)]
    np.testing.assert_allclose(values, fit.params[names], atol=1e-6)
    np.testing.assert_allclose(covariance, fit.cov_params().loc[names, names], rtol=1e-4, atol=1e-9)


def test_response_scale_is_the_derivative_of_predicted_means(panel, joint):
    data, fit = joint
    centre, scale, step = panel["R_bar"].mean(), panel["R_bar"].std(), 1e-3
    _, response = cell_slopes(fit, data, centre, scale)
    rows = data[(data["task"] == "task1") & (data["model_name"] == "family2")]
    means = []
    for move in (step, -step):
        moved = rows.assign(R_cal=rows["R_cal"] + move * scale)
        moved = with_terms(moved.assign(log_R=np.log(moved["R_cal"]), tun=1.0), centre, scale)
        means.append(fit.predict(moved, mode="population").mean())
    place = response.names.query("task == 'task1' and model_name == 'family2'").index[0]
    assert response.part("tuned")[0][place] == pytest.approx((means[0] - means[1]) / (2 * step), rel=1e-4)


def test_order_names_and_units_change_nothing(panel, change):
    renamed = panel.sample(frac=1, random_state=1).assign(
        R_bar=lambda p: p["R_bar"] / np.log(2), model_name=lambda p: p["model_name"].str.replace("family", "z"),
        model_variant=lambda p: p["model_variant"].replace("tuned", "dpo"))
    other = cs.slope_change(renamed, model="robust")
    for name in ("base", "difference"):
        one, two = getattr(change, name), getattr(other, name)
        assert (two.estimate, two.se) == pytest.approx((one.estimate, one.se), rel=2e-3)


def test_common_support_by_hand():
    rate = np.linspace(1.0, 2.0, 41)
    rows = pd.DataFrame({"task": "t", "model_variant": ["base"] * 41 + ["tuned"] * 41,
                         "R_bar": np.concatenate([rate, rate - 0.5])})
    found = common_support(rows)
    entry = found.table.iloc[0]
    assert (entry["low"], entry["high"]) == pytest.approx((1.025, 1.475))
    assert entry["base_share"] == pytest.approx(19 / 41) and found.inside.sum() == 38 and found.enough


def test_rates_that_hardly_overlap_are_not_identified():
    found = cs.slope_change(panel_of(LAW.but(gap=3.6, prompts=100)), model="robust")
    assert not found.identified and np.isnan(found.difference.estimate)
    assert found.verdict.startswith("Not identified from common support") and found.support is not None


def test_a_task_without_common_support_is_left_out_by_name(panel):
    moved = panel.assign(R_bar=np.where((panel["task"] == "task2") & (panel["model_variant"] == "tuned"),
                                        panel["R_bar"] * 5, panel["R_bar"]))
    found = cs.slope_change(moved, model="robust")
    assert found.identified and "Left out for want of common support: task2." in found.notes
    assert set(found.cells["task"]) == {"task0", "task1", "task3"}


def test_one_task_of_four_is_not_enough(panel):
    apart = panel["task"].isin(["task0", "task1", "task2"]) & (panel["model_variant"] == "tuned")
    found = cs.slope_change(panel.assign(R_bar=panel["R_bar"].where(~apart, 5 * panel["R_bar"])), model="robust")
    assert not found.identified and list(found.support["kept"]) == [False, False, False, True]


def test_slopes_are_averaged_over_the_shared_rates_alone(panel, change):
    inside = common_support(panel).inside
    assert inside.sum() < len(panel)
    counted = panel[inside].groupby(["task", "model_name"]).size()
    assert list(change.cells["rows"]) == list(counted)


def test_correction_is_said_and_can_be_switched_off():
    noisy = panel_of(LAW.but(rollouts=10))
    on, off = cs.slope_change(noisy, model="robust"), cs.slope_change(noisy, model="robust", correct=False)
    assert "not corrected" not in on.verdict and on.calibration is not None
    assert "not corrected" in " ".join(off.notes) and off.calibration is None
    assert on.tuned.estimate > off.tuned.estimate


def test_one_task_is_a_statement_about_this_task(panel):
    found = cs.slope_change(panel[panel["task"] == "task3"], model="robust")
    assert found.identified and len(found.cells) == 3 and found.difference.df >= 2


@pytest.mark.parametrize(("change", "message"), [
    (lambda p: p[p["model_variant"] == "base"], "a slope change needs 'base' and one fine-tuned variant"),
    (lambda p: p[p["model_name"] == "family0"], "needs at least two families"),
    (lambda p: p[p["prompt_id"] < "002"], "has 8 prompts; a slope needs at least 10"),
    (lambda p: p.assign(D=0.5), "D is constant"),
    (lambda p: p.assign(R_bar=p["R_bar"].clip(0.2, 1) + 100 * (p["model_variant"] == "tuned")), "no task do base and"),
    (lambda p: p.iloc[:0], "no rows"),
    (lambda p: p.assign(N_bar=0.0 + (p.index > 3)), "N_bar must be positive"),
    (lambda p: p.assign(D=p["D"].where(p.index != p.index[3], np.inf)), "D is missing \\(infinite\\)"),
])
def test_refusals(panel, change, message):
    with pytest.raises(UserError, match=message):
        cs.slope_change(change(panel), model="robust")


def test_refuses_a_correction_that_it_cannot_make(panel):
    with pytest.raises(UserError, match="correct=True needs finite jackknife columns"):
        cs.slope_change(panel, model="robust", correct=True)
    with pytest.raises(UserError, match="correct= belongs to model='robust'"):
        cs.slope_change(panel, model="interaction", correct=True)
