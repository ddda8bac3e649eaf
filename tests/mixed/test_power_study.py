"""Power by simulation against the noncentral t distribution, and planned studies of other sizes."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from canopy_stats.mixed import glmm, lmm, power
from canopy_stats.mixed.inference.power_study import resized
from canopy_stats.schema import UserError


def pairs(items, rng):
    """Two conditions of every item."""
    effects = rng.normal(size=items)
    frame = pd.DataFrame({"item": np.repeat(np.arange(items), 2), "f": np.tile(["a", "b"], items)})
    return frame.assign(y=1 + effects[frame["item"]] + rng.normal(size=2 * items))


@pytest.fixture(scope="module")
def fit():
    return lmm("y ~ f + (1 | item)", pairs(16, np.random.default_rng(8)))


@pytest.mark.slow
def test_power_of_a_paired_comparison_is_that_of_the_paired_t_test(fit):
    table = power(fit, {"f[T.b]": 0.9}, {"item": [12]}, n=150, seed=3)
    for _, row in table.iterrows():  # one study size: its refits are the time of this test
        items = int(row["item"])
        centre, edge = 0.9 / (fit.sigma * np.sqrt(2 / items)), stats.t.isf(0.025, items - 1)
        exact = stats.nct.sf(edge, items - 1, centre) + stats.nct.cdf(-edge, items - 1, centre)
        assert row["conf_low"] - 0.02 < exact < row["conf_high"] + 0.02
        assert row["level_low"] - 0.02 < 0.05 < row["level_high"] + 0.02
        assert row["rows"] == 2 * items and row["failed"] == 0


@pytest.mark.slow
def test_power_does_not_depend_on_the_number_of_workers(fit):
    one, two = (power(fit, "f[T.b]", {"item": [6]}, n=10, seed=1, workers=workers) for workers in (1, 2))
    pd.testing.assert_frame_equal(one, two)
    assert not power(fit, "f[T.b]", {"item": [6]}, n=10, seed=2).equals(one)


def test_more_levels_have_effects_of_their_own():
    rng = np.random.default_rng(2)
    data = pd.DataFrame({"item": np.repeat(np.arange(12), 6), "model": np.tile(np.arange(6), 12)})
    data["kind"] = np.where(data["item"] % 3 == 0, "hard", "easy")
    data["y"] = rng.normal(size=72) + rng.normal(size=12)[data["item"]] + rng.normal(size=6)[data["model"]]
    frame = lmm("y ~ kind + (1|item) + (1|model) + (1|item:kind)", data).frame
    larger = resized(resized(frame, "item", 30, rng), "model", 9, rng)
    sizes = {factor.name: len(factor.levels) for factor in larger.factors}
    assert sizes == {"item": 30, "model": 9, "item:kind": 30} and larger.nobs == 270
    pairs = np.unique(np.column_stack([f.codes for f in larger.factors[:2]]), axis=0)
    assert len(pairs) == 270
    fewer = resized(frame, "item", 4, rng)
    assert set(fewer.design.data["kind"]) == {"hard", "easy"}


@pytest.mark.slow
def test_power_of_another_family():
    rng = np.random.default_rng(4)
    data = pairs(12, rng)
    mu = 1 / (1 + np.exp(-data["y"]))
    beta = glmm("p ~ f + (1 | item)", data.assign(p=rng.beta(8 * mu, 8 * (1 - mu))))
    table = power(beta, {"f[T.b]": 3.0}, n=10)
    assert table["power"][0] == 1.0 and list(table.columns[:2]) == ["rows", "power"]


@pytest.mark.parametrize(("effect", "along", "message"), [
    ({"g": 1}, None, "g, which is no coefficient"), ("f[T.c]", None, r"Did you mean f\[T.b\]"),
    ({"f[T.b]": 0}, None, "other than zero"), ({}, None, "effect is empty"), ("f[T.b]", {"f": [4]}, "no grouping"),
    ("f[T.b]", {"item": [1]}, "at least 2"), ("f[T.b]", {"item": []}, "whole numbers of levels"),
])
def test_studies_that_cannot_be_planned(fit, effect, along, message):
    with pytest.raises(UserError, match=message):
        power(fit, effect, along, n=10)


def test_too_few_levels_for_a_coefficient():
    rng = np.random.default_rng(6)
    data = pd.DataFrame({"item": np.repeat(np.arange(9), 4), "k": np.repeat(list("abc") * 3, 4)})
    between = lmm("y ~ k + (1|item)", data.assign(y=rng.normal(size=36) + rng.normal(size=9)[data["item"]]))
    with pytest.raises(UserError, match="some coefficients cannot be estimated"):
        power(between, "k[T.b]", {"item": [2]}, n=10)
