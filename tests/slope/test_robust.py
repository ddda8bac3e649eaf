"""The robust slope: its parts against direct calculations, what must not change it, what it refuses."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import canopy_stats as cs
from canopy_stats.schema import UserError
from canopy_stats.slope.columns import with_columns
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
    assert "rates and lengths that base and tuned share within a task and family" in change.estimand


def test_the_cells_make_the_answer(change, panel):
    """Weights of the difference sum to one and give all three slopes; errors, notes and tables come along."""
    cells = change.cells
    assert list(cells.columns) == ["task", "model_name", "rows", "base_slope", "base_std_error", "tuned_slope",
                                   "tuned_std_error", "estimate", "std_error", "weight"]
    assert cells["weight"].sum() == pytest.approx(1)
    np.testing.assert_allclose(cells["tuned_slope"] - cells["base_slope"], cells["estimate"])
    for name, column in (("base", "base_slope"), ("tuned", "tuned_slope"), ("difference", "estimate")):
        assert getattr(change, name).estimate == pytest.approx(cells["weight"] @ cells[column])
    assert (cells[["base_std_error", "tuned_std_error", "std_error"]] > 0).all(axis=None)
    assert list(change.response) == ["base", "tuned", "difference"]
    assert change.response["difference"].estimate == pytest.approx(
        change.response["tuned"].estimate - change.response["base"].estimate)
    assert 0 < change.response["tuned"].estimate < change.tuned.estimate / 4  # dmu/deta is at most a quarter
    assert set(change.support["task"]) == set(panel["task"]) and change.calibration is None
    assert change.claims["estimate"].iloc[0] == change.difference.estimate
    assert list(change.left_out["name"]) == [*(f"family{k}" for k in range(3)), *(f"task{k}" for k in range(4))]
    assert change.fit.nobs == len(panel) and change.panel is not None


@pytest.mark.slow
def test_a_rate_of_nothing_is_raised_and_told(panel, change):
    """One rate far below the others': its logarithm would decide everything."""
    low = panel.assign(R_bar=panel["R_bar"].where(panel.index != panel.index[5], 1e-9))
    found = cs.slope_change(low, model="robust")
    assert any(note.startswith("1 rate(s) below ") and note.endswith(" nats/token were raised to it.")
               for note in found.notes)
    assert not any("raised to it" in note for note in change.notes)
    assert found.difference.estimate == pytest.approx(change.difference.estimate, abs=0.1)


@pytest.mark.slow
def test_a_shared_curve_is_no_difference_to_it():
    curved = panel_of(LAW.but(difference=0.0, curve="log", gap=2.0, prompts=100))
    assert cs.slope_change(curved).difference.pvalue < 1e-3
    robust = cs.slope_change(curved, model="robust")
    assert robust.difference.pvalue > 0.05 and "not shown to differ" in robust.verdict


@pytest.mark.slow
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
    rows = pd.DataFrame({"task": "t", "model_name": "f", "tun": [0.0] * 41 + [1.0] * 41,
                         "R_bar": np.concatenate([rate, rate - 0.5]), "N_bar": np.tile(rate[::-1], 2)})
    found = common_support(rows)
    entry = found.table.iloc[0]
    assert (entry["rate_low"], entry["rate_high"]) == pytest.approx((1.025, 1.475))
    assert (entry["length_low"], entry["length_high"]) == pytest.approx((1.025, 1.975))
    assert entry["base_share"] == pytest.approx(19 / 41) and found.inside.sum() == 38 and found.enough
    assert entry["matched"]


def test_lengths_are_matched_where_enough_rows_are():
    """Of 41 rows of each variant those within both are compared, unless they are fewer than a tenth of either."""
    rate, length = np.tile(np.linspace(1.0, 2.0, 41), 2), np.linspace(1.0, 2.0, 41)
    for shift, inside, matched in ((0.5, 38, True), (0.92, 78, False), (5.0, 78, False)):
        rows = pd.DataFrame({"task": "t", "model_name": "f", "tun": np.repeat([0.0, 1.0], 41), "R_bar": rate,
                             "N_bar": np.concatenate([length, length + shift])})
        found = common_support(rows)
        assert (found.inside.sum(), found.table["matched"].item()) == (inside, matched)


def test_rates_that_hardly_overlap_are_not_identified():
    found = cs.slope_change(panel_of(LAW.but(gap=3.6, prompts=100)), model="robust")
    assert found.identified is False and found.model == "robust" and found.support is not None
    for name in ("base", "tuned", "difference", "ratio"):
        one = getattr(found, name)
        assert np.isnan(one.estimate) and one.kind == "not modelled"
    assert found.verdict.startswith("Not identified from common support")
    assert found.estimand.startswith("Average derivative") and found.unit.startswith("log-odds")


