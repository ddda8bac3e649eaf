"""rho(N, r) of a run: raw as measured, no excess where position is all there is, effects of length kept."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from markov_runs import store_run

import canopy_stats as cs
from canopy_stats.metrics import measure, pool
from canopy_stats.metrics.association import RHOS
from canopy_stats.metrics.rho import QUANTITIES, pool_quantities, prompt_coefficients, rho
from canopy_stats.schema import UserError
from canopy_stats.slope import rollout_law as laws

ANALYSIS = Path(__file__).parents[2] / "analysis"
SIZES, SMALL = ("20 x 50", "100 x 24"), {"20 x 50": (20, 50)}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return store_run(tmp_path_factory.mktemp("rho") / "run", prompts=6, m=20, cap=60, seed=3)


@pytest.fixture(scope="module")
def found(run):
    return rho(run, n_boot=60, seed=1)


@pytest.fixture(scope="module")
def study():
    spec = importlib.util.spec_from_file_location("rho_null", ANALYSIS / "rho_null.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["rho_null"] = module
    spec.loader.exec_module(module)
    return module


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
    again = cs.rho(steps.sample(frac=1, random_state=1), n_boot=60, seed=1)
    pd.testing.assert_frame_equal(again.table, found.table, check_exact=False, atol=1e-9)
    assert not rho(steps, n_boot=60, seed=2).table["low"].equals(found.table["low"])


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
    result = rho(steps, n_boot=800, resample="prompts")
    each = result.prompts["rho_kendall_excess"]
    table = result.table.set_index(["coefficient", "quantity"])
    assert table.loc[("rho_kendall", "excess"), "se"] == pytest.approx(each.std(ddof=0) / np.sqrt(40), rel=0.1)


def test_nested_resampling_counts_rollouts_and_prompts():
    """Its variance is about that of drawing prompts plus that of drawing rollouts."""
    law = laws.RolloutLaw(laws.negative_binomial(30, 3), laws.front_loaded())
    steps = laws.simulate_rollouts(law, 30, 30, np.random.default_rng(2)).steps
    variance = {how: rho(steps, n_boot=400, resample=how).table["se"].to_numpy() ** 2
                for how in ("nested", "prompts", "rollouts")}
    ratio = variance["nested"] / (variance["prompts"] + variance["rollouts"])
    assert 0.7 < np.median(ratio) < 1.3


def test_prompts_without_variance_are_counted_and_named():
    law = laws.RolloutLaw(laws.geometric(20), laws.flat())
    steps = laws.simulate_rollouts(law, 4, 12, np.random.default_rng(3)).steps
    fixed = steps["prompt_id"].eq("0001") & steps["step"].ge(1)
    result = rho(steps[~fixed], n_boot=50)
    assert (result.table["left_out"] == 1).all() and (result.table["prompts"] == 3).all()
    assert "1 of 4 prompts" in result.notes[0] and "0001" in result.notes[0]
    assert np.isfinite(result.table["low"]).all()
    assert rho(steps, n_boot=0).notes == () and rho(steps, n_boot=0).table["se"].isna().all()


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
    assert estimate(rho(steps, n_boot=0), "excess")[0] > 0.3


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


# ------------------------------------------------------------------------------------------------------- the study


@pytest.mark.parametrize("scenario", ["front-loaded, negative binomial", "boilerplate, geometric"])
def test_position_alone_leaves_no_excess(study, scenario):
    entry = next(iter(study.study({scenario: study.NULL[scenario]}, 6, 1, SMALL).values()))
    for k in RHOS:
        error = entry["excess"][k]["se"]
        assert abs(entry["raw"][k]["mean"]) > 0.4
        assert abs(entry["excess"][k]["mean"]) < 0.03 + 4 * error < 0.15
        assert abs(entry["plug-in"][k]["mean"]) > 0.04  # the null without a model is wrong here


@pytest.mark.parametrize("shape", ["flat", "front-loaded", "boilerplate"])
def test_an_effect_of_length_stays(study, shape):
    name = f"{shape}, effect +0.6"
    entry = study.study({name: study.EFFECT[name]}, 6, 1, SMALL)[f"{name} | 20 x 50"]
    kept = study.retention(entry, shape == "flat")
    assert all(0.88 < kept["adjusted / oracle"][k] < 1.1 for k in RHOS)
    assert all(entry["adjusted"][k]["mean"] > 0.2 for k in RHOS)
    if shape == "flat":
        assert min(kept["excess / raw"].values()) > 0.9


def test_stored_results_of_the_study_keep_the_promise():
    results = json.loads((ANALYSIS / "results" / "rho_null.json").read_text())
    assert results["seeds"] >= 50
    for size in SIZES:
        assert max(filter(None, results["worst_null"][size]["excess"].values())) <= 0.03
    for name, kept in results["retention"].items():
        if name.endswith(SIZES):
            assert min(kept["adjusted / oracle"].values()) >= 0.9, name
            assert name.startswith("flat") is ("excess / raw" in kept)
            assert min(kept.get("excess / raw", {"": 1}).values()) >= 0.9, name


def test_prompt_coefficients_of_one_prompt_take_plain_arrays(study):
    drawn = laws.simulate_rollouts(study.NULL["boilerplate, geometric"], 1, 30, np.random.default_rng(0))
    steps, _ = study.prompts_of(drawn)[0]
    found = prompt_coefficients(steps)
    assert found.raw.shape == found.excess.shape == found.adjusted.shape == (1, 3)
