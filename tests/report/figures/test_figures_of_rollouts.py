"""Cohorts, hazards, densities and variances are what a plain loop over the rollouts finds."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from canopy_stats.report import figures
from canopy_stats.report.figures.lengths import density
from canopy_stats.schema import UserError


@pytest.fixture
def long_steps(rollouts):
    """Steps with their rollout, its length, an entropy that depends on both, and a hazard."""
    rng = np.random.default_rng(5)
    rows = rollouts.loc[rollouts.index.repeat(rollouts["length"])].rename_axis("rollout").reset_index()
    step = np.concatenate([np.arange(n) for n in rollouts["length"]])
    return rows.assign(step=step, entropy=rows["length"] / 80 + rng.uniform(0, 1, len(rows)),
                       stop_probability=rng.uniform(0, 0.1, len(rows)))


def legend_texts(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


# --- cohorts ----------------------------------------------------------------------------------------------------


def test_a_cohort_is_the_same_rollouts_throughout(long_steps):
    labels_alike = long_steps.set_axis(np.zeros(len(long_steps), int))
    found = figures.cohorts(labels_alike, ["task", "model_variant"], [20, 0], width=5)
    for (task, variant), own in long_steps.groupby(["task", "model_variant"]):
        members = own[own["length"] >= 20]
        table = found[(found["task"] == task) & (found["model_variant"] == variant)]
        cohort = table[table["cohort"] == 20]
        assert list(cohort["position"]) == [2, 7, 12, 17]
        assert cohort["rollouts"].eq(members["rollout"].nunique()).all()
        expected = [members[members["step"].between(a, a + 4)]["entropy"].mean() for a in (0, 5, 10, 15)]
        assert cohort["entropy"].to_numpy() == pytest.approx(expected)
        everyone = table[(table["cohort"] == 0) & (table["position"] == 12)]
        assert everyone["entropy"].item() == pytest.approx(own[own["step"].between(10, 14)]["entropy"].mean())
        assert everyone["rollouts"].item() == own[own["step"] == 14]["rollout"].nunique()


def test_survivors_move_the_mean_of_all_that_run_and_not_that_of_a_cohort(long_steps):
    """Entropy here depends on the rollout's length alone (plus noise): a cohort's line is level, the other rises."""
    own = long_steps.assign(entropy=long_steps["length"] / 80)
    found = figures.cohorts(own, ["model_variant"], [40, 0], width=5)
    base = found[found["model_variant"] == "base"]
    level, rising = (base[base["cohort"] == length]["entropy"].to_numpy() for length in (40, 0))
    assert np.ptp(level) < 1e-12
    assert (np.diff(rising) > 0).all()


def test_cohort_figure_marks_each_cohorts_size_on_the_running_count(long_steps):
    figure = figures.cohort_profile(long_steps, lengths=[10, 40], fewest=20)
    assert legend_texts(figure) == ["base", "instruct", "all that still run", "at least 10 tokens",
                                    "at least 40 tokens"]
    assert len(figure.axes) == 2 * 3  # two tasks; base, instruct, and how many run
    counts = figure.axes[4]
    marks = [(line.get_xdata()[0], line.get_ydata()[0]) for line in counts.lines if len(line.get_xdata()) == 1]
    own = long_steps[(long_steps["task"] == "completion") & (long_steps["step"] == 0)]
    sizes = [(length, int((own[own["model_variant"] == v]["length"] >= length).sum()))
             for v in ("base", "instruct") for length in (10, 40)]
    assert marks == [(length, size) for length, size in sizes if size >= 20]


@pytest.mark.slow
def test_positions_where_few_rollouts_run_are_not_drawn(long_steps):
    figure = figures.cohort_profile(long_steps, lengths=[10], fewest=150)
    base = figure.axes[0].lines[0]
    own = long_steps[(long_steps["task"] == "completion") & (long_steps["model_variant"] == "base")]
    last = base.get_xdata()[-1]
    assert (own["step"] == last + 2).sum() >= 150 > (own["step"] == last + 7).sum()


# --- hazards ----------------------------------------------------------------------------------------------------


def test_hazards_are_means_over_the_steps_that_are_taken(long_steps):
    found = figures.hazards(long_steps, ["task", "model_variant"], 8)
    row = found[(found["task"] == "math") & (found["model_variant"] == "base") & (found["start"] == 16)].iloc[0]
    own = long_steps[(long_steps["task"] == "math") & (long_steps["model_variant"] == "base") &
                     long_steps["step"].between(16, 23)]
    assert row["hazard"] == pytest.approx(own["stop_probability"].mean()) and row["steps"] == len(own)


def test_hazard_map_leaves_cells_of_few_steps_empty(long_steps):
    figure = figures.hazard_map(long_steps, bins=10, fewest=60)
    mesh = figure.axes[0].collections[0]
    grid = np.ma.filled(mesh.get_array().astype(float).reshape(2, 10), np.nan)
    own = long_steps[long_steps["task"] == "completion"]
    steps = own.assign(start=own["step"] // 8).groupby(["model_variant", "start"]).size()
    counts = steps.unstack().reindex(["base", "instruct"]).fillna(0).to_numpy()
    assert (np.isnan(grid) == (counts < 60)).all() and np.isnan(grid).any()
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["base", "instruct"]
    assert figure.axes[-1].get_ylabel() == "chance of an end token"


# --- lengths ----------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 500), min_size=3, max_size=60).filter(lambda x: len(set(x)) > 1), st.floats(0.05, 1))
def test_the_area_under_a_density_is_its_share(lengths, share):
    grid = np.geomspace(1e-4, 1e6, 4000)
    found = density(np.array(lengths, float), share, grid)
    assert np.trapezoid(found, np.log(grid)) == pytest.approx(share, rel=1e-2)


def test_density_of_a_single_length_is_not_drawn():
    assert np.isnan(density(np.full(5, 7.0), 1.0, np.array([1.0, 10.0]))).all()


def test_densities_have_thin_families_and_a_thick_line_for_all(rollouts):
    two = pd.concat([rollouts, rollouts.assign(model_name="birch")], ignore_index=True)
    figure = figures.length_densities(two)
    assert len(figure.axes[0].lines) == 2 * 3
    assert legend_texts(figure) == ["base, each family", "base, all families", "instruct, each family",
                                    "instruct, all families"]
    assert figure.axes[0].get_ylim()[1] > max(line.get_ydata().max() for line in figure.axes[0].lines)
    assert "cap: base" in figure.axes[0].texts[0].get_text()


# --- within prompts ---------------------------------------------------------------------------------------------


@pytest.fixture
def many(rollouts):
    rng = np.random.default_rng(3)
    prompt = np.arange(len(rollouts)) % 8
    return rollouts.assign(prompt_uid=[f"{t}/{p}" for t, p in zip(rollouts["task"], prompt, strict=True)],
                           entropy_rate=rng.gamma(4, 0.2, len(rollouts)))


def test_within_prompt_variances_are_sample_variances(many):
    found = figures.within_variances(many)
    assert len(found) == 2 * 2 * 8
    own = many[(many["prompt_uid"] == "math/3") & (many["model_variant"] == "base")]
    row = found[(found["prompt_uid"] == "math/3") & (found["model_variant"] == "base")].iloc[0]
    assert row["var_N"] == pytest.approx(np.var(own["length"], ddof=1))
    assert row["var_r"] == pytest.approx(np.var(own["entropy_rate"], ddof=1))


def test_within_prompt_figure_is_the_distribution_function_and_counts_pairs(many):
    variances = figures.within_variances(many)
    variances.loc[0, "var_N"] = 0.0  # completion, base
    figure = figures.within_prompt(variances)
    line = figure.axes[0].lines[0]
    own = np.sort(variances[(variances["task"] == "completion") & (variances["model_variant"] == "base")]["var_N"])
    assert line.get_xdata()[2:] == pytest.approx(own[1:]) and line.get_ydata()[-1] == 1
    left = figure.axes[0].get_xlim()[0]
    assert line.get_xdata()[1] < left <= own[1] and line.get_ydata()[1] == pytest.approx(1 / 8)
    wide = variances[variances["task"] == "completion"].pivot(index="prompt_uid", columns="model_variant",
                                                              values="var_N")
    share = 100 * (wide["instruct"] < wide["base"]).mean()
    assert figure.axes[0].texts[0].get_text() == f"smaller: instruct {share:.0f}%"


# --- residuals --------------------------------------------------------------------------------------------------


def test_residual_figure_draws_a_row_a_model_with_its_tests_and_quartiles():
    rng = np.random.default_rng(0)
    rows = pd.DataFrame({"residual": rng.uniform(size=600), "fitted": rng.normal(size=600),
                         "R_bar": rng.uniform(size=600), "model_variant": np.tile(["base", "tuned"], 300)})
    tests = pd.DataFrame({"test": ["uniformity"], "p_value": [0.004]})
    figure = figures.residual_diagnostics(pd.concat([rows.assign(model="one"), rows.assign(model="two")]),
                                          {"one": tests})
    assert len(figure.axes) == 6
    assert figure.axes[0].texts[0].get_text() == "uniformity: p ≤ 0.01" and not figure.axes[3].texts
    points = figure.axes[0].lines[1]
    assert points.get_ydata() == pytest.approx(np.sort(rows["residual"]))
    quartiles = [line for line in figure.axes[2].lines if len(line.get_xdata()) == 10]
    first = rows.sort_values("R_bar")["residual"].to_numpy()[:60]
    assert [line.get_ydata()[0] for line in quartiles] == pytest.approx(list(np.quantile(first, [0.25, 0.5, 0.75])))
    assert legend_texts(figure) == ["base", "tuned", "quartiles"]


@pytest.mark.parametrize(("draw", "missing"), [
    (figures.cohort_profile, "length"), (figures.hazard_map, "stop_probability"),
    (figures.length_densities, "finish_reason"), (figures.within_prompt, "var_N"),
    (lambda frame: figures.residual_diagnostics(frame, {}), "fitted")])
def test_a_missing_column_is_named(draw, missing):
    with pytest.raises(UserError, match=missing):
        draw(pd.DataFrame({"something": [1.0]}))