def far(panel, rows):
    """The panel with the tuned rates of some rows out of the base's reach."""
    moved = rows & (panel["model_variant"] == "tuned")
    return panel.assign(R_bar=panel["R_bar"].where(~moved, 5 * panel["R_bar"]))


@pytest.mark.slow
def test_cells_without_common_support_are_left_out_by_name(panel):
    found = cs.slope_change(far(panel, panel["task"] == "task2"), model="robust")
    assert found.identified and set(found.cells["task"]) == {"task0", "task1", "task3"}
    names = ", ".join(f"task2 / family{k}" for k in range(3))
    assert f"Left out: {names} (for want of common support)." in found.notes
    one = cs.slope_change(far(panel, (panel["task"] == "task2") & (panel["model_name"] == "family1")), model="robust")
    assert len(one.cells) == 11 and "Left out: task2 / family1 (for want of common support)." in one.notes


def test_two_of_three_families_without_overlap_are_not_enough(panel):
    found = cs.slope_change(far(panel, panel["model_name"] != "family0"), model="robust")
    assert not found.identified and found.verdict.startswith("Not identified") and found.support["kept"].sum() == 4


@pytest.mark.slow
def test_a_cell_with_one_variant_is_left_out_by_name(panel):
    gone = (panel["task"] == "task1") & (panel["model_name"] == "family2") & (panel["model_variant"] == "base")
    found = cs.slope_change(panel[~gone], model="robust")
    assert found.identified and len(found.cells) == 11 and np.isfinite(found.difference.se)
    assert "Left out: task1 / family2 (with one variant only)." in found.notes
    without = panel[~((panel["task"] == "task1") & (panel["model_name"] == "family2"))]
    again = cs.slope_change(without, model="robust").difference
    assert found.difference.estimate == pytest.approx(again.estimate, abs=0.05)


@pytest.mark.slow
def test_a_task_of_one_prompt_is_left_out_by_name():
    noisy = panel_of(LAW.but(rollouts=10))
    kept = (noisy["task"] != "task1") | (noisy["prompt_id"] == "000")
    found = cs.slope_change(noisy[kept], model="robust")
    names = ", ".join(f"task1 / family{k}" for k in range(3))
    assert found.identified and f"Left out: {names} (for want of common support)." in found.notes
    assert set(found.calibration["task"]) == {"task0", "task2", "task3"}
    again = cs.slope_change(noisy[noisy["task"] != "task1"], model="robust").difference
    scale = noisy[kept]["R_bar"].std() / noisy[noisy["task"] != "task1"]["R_bar"].std()
    assert found.difference.estimate == pytest.approx(scale * again.estimate, rel=1e-3)


def test_one_family_is_not_available(panel):
    found = cs.slope_change(panel[panel["model_name"] == "family0"], model="robust")
    assert not found.identified and found.verdict.startswith("Not available: one family.")
    left = (panel["model_name"] == "family0") | (panel["task"] == "task0")
    few = cs.slope_change(far(panel[left], panel[left]["model_name"] != "family0"), model="robust")
    assert not few.identified and "Only family0 has rates that base and tuned share" in few.verdict


def test_one_task_of_four_is_not_enough(panel):
    found = cs.slope_change(far(panel, panel["task"] != "task3"), model="robust")
    assert not found.identified and found.support.groupby("task")["kept"].all().to_list() == [False] * 3 + [True]


def test_slopes_are_averaged_over_the_shared_rates_alone(panel, change):
    inside = common_support(with_columns(panel)).inside
    assert inside.sum() < len(panel)
    counted = panel[inside].groupby(["task", "model_name"]).size()
    assert list(change.cells["rows"]) == list(counted)


@pytest.mark.slow
def test_correction_is_said_and_can_be_switched_off():
    noisy = panel_of(LAW.but(rollouts=10))
    on, off = cs.slope_change(noisy, model="robust"), cs.slope_change(noisy, model="robust", correct=False)
    assert "not corrected" not in on.verdict and on.calibration is not None
    assert "switched off" in off.verdict and "lacks" not in off.verdict and off.calibration is None
    never = cs.slope_change(noisy.drop(columns="se_R"), model="robust")
    assert "lacks the jackknife columns" in never.verdict and never.difference == off.difference
    assert on.tuned.estimate > off.tuned.estimate


