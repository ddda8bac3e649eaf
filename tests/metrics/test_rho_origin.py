"""The origin of rho's position profile: scored by rollouts left out, chosen, and what it cannot tell is withheld."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from markov_runs import store_run
from sklearn.linear_model import Ridge

import canopy_stats as cs
from canopy_stats.metrics.association import RHOS
from canopy_stats.metrics.origin import BINS, CANDIDATES, PENALTIES, OriginScores, fold_errors, why_withheld
from canopy_stats.metrics.rho import QUANTITIES

ANALYSIS = Path(__file__).parents[2] / "analysis"


@pytest.fixture(scope="module")
def study(analysis_script):
    return analysis_script("rho_origin_study")


@pytest.fixture(scope="module")
def one_prompt():
    rng = np.random.default_rng(0)
    length = rng.integers(20, 60, 12)
    step = np.concatenate([np.arange(n) for n in length])
    return 0.8 + 1.5 * np.exp(-step / 10) + rng.normal(0, 0.5, len(step)), length


def estimates(result, quantity):
    return result.table[result.table["quantity"] == quantity]["estimate"].to_numpy()


def scores(**totals):
    """Scores of four folds whose errors differ by candidate only."""
    return OriginScores(np.tile([totals.get(name, 100.0) for name in CANDIDATES], (4, 1)), 1000)


def by_regression(entropy, length, candidate, penalty):
    """The same error by an ordinary design matrix, rollout by rollout, and a regression nobody here wrote: a penalty
    c'Pc is a ridge on the coefficients of the root of P."""
    rollout, fold = np.repeat(np.arange(len(length)), length), np.arange(len(length)) % 5
    whole, step = length[rollout], np.concatenate([np.arange(n) for n in length])
    near, equal = (np.arange(1, BINS) / BINS) ** 1.5, np.arange(1, BINS) / BINS
    coordinates = {"start": [(step, near)], "end": [(whole - step, near)], "relative": [((step + 0.5) / whole, equal)],
                   "both": [(step, near), (whole - step, near)]}[candidate]
    design = np.hstack([np.eye(BINS)[np.searchsorted(np.quantile(x, q), x, side="right")] for x, q in coordinates])
    frame = pd.DataFrame(design).assign(entropy=entropy)
    around = (frame - frame.groupby(rollout).transform("mean")).to_numpy()
    second = np.diff(np.eye(BINS), n=2, axis=0)
    form = penalty * (np.kron(np.eye(len(coordinates)), second.T @ second) + 1e-4 * np.eye(design.shape[1]))
    root = np.linalg.cholesky(form).T
    errors = []
    for k in range(5):
        own = fold[rollout] == k
        turned = around[:, :-1] @ np.linalg.inv(root)
        model = Ridge(alpha=1.0, fit_intercept=False).fit(turned[~own], around[~own, -1])
        errors.append(((around[own, -1] - model.predict(turned[own])) ** 2).sum())
    return errors


@pytest.mark.parametrize("candidate", CANDIDATES[1:])
def test_errors_are_those_of_a_regression_on_the_other_folds(one_prompt, candidate):
    found = fold_errors(*one_prompt)[:, CANDIDATES.index(candidate)]
    for place, penalty in enumerate(PENALTIES[:2]):
        np.testing.assert_allclose(found[:, place], by_regression(*one_prompt, candidate, penalty), rtol=1e-6)


def test_no_profile_leaves_the_spread_around_each_mean(one_prompt):
    entropy, length = one_prompt
    spread = pd.Series(entropy).groupby(np.repeat(np.arange(12), length)).apply(lambda x: x.var(ddof=0) * len(x))
    np.testing.assert_allclose(fold_errors(entropy, length)[:, 0, 0], spread.groupby(np.arange(12) % 5).sum())


