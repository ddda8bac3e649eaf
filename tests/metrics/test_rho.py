"""rho(N, r) of a run: raw as measured, no excess where position is all there is, effects of length kept."""

import numpy as np
import pandas as pd
import pytest
from markov_runs import store_run

import canopy_stats as cs
from canopy_stats.metrics import measure, pool
from canopy_stats.metrics.association import RHOS
from canopy_stats.metrics.rho import QUANTITIES, _interval, _notes, _pooled_table, _withhold, pool_quantities, rho
from canopy_stats.metrics.rho_prompts import Said
from canopy_stats.schema import UserError
from canopy_stats.slope import rollout_law as laws


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return store_run(tmp_path_factory.mktemp("rho") / "run", prompts=6, m=20, cap=60, seed=3)


@pytest.fixture(scope="module")
def found(run):
    return rho(run, n_boot=60, seed=1, origin="start")


def estimate(result, quantity):
    table = result.table.set_index(["quantity", "coefficient"])
    return table.loc[quantity, "estimate"].reindex(list(RHOS)).to_numpy()


def test_raw_is_what_measure_and_pool_say(run, found):
    measured = measure(run)
    np.testing.assert_allclose(found.prompts[list(RHOS)], measured[list(RHOS)], atol=1e-9)
    np.testing.assert_allclose(found.prompts[["N_bar", "R_bar", "M"]], measured[["N_bar", "R_bar", "M"]], rtol=1e-6)
    assert found.prompts["prompt_id"].tolist() == measured["prompt_id"].tolist()
    pooled = pool(measured, measured["M"])
    np.testing.assert_allclose(estimate(found, "raw"), [pooled[name] for name in RHOS], atol=1e-9)


def test_position_and_excess_add_up(found):
    np.testing.assert_allclose(estimate(found, "raw"), estimate(found, "position") + estimate(found, "excess"))
    for name in RHOS:
        own = found.prompts
        np.testing.assert_allclose(own[name], own[f"{name}_position"] + own[f"{name}_excess"])
    weights = {name: 20 * 19 / 2 if name == "rho_kendall" else 17 for name in RHOS}
    by_hand = [np.average(found.prompts[f"{n}_excess"], weights=np.full(6, weights[n])) for n in RHOS]
    np.testing.assert_allclose(estimate(found, "excess"), by_hand)
    assert len(found.table) == 12 and set(found.table["quantity"]) == set(QUANTITIES)
    assert (found.table["low"] < found.table["estimate"]).all() and (found.table["se"] > 0).all()


def test_a_frame_of_steps_in_any_order_is_as_good_as_the_run(run, found):
    steps = run.steps(["prompt_id", "rollout", "step", "entropy"]).to_pandas()
    again = cs.rho(steps.sample(frac=1, random_state=1), n_boot=60, seed=1, origin="start")
    pd.testing.assert_frame_equal(again.table, found.table, check_exact=False, atol=1e-9)
    assert not rho(steps, n_boot=60, seed=2, origin="start").table["low"].equals(found.table["low"])


def test_prompts_weigh_by_their_rollouts():
    rng = np.random.default_rng(0)
    values, counts = rng.uniform(-0.9, 0.9, (3, 3, 3)), np.array([4.0, 10.0, 40.0])
    pooled = pool_quantities(values, counts)
    assert pooled[0, 0] == pytest.approx(np.tanh(np.average(np.arctanh(values[:, 0, 0]), weights=counts - 3)))
    assert pooled[2, 1] == pytest.approx(np.average(values[:, 1, 1], weights=counts - 3))
    assert pooled[2, 2] == pytest.approx(np.average(values[:, 1, 2], weights=counts * (counts - 1)))
    values[0] = np.nan
    assert pool_quantities(values, counts)[2, 1] == pytest.approx(
        np.average(values[1:, 1, 1], weights=counts[1:] - 3))


def test_resampling_prompts_has_the_standard_error_of_a_mean():
    law = laws.RolloutLaw(laws.geometric(20), laws.front_loaded())
    steps = laws.simulate_rollouts(law, 40, 12, np.random.default_rng(1)).steps
    result = rho(steps, n_boot=800, resample="prompts", origin="start")
    each = result.prompts["rho_kendall_excess"]
    table = result.table.set_index(["coefficient", "quantity"])
    assert table.loc[("rho_kendall", "excess"), "se"] == pytest.approx(each.std(ddof=0) / np.sqrt(40), rel=0.1)


