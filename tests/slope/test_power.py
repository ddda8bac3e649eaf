"""Power: the pilot's law is learnt, new panels follow it, and what is said of them agrees with counting."""

from dataclasses import replace
from importlib import import_module

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.special import expit, logit

import canopy_stats as cs
from canopy_stats.slope.closed_form import contrast_weights, expected_interaction
from canopy_stats.slope.pilot import JACKKNIFE, estimate_pilot
from canopy_stats.slope.planned import StudySize, draw_errors, draw_panel, draw_truth, error_of, observe, squared_slope
from canopy_stats.slope.power import one_study, slope_power
from canopy_stats.slope.simulate import Scenario, simulate_panel
from canopy_stats.slope.split import best_split, power_curve

QUIET = Scenario(families=3, tasks=2, prompts=80, gap=0.2, base_slope=0.05, rollouts=12, precision=15)
"""A law under which the interaction model keeps its level: hardly a slope, and so hardly curvature."""


def made(scenario, seed=3):
    return simulate_panel(scenario, np.random.default_rng(seed))


@pytest.fixture(scope="module")
def pilot():
    return estimate_pilot(made(QUIET))


@pytest.fixture(scope="module")
def closed():
    return slope_power(made(QUIET), effect=0.25, prompts=[10, 20, 40], rollouts=[5, 20], families=[3],
                       model="interaction", method="closed", replicates=5)


# --- the law ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_large_pilot_shows_the_law_it_came_from():
    scenario = Scenario(families=4, tasks=2, prompts=400, gap=0.8, base_slope=0.4, difference=0.3, rollouts=10,
                        tied=0.5, precision=40)
    law = estimate_pilot(made(scenario))
    # Rates are lognormal with these log means and standard deviations; tuned ones lie gap * sd lower.
    expected = np.array([[-1.1, -1.1 - 0.24], [-0.7, -0.7 - 0.24]])
    assert law.centre[..., 0].mean(axis=1) == pytest.approx(expected, abs=0.03)
    total = law.shared[:, None] + law.own
    assert np.sqrt(total[..., 0, 0]) == pytest.approx(0.3, abs=0.02)
    assert law.shared[:, 0, 0] == pytest.approx(0.5 * 0.3**2, rel=0.25)
    assert law.spread["prompt"] == pytest.approx(scenario.prompt_sd, abs=0.06)
    assert max(law.spread[k] for k in ("task_difference", "family_difference")) < 0.08
    # One rollout's error of the rate: 25% of it, of the length: 50%; rate and diversity correlated by 0.4.
    assert np.sqrt(law.error[..., 1, 1]) == pytest.approx(0.25, rel=0.05)
    assert np.sqrt(law.error[..., 2, 2]) == pytest.approx(0.5, rel=0.15)
    correlation = law.error[..., 0, 1] / np.sqrt(law.error[..., 0, 0] * law.error[..., 1, 1])
    assert correlation == pytest.approx(0.4, abs=0.06)
    assert law.notes == () and law.rollouts == 10


@pytest.mark.slow
def test_what_tuning_does_to_a_tasks_level_is_found_where_it_is_and_not_where_it_is_chance():
    """Levels of a task's own, ±0.6, are kept; without them a level takes up little of what the slope is off by."""
    scenario = QUIET.but(tasks=4, prompts=60, difference=0.1)
    panels = [made(scenario, seed) for seed in range(3)]
    assert max(np.abs(estimate_pilot(panel).reactions).max() for panel in panels) < 0.1
    moved = panels[0]["task"].map(dict(zip(sorted(panels[0]["task"].unique()), (-0.6, 0.6, -0.6, 0.6), strict=True)))
    eta = logit(panels[0]["D"]) + moved * (panels[0]["model_variant"] != "base")
    law = estimate_pilot(panels[0].assign(D=expit(eta)))
    assert law.reactions == pytest.approx([-0.6, 0.6, -0.6, 0.6], abs=0.15)
    drawn, without = (draw_truth(one, StudySize(5, 5, 3), 0.1, np.random.default_rng(0)) for one in (
        law, replace(law, reactions=np.zeros(4))))
    expected = law.reactions[drawn.index["task"]] * drawn.index["variant"]
    np.testing.assert_allclose(drawn.eta - without.eta, expected, atol=1e-12)


