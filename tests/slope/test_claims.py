"""What is claimed beyond the population's mean: the prior's posterior, the plain mean, and leaving one out."""

import numpy as np
import pandas as pd
import pytest
from scipy import integrate, stats

import canopy_stats as cs
from canopy_stats.slope.claims import CONDITIONAL, POPULATION, PRIOR
from canopy_stats.slope.combine import CellGrid, average
from canopy_stats.slope.prior import posterior, with_prior

ONE_TASK = CellGrid(np.arange(5), np.zeros(5, int))
VALUES, SAMPLING = np.array([0.1, 0.5, 0.3, -0.1, 0.2]), np.diag([0.01, 0.04, 0.02, 0.03, 0.01])


def test_posterior_is_the_integral_over_the_standard_deviation():
    """One source of variation: by quadrature over its half-Cauchy prior."""
    def joint(sd, power):
        total = np.diag(SAMPLING) + sd**2
        mean = np.average(VALUES, weights=1 / total)
        log = -0.5 * (np.log(total).sum() + np.log((1 / total).sum()) + ((VALUES - mean) ** 2 / total).sum())
        return np.exp(log) * stats.halfcauchy(scale=0.1).pdf(sd) * mean**power

    mass, moment = (integrate.quad(joint, 0, np.inf, args=(power,), limit=200)[0] for power in (0, 1))
    found = posterior(VALUES, SAMPLING, ONE_TASK)
    assert found.weights @ found.means == pytest.approx(moment / mass, abs=2e-3)
    whole = with_prior(VALUES, SAMPLING, ONE_TASK)
    low, high = whole.interval
    assert (found.below(low), found.below(high)) == pytest.approx((0.025, 0.975), abs=1e-6)
    assert whole.pvalue == pytest.approx(2 * found.below(0.0))


def test_a_prior_that_leaves_no_variation_is_the_fixed_effect():
    weights = 1 / np.diag(SAMPLING)
    found = with_prior(VALUES, SAMPLING, ONE_TASK, scale=1e-9)
    assert found.estimate == pytest.approx(np.average(VALUES, weights=weights))
    assert found.se == pytest.approx(weights.sum() ** -0.5)


def test_the_plain_mean_counts_sampling_alone():
    found = average(VALUES, SAMPLING, lambda weights: 30.0)
    assert (found.value, found.df) == (pytest.approx(0.2), 30)
    assert found.se == pytest.approx(np.sqrt(np.trace(SAMPLING)) / 5)


@pytest.fixture(scope="module")
def change():
    return cs.slope_change(cs.simulate_panel(cs.Scenario(prompts=30, families=3, tasks=2, difference=0.5), 3),
                           model="robust")


def test_claims_of_a_panel(change):
    rows = change.claims.set_index("claim")
    assert list(rows.index) == [POPULATION, PRIOR, CONDITIONAL]
    assert rows.loc[POPULATION, "estimate"] == change.difference.estimate
    assert rows.loc[CONDITIONAL, "estimate"] == pytest.approx(change.cells["estimate"].mean())
    width = rows["conf_high"] - rows["conf_low"]
    assert width[CONDITIONAL] < width[PRIOR] < width[POPULATION]


def test_leaving_one_out_is_combining_the_rest(change):
    table = change.left_out
    assert list(table["left_out"]) == ["family"] * 3 + ["task"] * 2
    rest = change.cells[change.cells["model_name"] != "family1"]
    row = table[table["name"] == "family1"].iloc[0]
    assert row["estimate"] == pytest.approx(np.average(rest["estimate"], weights=rest["std_error"] ** -2), abs=0.05)
    assert row["df"] >= 1 and row["conf_low"] < row["estimate"] < row["conf_high"]


def test_a_single_task_cannot_be_left_out():
    panel = cs.simulate_panel(cs.Scenario(prompts=30, families=3, tasks=1), 4)
    found = cs.slope_change(panel, model="robust").left_out
    assert set(found["left_out"]) == {"family"} and isinstance(found, pd.DataFrame)