@pytest.mark.slow
def test_nested_resampling_counts_rollouts_and_prompts():
    """Its variance is about that of drawing prompts plus that of drawing rollouts."""
    law = laws.RolloutLaw(laws.negative_binomial(30, 3), laws.front_loaded())
    steps = laws.simulate_rollouts(law, 30, 30, np.random.default_rng(2)).steps
    variance = {how: rho(steps, n_boot=400, resample=how, origin="start").table["se"].to_numpy() ** 2
                for how in ("nested", "prompts", "rollouts")}
    ratio = variance["nested"] / (variance["prompts"] + variance["rollouts"])
    assert 0.7 < np.median(ratio) < 1.3


def test_prompts_without_variance_are_counted_and_named():
    law = laws.RolloutLaw(laws.geometric(20), laws.flat())
    steps = laws.simulate_rollouts(law, 4, 12, np.random.default_rng(3)).steps
    fixed = steps["prompt_id"].eq("0001") & steps["step"].ge(1)
    result = rho(steps[~fixed], n_boot=50, origin="start")
    assert (result.table["left_out"] == 1).all() and (result.table["prompts"] == 3).all()
    assert "1 of 4 prompts" in result.notes[0] and "0001" in result.notes[0]
    assert np.isfinite(result.table["low"]).all()
    whole = rho(steps, n_boot=0)
    assert len(whole.notes) == 1 and "Positions are counted" in whole.notes[0] and whole.table["se"].isna().all()
    assert "as given" in result.notes[-1] and "as given" not in whole.notes[0]


def test_positions_from_the_end_explain_an_ending():
    """Entropy that falls over the last ten tokens, whatever the length."""
    rng = np.random.default_rng(4)
    rows = []
    for i, n in enumerate(10 + rng.geometric(0.05, 60)):
        left = n - np.arange(n)
        rows.append(pd.DataFrame({"prompt_id": "p", "rollout": i, "step": np.arange(n),
                                  "entropy": np.where(left <= 10, 0.2, 1.5) * rng.gamma(4, 0.25, n)}))
    steps = pd.concat(rows)
    ending = rho(steps, n_boot=0, origin="end")
    assert estimate(ending, "raw")[0] > 0.7
    assert np.abs(estimate(ending, "excess")).max() < 0.08
    assert estimate(rho(steps, n_boot=0, origin="start"), "excess")[0] > 0.3


@pytest.mark.parametrize(("change", "message"), [
    (lambda s: s.drop(columns="step"), "it lacks step"), (lambda s: s.iloc[:0], "it is empty"),
    (lambda s: pd.concat([s, s]), "rollout 0 are not 0, 1, 2"), (lambda s: s[s["step"] != 1], "not 0, 1, 2"),
])
def test_bad_frames_are_named(change, message):
    law = laws.RolloutLaw(laws.geometric(20), laws.flat())
    steps = laws.simulate_rollouts(law, 2, 5, np.random.default_rng(0)).steps
    with pytest.raises(UserError, match=message):
        rho(change(steps))


@pytest.mark.parametrize("options", [{"resample": "tokens"}, {"origin": "middle"}, {"n_boot": -1}, {"level": 95}])
def test_bad_options_are_named(run, options):
    with pytest.raises(UserError, match=next(iter(options))):
        rho(run, **options)


def test_prompts_of_whole_samples_are_named_up_to_five():
    law = laws.RolloutLaw(laws.geometric(20), laws.flat())
    steps = laws.simulate_rollouts(law, 8, 6, np.random.default_rng(3)).steps
    two = steps["prompt_id"].isin(["0001", "0004"]) & steps["step"].ge(1)
    assert rho(steps[~two], n_boot=0).notes[:-1] == (
        "2 of 8 prompts have no correlation, as their lengths or rates do not vary, and are left out: 0001, 0004.",)
    most = steps["prompt_id"].ne("0000") & steps["step"].ge(1)
    assert rho(steps[~most], n_boot=0).notes[0].endswith("left out: 0001, 0002, 0003, 0004, 0005, ....")


def test_the_first_broken_rollout_is_named():
    steps = pd.DataFrame({"prompt_id": list("aaabbb"), "rollout": [0, 0, 1, 3, 3, 4], "step": [0, 1, 0, 0, 2, 1],
                          "entropy": 1.0})
    with pytest.raises(UserError, match=r"^The steps of prompt b, rollout 3 are not 0, 1, 2, \.\.\. once each: give "
                                        r"all steps of one run, and one run at a time\.$"):
        rho(steps)