@pytest.mark.slow
def test_new_panels_look_like_the_pilot():
    pilot = made(Scenario(families=3, tasks=3, prompts=200, difference=0.3, rollouts=8))
    law = estimate_pilot(pilot)
    new = draw_panel(law, StudySize(200, 8, 3), law.difference, np.random.default_rng(1))
    for column, close in (("D", 0.04), ("R_bar", 0.02), ("N_bar", 25)):
        both = [p.groupby(["task", "model_variant"])[column].agg(["mean", "std"]).to_numpy() for p in (pilot, new)]
        assert both[0] == pytest.approx(both[1], abs=close, rel=0.1)
    for column in ("se_D", "se_R", "se_N", "cov_DR"):
        assert new[column].mean() == pytest.approx(pilot[column].mean(), rel=0.25)


def test_error_shrinks_with_the_rollouts_and_is_what_the_jackknife_columns_say(pilot):
    rng = np.random.default_rng(2)
    few, many = (draw_panel(pilot, StudySize(60, m, 3), 0.0, rng) for m in (5, 45))
    for column in ("se_D", "se_R", "se_N"):
        ratio = np.sqrt((few[column] ** 2).mean() / (many[column] ** 2).mean())
        assert ratio == pytest.approx(3.0, rel=0.12)
    truth = draw_truth(pilot, StudySize(300, 5, 3), 0.0, rng)
    error = draw_errors(pilot, truth, rng)
    seen = observe(pilot, truth, expit(truth.eta), error, rng)
    assert np.mean((seen["R_bar"] - truth.rate) ** 2) == pytest.approx(np.mean(seen["se_R"] ** 2), rel=0.1)
    assert np.cov(error.T) == pytest.approx(error_of(pilot, truth).mean(axis=0), rel=0.2, abs=2e-3)
    assert (seen["cov_DR"] ** 2 <= seen["se_D"] ** 2 * seen["se_R"] ** 2 * (1 + 1e-9)).all()


def test_the_effect_changes_nothing_but_the_tuned_slopes(pilot):
    none, some = (draw_truth(pilot, StudySize(40, 10, 3), e, np.random.default_rng(4)) for e in (0.0, 0.5))
    assert np.array_equal(none.rate, some.rate)
    tuned = none.index["variant"] == 1
    assert (some.eta - none.eta)[~tuned] == pytest.approx(0.0)
    slope = np.polyfit(none.frame["R_sc"][tuned & (none.index["task"] == 0)],
                       (some.eta - none.eta)[tuned & (none.index["task"] == 0)], 1)[0]
    assert slope == pytest.approx(0.5)
    own = draw_truth(pilot, StudySize(40, 10, 3), pilot.difference, np.random.default_rng(4))
    assert own.eta == pytest.approx(pilot.fit.predict(own.frame, mode="population", scale="link"))


def test_families_are_as_many_as_asked_and_prompts_are_paired(pilot):
    panel = draw_panel(pilot, StudySize(7, 4, 5), 0.1, np.random.default_rng(0))
    assert panel.shape[0] == 2 * 7 * 5 * 2 and panel["model_name"].nunique() == 5
    assert (panel.groupby("prompt_uid").size() == 10).all() and (panel["M"] == 4).all()
    assert set(panel["model_variant"]) == {"base", "tuned"}


def test_squared_slope_is_the_second_moment():
    rng = np.random.default_rng(0)
    mu, phi = 0.3, 20.0
    d = rng.beta(mu * phi, (1 - mu) * phi, 200_000)
    found = squared_slope(np.array([mu]), np.array([mu * (1 - mu) / (1 + phi)]))[0]
    assert found == pytest.approx(np.mean((d * (1 - d)) ** 2), rel=0.02)


# --- closed form against simulation -----------------------------------------------------------------------------