def test_levels_of_rollouts_do_not_decide(one_prompt):
    entropy, length = one_prompt
    moved = entropy + np.repeat(np.random.default_rng(1).normal(0, 20, 12), length)
    np.testing.assert_allclose(fold_errors(moved, length), fold_errors(entropy, length), rtol=1e-8)


def test_the_end_is_the_start_of_rollouts_read_backwards(one_prompt):
    entropy, length = one_prompt
    backwards = np.concatenate([part[::-1] for part in np.split(entropy, np.cumsum(length)[:-1])])
    start, end = (CANDIDATES.index(side) for side in ("start", "end"))
    forward = fold_errors(entropy, length)
    np.testing.assert_allclose(fold_errors(backwards, length)[:, end], forward[:, start], rtol=0.03)


def test_a_single_rollout_scores_nothing_and_counts_from_the_start():
    assert fold_errors(np.ones(5), np.array([5])).shape == (0, 5, 4)
    empty = OriginScores.of([np.empty((0, 5, 4))], 0)
    assert (empty.lowest, empty.side, empty.other_side_adds) == ("none", "start", False)
    assert empty.frame("start")["error"].isna().all()


def test_the_rule_of_withholding():
    up, down = np.full(3, 0.3), np.full(3, -0.3)
    assert "t/N" in why_withheld(scores(relative=90), up, up)
    assert why_withheld(scores(start=90), up, down) == ""  # the end's is merely the wrong profile
    assert why_withheld(scores(start=90, both=80), up, up) == ""
    assert "+0.30 and -0.30" in why_withheld(scores(start=90, both=80), up, down)
    assert why_withheld(scores(), up, down) == ""
    assert scores(end=90).side == "end" and scores(end=90).lowest == "end" and scores().lowest == "none"
    rng = np.random.default_rng(0)
    unclear = OriginScores(100 + np.outer(rng.normal(0, 1, 9), [0, 0, 0, 1, 0]) - np.array([0, 0, 0, 0.01, 0]), 1000)
    assert unclear.best == "none"
    frame = scores(end=90).frame("end").set_index("origin")
    assert frame.loc["end", "chosen"] and frame["chosen"].sum() == 1
    assert frame.loc["start", "above_lowest"] == pytest.approx(40 / 1000)


@pytest.mark.slow
@pytest.mark.parametrize(("process", "best"), [
    ("flat", "none"), ("front-loaded", "start"), ("decays at the end", "end"), ("falls with t/N", "relative"),
    ("rises and falls with t/N", "relative"), ("both", "both"), ("two topics, high opening", "start")])
def test_each_process_is_told(study, process, best):
    steps, _ = study.draw(*study.PROCESSES[process], 8, 25, np.random.default_rng(5))
    result = cs.rho(steps, n_boot=0)
    withheld = best in ("relative", "both")
    assert result.origins.loc[result.origins["best"], "origin"].item() == best
    assert bool(result.withheld) is withheld and np.isnan(estimates(result, "adjusted")).all() == withheld
    assert np.isfinite(estimates(result, "raw")).all()
    assert result.origins["chosen"].sum() == (0 if withheld else 1)
    assert ("withheld" if withheld else "Positions are counted from the") in result.notes[-1]
    if not withheld:
        assert np.abs(estimates(result, "excess")).max() < 0.2


@pytest.mark.slow
def test_what_is_withheld_is_nan_everywhere_and_given_on_request(study):
    steps, _ = study.draw("falls with t/N", 0.0, 6, 20, np.random.default_rng(1))
    result = cs.rho(steps, n_boot=20)
    for quantity in QUANTITIES:
        rows = result.table[result.table["quantity"] == quantity]
        assert rows[["estimate", "se", "low", "high"]].isna().all(axis=None) == (quantity != "raw")
        assert rows[["estimate", "se", "low", "high"]].notna().all(axis=None) == (quantity == "raw")
    assert result.prompts[[f"{n}_adjusted" for n in RHOS]].isna().all(axis=None)
    assert result.prompts[list(RHOS)].notna().all(axis=None)
    start, end = (cs.rho(steps, n_boot=0, origin=side) for side in ("start", "end"))
    assert estimates(start, "adjusted")[0] > 0.3 and estimates(end, "adjusted")[0] < -0.3
    assert start.withheld == "" and "from the start, as given: of all profiles" in start.notes[-1]
    assert "adjusted are withheld: " in str(result) and "above_lowest" in str(result)