def test_what_is_withheld_is_gone_from_both_tables_and_the_rest_stays(found):
    table, prompts = _withhold(found.table, found.prompts)
    raw, numbers = table["quantity"].eq("raw"), ["estimate", "se", "low", "high"]
    pd.testing.assert_frame_equal(table[raw], found.table[raw])
    assert table.loc[~raw, numbers].isna().all(axis=None)
    pd.testing.assert_frame_equal(table.drop(columns=numbers), found.table.drop(columns=numbers))
    gone = [f"{name}_{quantity}" for name in RHOS for quantity in ("position", "excess", "adjusted")]
    assert prompts[gone].isna().all(axis=None)
    pd.testing.assert_frame_equal(prompts.drop(columns=gone), found.prompts.drop(columns=gone))


def test_replicates_are_cross_fitted_as_the_estimate_is(run):
    """Without folds a profile follows the rollouts that it is taken out of: another error of what is left."""
    one, more = (rho(run, n_boot=30, seed=1, resample="rollouts", origin="start", folds=folds).table.set_index(
        ["quantity", "coefficient"])["se"] for folds in (1, 5))
    np.testing.assert_allclose(one["raw"], more["raw"])
    assert (np.abs(one["excess"] / more["excess"] - 1) > 1e-3).all()


def test_nothing_to_pool_is_nan():
    pooled = pool_quantities(np.full((2, 3, 3), np.nan), np.array([5.0, 6.0]))
    assert pooled.shape == (4, 3) and np.isnan(pooled).all()
    values = np.full((2, 3, 3), 0.5)
    assert np.isnan(pool_quantities(values, np.array([3.0, 3.0]))[:, :2]).all()  # Fisher's weights M - 3 are zero
    np.testing.assert_allclose(pool_quantities(values, np.array([3.0, 3.0]))[[0, 2, 3], 2], 0.5)


def test_intervals_are_percentiles_moved_to_the_estimate():
    replicates = np.array([np.nan, *np.arange(101.0)])
    assert _interval(60.0, replicates, 0.9) == pytest.approx((np.arange(101.0).std(ddof=1), 15.0, 105.0))
    assert np.isnan(_interval(60.0, np.array([1.0, np.nan]), 0.9)).all()


def test_intervals_of_correlations_end_at_one():
    """Raw and adjusted are correlations; what is not one (position, excess) may reach beyond."""
    rng = np.random.default_rng(0)
    values = np.stack([np.full((4, 3), r) for r in (0.97, 0.5, -0.97)], axis=1)
    replicates = np.concatenate([pool_quantities(values, np.full(4, 20.0))[None] + rng.normal(0, 0.4, (300, 1, 1))])
    table = _pooled_table(values, np.full(4, 20.0), replicates, 0.95).set_index(["quantity", "coefficient"])
    assert list(table.loc["raw", "high"]) == [1.0] * 3 and list(table.loc["adjusted", "low"]) == [-1.0] * 3
    assert (table.loc["raw", "low"] > 0).all() and (table.loc["adjusted", "high"] < 0).all()
    assert (table.loc["excess", "high"] > 1).all() and list(table["prompts"].unique()) == [4]


def test_the_note_names_prompts_without_a_raw_correlation_up_to_five():
    """A profile that is withheld leaves no excess, which is no lack of the prompt's."""
    said = [Said(f"p{i}", 8, 10.0, 1.0) for i in range(7)]
    values = np.full((7, 3, 3), 0.2)
    values[:, 1] = np.nan
    assert _notes(values, said) == ()
    for count, listed in ((5, "p0, p1, p2, p3, p4."), (6, "p0, p1, p2, p3, p4, ....")):
        values[:count, 0] = np.nan
        assert _notes(values, said)[0].endswith(f"are left out: {listed}")
        assert _notes(values, said)[0].startswith(f"{count} of 7 prompts have no correlation")


def test_prompts_that_lack_an_adjusted_correlation_alone_are_left_out_of_it_alone():
    values = np.full((4, 3, 3), 0.2)
    values[0, 2] = np.nan
    table = _pooled_table(values, np.full(4, 12.0), np.zeros((5, 4, 3)), 0.9).set_index(["quantity", "coefficient"])
    assert (table.loc["adjusted", "left_out"] == 1).all() and (table.loc["raw", "left_out"] == 0).all()
    assert (table.loc["adjusted", "prompts"] == 3).all() and (table.loc["raw", "prompts"] == 4).all()