def test_weights_give_the_models_own_estimate():
    fit = cs.lmm("D ~ R_bar*model_variant + N_bar + task + model_name + (1|prompt_uid)", made(QUIET),
                 reference={"model_variant": "base"})
    weights, place = contrast_weights(fit, "tuned")
    assert weights @ fit.design.y == pytest.approx(fit.beta[place], rel=1e-8)
    assert weights @ fit.design.fixed.matrix == pytest.approx(np.eye(len(fit.beta))[place], abs=1e-9)


CURVED = QUIET.but(gap=1.0, difference=0.1, family_sd=0.15, curve="log")


@pytest.mark.slow
@pytest.mark.parametrize("scenario", [QUIET, CURVED], ids=["keeps its level", "curved and varying"])
def test_closed_form_is_what_simulation_finds(scenario):
    law = estimate_pilot(made(scenario))
    design, n = StudySize(15, 8, 3), 80
    streams = np.random.SeedSequence(5).spawn(n)
    drawn = [one_study(law, design, 0.15, model="interaction", stream=s) for s in streams]
    expected = [expected_interaction(law, design, 0.15, s) for s in streams[:25]]
    estimates = np.array([s.estimate for s in drawn])
    means, sds = np.array([e.mean for e in expected]), np.array([e.sd for e in expected])
    sd = float(np.sqrt(np.mean(sds**2) + means.var()))
    assert estimates.mean() == pytest.approx(means.mean(), abs=4 * sd * np.sqrt(1 / n + means.var() / sd**2 / 25))
    assert estimates.std(ddof=1) == pytest.approx(sd, rel=0.25)
    share, p = np.mean([s.found for s in drawn]), np.mean([e.power(0.15, 0.05) for e in expected])
    assert share == pytest.approx(p, abs=4 * np.sqrt(0.25 / n))


def test_expected_power_is_the_normal_integral():
    from canopy_stats.slope.closed_form import Expected

    study = Expected(mean=0.05, sd=0.02, se=0.02, df=np.inf)
    assert study.power(0.1, 0.05) == pytest.approx(stats.norm.sf(1.959964 - 2.5), abs=1e-6)
    assert Expected(0.0, 0.02, 0.02, np.inf).power(0.0, 0.05) == pytest.approx(0.05, abs=1e-6)
    assert study.power(-0.1, 0.05) == pytest.approx(stats.norm.cdf(-1.959964 - 2.5), abs=1e-9)


# --- level, monotony, workers -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_level_is_kept_where_it_should_be(closed):
    level = closed.level
    assert len(level) == 1 and level["kept"].all() and closed.kept_level
    assert 0.03 < level["power"].iloc[0] < 0.05 + 4 * level["mc_error"].iloc[0]
    assert "(its level is 5%)" in closed.words


@pytest.mark.slow
def test_level_is_kept_in_simulation():
    found = slope_power(made(QUIET), effect=0.0, prompts=[15], rollouts=[8], model="interaction", replicates=80)
    share = found.table["power"].iloc[0]
    assert stats.binomtest(round(share * 80), 80, 0.05).pvalue > 0.01 and found.table["failed"].eq(0).all()
    with pytest.raises(cs.UserError, match="Only effect zero"):
        found.best_split(1e9)


@pytest.mark.slow
def test_a_model_that_loses_its_level_is_told():
    """One concave curve and lower rates: the interaction model finds an effect that is not there."""
    curved = made(Scenario(families=3, tasks=2, prompts=80, gap=1.5, rollouts=12, curve="log", curve_scale=1.5))
    found = slope_power(curved, effect=0.2, prompts=[40], rollouts=[10, 20], model="interaction", method="closed",
                        replicates=4)
    assert not found.kept_level and found.level["power"].iloc[0] > 0.3
    assert "its power means nothing" in found.words and "its power means nothing" in found.recommend(1e8)


@pytest.mark.slow
def test_more_effect_more_significance_with_the_same_random_numbers(pilot):
    streams = np.random.SeedSequence(8).spawn(12)
    z = np.array([[one_study(pilot, StudySize(12, 8, 3), e, model="interaction", stream=s).z for s in streams]
                  for e in (0.0, 0.2, 0.4)])
    assert np.all(np.diff(z, axis=0) > 0)