@pytest.mark.slow
def test_one_task_is_a_statement_about_this_task(panel):
    found = cs.slope_change(panel[panel["task"] == "task3"], model="robust")
    assert found.identified and len(found.cells) == 3 and found.difference.df >= 2
    assert "it speaks of the task task3 alone" in found.estimand and "tasks are taken" not in found.estimand


@pytest.mark.parametrize(("change", "message"), [
    (lambda p: p[p["model_variant"] == "base"], "a slope change needs 'base' and one fine-tuned variant"),
    (lambda p: p[p["prompt_id"] < "002"], "has 8 prompts; a slope needs at least 10"),
    (lambda p: p.assign(D=0.5), "D is constant"),
    (lambda p: p.iloc[:0], "no rows"),
    (lambda p: p.assign(N_bar=0.0 + (p.index > 3)), "N_bar must be positive"),
    (lambda p: p.assign(D=p["D"].where(p.index != p.index[3], np.inf)), "D is missing \\(infinite\\)"),
])
def test_refusals(panel, change, message):
    with pytest.raises(UserError, match=message):
        cs.slope_change(change(panel), model="robust")


def test_refuses_a_correction_that_it_cannot_make(panel):
    with pytest.raises(UserError, match=r"correct=True needs finite jackknife columns .*; canopy_stats\.measure makes "
                                        r"them from runs with at least three rollouts a prompt\. correct=False goes "
                                        r"without\.$"):
        cs.slope_change(panel, model="robust", correct=True)
    with pytest.raises(UserError, match="correct= belongs to model='robust'"):
        cs.slope_change(panel, model="interaction", correct=True)


# --- combining, in detail ---------------------------------------------------------------------------------------


def test_ratio_rests_on_the_smallest_df_and_the_covariance_of_both_slopes():
    from canopy_stats.mixed.inference.ratios import fieller
    from canopy_stats.slope.combine import Combined
    from canopy_stats.slope.robust import change_of

    one = {"base": Combined(0.5, 0.1, 9.0, np.ones(1), {}), "tuned": Combined(0.9, 0.15, 4.0, np.ones(1), {}),
           "difference": Combined(0.4, 0.12, 6.0, np.ones(1), {})}
    covariance = (0.1**2 + 0.15**2 - 0.12**2) / 2
    for smallest in ("base", "tuned", "difference"):
        parts = {name: Combined(c.value, c.se, 2.5 if name == smallest else c.df, c.weights, c.spread)
                 for name, c in one.items()}
        base, tuned, change, ratio = change_of(parts)
        joint = np.array([[0.15**2, covariance], [covariance, 0.1**2]])
        expected = fieller(0.9, 0.5, joint, stats.t.ppf(0.975, 2.5))
        assert tuple(ratio.interval) == pytest.approx((expected.low, expected.high))
        assert (ratio.df, ratio.pvalue) == (2.5, change.pvalue) and base.df == parts["base"].df
        assert change.interval[1] - 0.4 == pytest.approx(0.12 * stats.t.ppf(0.975, parts["difference"].df))


@pytest.mark.parametrize(("se", "sign"), [(0.01, 1), (0.3, -1)])
def test_slopes_whose_three_errors_do_not_fit_together_are_taken_as_nearly_collinear(se, sign):
    """No covariance of base and tuned gives their difference so small or so large an error."""
    from canopy_stats.mixed.inference.ratios import delta_se, fieller
    from canopy_stats.slope.combine import Combined
    from canopy_stats.slope.robust import change_of

    parts = {name: Combined(value, error, 8.0, np.ones(1), {}) for name, value, error in (
        ("base", 0.5, 0.1), ("tuned", 0.9, 0.15), ("difference", 0.4, se))}
    most = sign * 0.999 * 0.1 * 0.15
    joint, ratio = np.array([[0.15**2, most], [most, 0.1**2]]), change_of(parts)[3]
    expected = fieller(0.9, 0.5, joint, stats.t.ppf(0.975, 8.0))
    assert tuple(ratio.interval) == pytest.approx((expected.low, expected.high))
    assert ratio.se == pytest.approx(delta_se(0.9, 0.5, joint))


def test_cells_that_carry_much_and_rates_that_are_hardly_measured_are_named():
    from canopy_stats.slope import robust_words as words

    cells = pd.DataFrame({"task": ["a", "b", "c"], "model_name": "f", "weight": [0.5, 0.3, 0.2]})
    assert words.weight_notes(cells) == ("a / f carries 50% of the weight.",)
    assert len(words.weight_notes(cells.assign(weight=[0.6, -0.1, 0.5]))) == 3
    table = pd.DataFrame({"task": "a", "model_name": ["f", "g"], "model_variant": "base",
                          "reliability_R": [0.2, 0.6], "clamped": [True, False], "clamped_N": [False, True]})
    notes = words.correction_notes(table, None)
    assert "below 0.5 in 1 of 2 cells (lowest 0.20)" in notes[1] and notes[3].endswith("a / f (base).")
    assert notes[2].startswith("Lengths differ hardly more") and notes[2].endswith("a / g (base).")
    assert words.correction_notes(table.iloc[:0], None) == (words.NO_COLUMNS,)
    assert words.correction_notes(table.iloc[:0], False) == (words.SWITCHED_OFF,)