@pytest.mark.slow
def test_auto_is_the_chosen_side_to_the_last_bit(study):
    steps, _ = study.draw("decays at the end", 0.0, 6, 20, np.random.default_rng(2))
    auto, given = cs.rho(steps, n_boot=15, seed=4), cs.rho(steps, n_boot=15, seed=4, origin="end")
    pd.testing.assert_frame_equal(auto.table, given.table)
    pd.testing.assert_frame_equal(auto.prompts, given.prompts)
    pd.testing.assert_frame_equal(auto.origins, given.origins)


@pytest.mark.slow
def test_a_run_is_read_again_for_the_bootstrap(tmp_path):
    run = store_run(tmp_path / "run", prompts=4, m=10, cap=30, seed=3)
    steps = run.steps(["prompt_id", "rollout", "step", "entropy"]).to_pandas()
    pd.testing.assert_frame_equal(cs.rho(run, n_boot=10).table, cs.rho(steps, n_boot=10).table, atol=1e-9)


@pytest.mark.slow
def test_runs_without_excess_are_left_out_of_the_change_by_name(tmp_path, monkeypatch):
    import canopy_stats.metrics.rho_change as module

    runs = [store_run(tmp_path / f"{family}-{variant}", prompts=6, family=family, variant=variant, seed=seed)
            for seed, (family, variant) in enumerate([(f, v) for f in ("a", "b") for v in ("base", "tuned")])]
    given = {}

    def told(run, *, n_boot, origin):
        found = cs.rho(run, n_boot=n_boot, origin="start")
        if not given.get(run.config.family):
            return found
        columns = [f"{name}_{quantity}" for name in RHOS for quantity in ("excess", "adjusted")]
        return type(found)(found.table, found.prompts.assign(**dict.fromkeys(columns, np.nan)), found.notes,
                           found.origins, "the share predicts best")

    monkeypatch.setattr(module, "rho", told)
    given["b"] = True
    some = cs.rho_change(runs)
    cells = some.table.set_index(["coefficient", "quantity"])["cells"]
    assert (cells["rho_pearson", "raw"], cells["rho_pearson", "adjusted"]) == (2, 1)
    assert some.notes[-1] == "Excess and adjusted of b, tuned, " + runs[3].config.task + (
        " are withheld: the share predicts best.")
    given["a"] = True
    assert set(cs.rho_change(runs).table["quantity"]) == {"raw"}


@pytest.mark.slow
@pytest.mark.parametrize("effect", [0.6, -0.6])
@pytest.mark.parametrize("profile", ["flat", "front-loaded", "decays at the end"])
def test_a_real_effect_is_kept(study, profile, effect):
    found = [study.one(profile, effect, 20, 30, np.random.default_rng([7, i])) for i in range(3)]
    said = study.summary(found, effect)
    assert said["withheld"] == 0 and min(said["kept"]) > 0.93


def test_the_stored_study_keeps_the_promise():
    results = json.loads((ANALYSIS / "results" / "rho_origin_study.json").read_text())
    for name, entry in results["processes"].items():
        if entry["withheld"] < 1 and "effect" not in name:
            assert np.abs(entry["adjusted"] + entry["excess"]).max() <= 0.05, name
        if name.startswith(("flat", "front-loaded", "decays")):
            assert entry["withheld"] <= 0.05 and min(entry.get("kept", [1])) >= 0.95, name
    assert len(results["processes"]) == 13