@pytest.mark.slow
def test_more_prompts_and_rollouts_more_power(closed):
    smooth = closed.table[closed.table["effect"] > 0].pivot(index="prompts", columns="rollouts", values="smooth")
    assert (smooth.diff().iloc[1:] > 0).all(axis=None) and (smooth[20] >= smooth[5]).all()
    real = closed.table[closed.table["effect"] > 0]
    assert np.abs(real["smooth"] - real["power"]).max() < 0.1


@pytest.mark.slow
def test_table_adds_up_and_does_not_depend_on_the_workers(closed):
    table = closed.table
    assert len(table) == 3 * 2 + 1 and (table["replicates"] == 5).all()
    tokens = made(QUIET).groupby(["task", "model_variant"])["N_bar"].mean().sum()
    assert table["tokens"].to_numpy() == pytest.approx(
        (table["prompts"] * table["rollouts"] * table["families"] * tokens).to_numpy())
    again = slope_power(made(QUIET), effect=0.25, prompts=[10, 20, 40], rollouts=[5, 20], families=[3],
                        model="interaction", method="closed", replicates=5, workers=2)
    pd.testing.assert_frame_equal(table.drop(columns="seconds"), again.table.drop(columns="seconds"))


def test_failed_analyses_count_as_not_significant(pilot, monkeypatch):
    module = import_module("canopy_stats.slope.power")

    def fail(*_, **__):
        raise cs.UserError("broken\nhere")

    monkeypatch.setattr(module, "slope_change", fail)
    study = one_study(pilot, StudySize(6, 4, 2), 0.2, model="interaction", stream=np.random.SeedSequence(1))
    assert study.found == 0.0 and study.failure == "broken here"
    row = module._row(pilot, StudySize(6, 4, 2), 0.2, [study, study])
    assert row["failed"] == 2 and row["power"] == 0.0 and np.isnan(row["mean_z"])


# --- recommendation ---------------------------------------------------------------------------------------------


def table_of(mean_z):
    """A table whose mean z is a known function of prompts and rollouts."""
    rows = [{"prompts": p, "rollouts": m, "families": f, "effect": 0.2, "power": 0.5, "mc_error": 0.0,
             "mean_z": mean_z(p, m, f), "sd_z": 1.0, "failed": 0, "replicates": 100}
            for p in (10, 30, 100, 300) for m in (4, 10, 40) for f in (2, 4)]
    return pd.DataFrame(rows)


def known(p, m, f):
    return np.exp(-1.2 + 0.5 * np.log(p) - 4 / m + 0.3 * np.log(f))


def test_smooth_finds_a_curve_of_its_own_kind():
    curve = power_curve(table_of(known), 0.2)
    p, m, f = np.array([20, 50]), np.array([6, 25]), np.array([2, 4])
    assert curve(p, m, f) == pytest.approx(stats.norm.sf(1.959964 - known(p, m, f)), abs=1e-4)


@pytest.mark.parametrize("budget", [3e4, 1e5, 1e6])
def test_the_split_keeps_to_its_budget_and_is_the_best(budget):
    split = best_split(table_of(known), 100.0, budget, families=2)
    assert split.tokens == 100.0 * 2 * split.prompts * split.rollouts <= budget
    p, m = np.meshgrid(np.arange(10, 301), np.arange(4, 41))
    inside = 200.0 * p * m <= budget
    best = stats.norm.sf(1.959964 - known(p[inside], m[inside], 2)).max()
    assert best - 0.006 < split.power <= best + 1e-6
    # With -4/M and half a power of P, eight rollouts are best wherever prompts are not used up.
    assert abs(split.rollouts - 8) <= 2 or budget == 1e6


def test_noise_does_not_choose():
    rng = np.random.default_rng(1)
    noisy = table_of(lambda p, m, f: known(p, m, f) + rng.normal(0, 0.1))
    split = best_split(noisy, 100.0, 1e5, families=2)
    assert known(split.prompts, split.rollouts, 2) > known(500 / 8, 8, 2) - 0.12