def test_errors_of_the_reliabilities_by_cell_and_variant():
    from canopy_stats.slope.correction import relative_errors

    names = pd.DataFrame({"task": ["a", "a"], "model_name": ["f", "g"]})
    table = pd.DataFrame({"task": "a", "model_name": ["g", "f", "f", "g"],
                          "model_variant": ["base", "dpo", "base", "dpo"],
                          "reliability_R": [0.5, 0.8, 0.4, 1.0], "reliability_R_std_error": [0.05, 0.04, 0.1, 0.01]})
    np.testing.assert_allclose(relative_errors(names, table, "R"), [0.25, 0.1, 0.05, 0.01])


# --- where lengths are not shared -------------------------------------------------------------------------------

APART = LAW.but(difference=0.0, curve="total entropy", length_ratio=8.0, sd_log_length=0.25, precision=60)


@pytest.fixture(scope="module")
def parted():
    return panel_of(APART, seed=4)


@pytest.mark.slow
def test_cells_without_shared_lengths_have_an_interaction_of_their_own(parted, change):
    found = cs.slope_change(parted, model="robust")
    own = [name for name in found.fit.params.index if name.endswith(":x_own")]
    assert len(own) == 12 and not found.support["matched"].any()
    assert not [name for name in change.fit.params.index if name.endswith(":x_own")]
    assert "at equal length, which is beyond what they share in 12 of 12 cells" in found.verdict
    assert any("carried over the gap between them" in note for note in found.notes)


@pytest.mark.slow
def test_the_gap_between_lengths_widens_the_interval(parted, monkeypatch):
    """With the shared surface alone the same panel has a much smaller error, which counts no difference of cells."""
    from canopy_stats.slope import cells

    own = cs.slope_change(parted, model="robust").claims.set_index("claim")["std_error"]
    monkeypatch.setattr(cells, "OWN", "1")
    shared = cs.slope_change(parted, model="robust").claims.set_index("claim")["std_error"]
    assert (own[["population, with prior", "these families and tasks"]] > 1.5 * shared[
        ["population, with prior", "these families and tasks"]]).all()


@pytest.mark.slow
def test_laws_of_length_that_differ_by_task_are_no_change_across_a_gap():
    """Each task has its own interaction of rate and length, for both variants alike: over the gap in lengths the shared
    surface takes the mean of these for a change of slope."""
    rng = np.random.default_rng(8)
    panel = panel_of(APART.but(curve="none", families=4, tasks=3, prompts=60), seed=5)
    strength = panel["task"].map({"task0": 0.9, "task1": 0.9, "task2": 0.9 * 4}).to_numpy()
    x = np.log(panel["R_bar"]).to_numpy()
    n = np.log(panel["N_bar"] / 100).to_numpy()
    mean = 1 / (1 + np.exp(-(-0.5 + 0.3 * x + 0.25 * strength * (x - x.mean()) * n)))
    found = cs.slope_change(panel.assign(D=rng.beta(60 * mean, 60 * (1 - mean))), model="robust")
    low, high = found.claims.set_index("claim").loc["these families and tasks", ["conf_low", "conf_high"]]
    assert low < 0 < high


@pytest.mark.slow
def test_errors_of_the_lengths_reliability_widen_the_difference(parted):
    from canopy_stats.slope.correction import length_errors

    fit = cs.slope_change(parted, model="robust").fit
    names = parted[["task", "model_name"]].drop_duplicates().astype(str).reset_index(drop=True)
    relative = np.concatenate([np.full(12, 0.3), np.full(12, 0.1)])
    found = length_errors(names, fit, fit.design.data, relative)
    for k, row in names.iterrows():
        own = fit.params[f"cell[{row['task']} / {row['model_name']}]:x_own"]
        here = fit.design.data[(fit.design.data["cell"] == f"{row['task']} / {row['model_name']}")]
        gap = here.loc[here["tun"] == 1, "log_N"].mean() - here.loc[here["tun"] == 0, "log_N"].mean()
        assert found[k] == pytest.approx(0.3 * abs(own * gap)) and found[12 + k] == 0
