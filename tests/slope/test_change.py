"""A slope change as a row, as a curve, and to plain values and back."""

import json

import numpy as np
import pandas as pd
import pytest

import canopy_stats as cs
from canopy_stats.schema import UserError
from canopy_stats.slope import change_from_dict
from canopy_stats.slope.change import QUANTITIES, ROW

LAW = cs.Scenario(prompts=30, difference=0.6, families=2, tasks=2)


@pytest.fixture(scope="module")
def panel():
    return cs.simulate_panel(LAW, np.random.default_rng(1))


@pytest.fixture(scope="module")
def changes(panel):
    return {model: cs.slope_change(panel, model=model) for model in ("main", "quadratic", "paper_beta", "robust")}


def test_a_row_is_the_difference_beside_both_slopes(changes):
    change = changes["paper_beta"]
    row = change.row()
    assert tuple(row) == ROW and row["nobs"] == 240 and row["unit"] == change.unit
    assert row["estimate"] == change.difference.estimate == pytest.approx(row["tuned_slope"] - row["base_slope"])
    assert row["statistic"] == pytest.approx(change.difference.estimate / change.difference.se)
    assert (row["conf_low"], row["conf_high"]) == change.difference.interval
    assert (row["ratio_conf_low"], row["ratio_conf_high"]) == change.ratio.interval
    assert np.isnan(changes["main"].row()["estimate"]) and changes["main"].row()["ratio_kind"] == "not modelled"


@pytest.mark.parametrize("model", ["main", "quadratic", "paper_beta", "robust"])
def test_plain_values_and_back(changes, model):
    change = changes[model]
    again = change_from_dict(json.loads(json.dumps(change.to_dict(), allow_nan=False)), change.fit)
    for name in QUANTITIES:
        one, two = getattr(change, name), getattr(again, name)
        np.testing.assert_equal((two.estimate, two.se, *two.interval, two.pvalue, two.df),
                                (one.estimate, one.se, *one.interval, one.pvalue, one.df))
        assert two.kind == one.kind
    assert (again.verdict, again.estimand, again.notes) == (change.verdict, change.estimand, change.notes)
    if model == "robust":
        pd.testing.assert_frame_equal(again.cells, change.cells)


def test_a_linear_models_curve_is_a_line_with_its_slope(panel, changes):
    curve = changes["main"].curve("task")
    assert list(curve.columns) == ["task", "model_variant", "R_bar", "D"]
    for (task, variant), part in curve.groupby(["task", "model_variant"]):
        own = panel[(panel["task"] == task) & (panel["model_variant"] == variant)]["R_bar"]
        assert (part["R_bar"].min(), part["R_bar"].max()) == pytest.approx((own.min(), own.max()))
        slope = np.polyfit(part["R_bar"], part["D"], 1)[0]
        assert slope == pytest.approx(changes["main"].base.estimate, rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["quadratic", "paper_beta", "robust"])
def test_curves_are_predictions_at_other_rates(panel, changes, model):
    """At the middle of a variant's rates the curve is the mean of predictions with every row's rate set there."""
    curve = changes[model].curve("model_name")
    part = curve[(curve["model_name"] == "family1") & (curve["model_variant"] == "tuned")].iloc[15]
    fit, rate = changes[model].fit, part["R_bar"]
    mean, sd = panel["R_bar"].mean(), panel["R_bar"].std()
    mask = ((panel["model_name"] == "family1") & (panel["model_variant"] == "tuned")).to_numpy()
    rows = fit.design.data.reset_index(drop=True)[mask]
    moved = {"quadratic": {"R_c": rate - mean, "R_c2": (rate - mean) ** 2}, "paper_beta": {"R_sc": (rate - mean) / sd},
             "robust": {"x": (rate - mean) / sd, "x_tun": (rate - mean) / sd, "log_R": np.log(rate)}}[model]
    assert part["D"] == pytest.approx(fit.predict(rows.assign(**moved)).mean(), rel=1e-6)


@pytest.mark.slow
def test_a_change_from_a_file_asks_for_its_panel(panel, changes):
    change = changes["robust"]
    again = change_from_dict(change.to_dict(), change.fit)
    with pytest.raises(UserError, match="has lost its panel"):
        again.curve("task")
    shuffled = panel.sample(frac=1, random_state=1).reset_index(drop=True)
    pd.testing.assert_frame_equal(again.curve("task", shuffled), change.curve("task"))
    with pytest.raises(UserError, match="of the fit's 240 rows are not in this panel"):
        again.curve("task", panel[panel["task"] == "task0"])
    with pytest.raises(UserError, match="several rows for one prompt"):
        again.curve("task", pd.concat([panel, panel]))


def test_no_fit_has_no_curve():
    found = cs.slope_change(cs.simulate_panel(LAW.but(gap=3.6, prompts=100), np.random.default_rng(1)), model="robust")
    assert not found.identified
    with pytest.raises(UserError, match="has no curve to draw: Not identified"):
        found.curve("task")