def test_a_sure_thing_takes_the_cheapest():
    split = best_split(table_of(lambda p, m, f: 4 * known(p, m, f)), 1.0, 1e9, families=4)
    assert split.power > 0.99 and split.tokens < 300 * 40 * 4 / 4


def test_edges_and_choices_are_told():
    split = best_split(table_of(lambda p, m, f: np.sqrt(p) / 8), 1.0, 500.0, families=2)
    assert split.rollouts == 4 and split.at_edge and "try sizes beyond it" in split.words
    with pytest.raises(cs.UserError, match="do not buy the smallest simulated study"):
        best_split(table_of(known), 1.0, 10.0, families=2)
    with pytest.raises(cs.UserError, match=r"Several values of families were simulated \(2, 4\); say which"):
        best_split(table_of(known), 1.0, 1e6)
    with pytest.raises(cs.UserError, match="effect=0.3 was not simulated; choose among 0.2"):
        best_split(table_of(known), 1.0, 1e6, effect=0.3, families=2)


# --- refusals ---------------------------------------------------------------------------------------------------


def last_cell(panel):
    return (panel["task"] == "task1") & (panel["model_name"] == "family2")


SIZES = {"prompts": [10], "rollouts": [6], "effect": 0.2}


@pytest.mark.slow
@pytest.mark.parametrize(("panel", "arguments", "message"), [
    (made(QUIET), {"model": "cubic"}, "model is 'cubic'; choose one of robust, interaction, paper_beta"),
    (made(QUIET), {"model": "paper_beta", "method": "closed"}, "simulation, or closed for the interaction model"),
    (made(QUIET), {"prompts": []}, r"prompts is \[\]; give whole numbers of at least 5"),
    (made(QUIET), {"rollouts": [2]}, r"rollouts is \[2\]; give whole numbers of at least 3"),
    (made(QUIET), {"families": [1]}, "The robust slope needs at least two families"),
    (made(QUIET), {"replicates": 1}, "replicates is 1; at least 2 panels"),
    (made(QUIET)[lambda p: p["model_variant"] == "base"], {}, "model_variant has base"),
    (made(QUIET).drop(columns="se_D"), {"model": "interaction"},
     r"it lacks se_D. canopy_stats.panel makes them .* or ask for rollouts=\[12\], as the pilot has"),
    (made(QUIET).assign(cov_DN=np.nan), {"model": "interaction"}, "it lacks finite jackknife columns"),
    (made(QUIET)[lambda p: ~last_cell(p) | (p["model_variant"] == "base")], {}, "one variant only in task1 / family2"),
    (made(QUIET)[lambda p: ~last_cell(p)], {}, "lack some of the pilot's tasks"),
    (made(QUIET).assign(R_bar=lambda p: p["R_bar"].where(p.index > 2, 0.0)), {}, "3 rows have an entropy rate of zero"),
])
def test_refusals(panel, arguments, message):
    with pytest.raises(cs.UserError, match=message):
        slope_power(panel, **{**SIZES, **arguments})


@pytest.mark.slow
def test_without_jackknife_columns_the_pilots_rollouts_stay():
    bare = made(QUIET).drop(columns=list(JACKKNIFE))
    found = slope_power(bare, effect=0.3, prompts=[10], rollouts=[12], model="interaction", replicates=3)
    assert len(found.table) == 2 and any("no jackknife columns" in note for note in found.notes)
    assert "no jackknife columns" in found.words


@pytest.mark.slow
def test_one_family_and_one_task_can_be_planned_with_the_papers_model():
    one = made(Scenario(families=1, tasks=1, prompts=60, rollouts=10))
    found = slope_power(one, effect=0.3, prompts=[30], rollouts=[10], model="interaction", method="closed",
                        replicates=2)
    assert found.table["power"].between(0, 1).all()
    assert sum("slopes are taken not to vary by" in note for note in found.notes) == 2
