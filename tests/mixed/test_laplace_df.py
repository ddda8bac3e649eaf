"""Degrees of freedom of Laplace fits, held against those of the linear model that a gaussian fit also is."""

import numpy as np
import pandas as pd
import pytest

import canopy_stats as cs
from canopy_stats.mixed.inference.laplace_df import laplace_df


@pytest.fixture(scope="module")
def data():
    """Six groups whose slopes vary, 40 rows each."""
    rng = np.random.default_rng(3)
    g = np.repeat(np.arange(6), 40)
    x = rng.standard_normal(len(g))
    slope, level = rng.normal(0.4, 0.3, 6), rng.normal(0, 0.5, 6)
    return pd.DataFrame({"y": level[g] + slope[g] * x + rng.normal(0, 0.7, len(g)), "x": x, "g": g,
                         "share": 1 / (1 + np.exp(-level[g] - slope[g] * x - rng.normal(0, 0.3, len(g))))})


FORMULA = "~ x + (1 + x | g)"


def test_gaussian_fit_has_the_linear_models_degrees(data):
    laplace = cs.glmm(f"y {FORMULA}", data, family="gaussian")
    linear = cs.lmm(f"y {FORMULA}", data, reml=False)
    assert laplace_df(laplace, np.eye(2)) == pytest.approx(linear.df_tests.to_numpy(), rel=0.02)
    both = np.array([[1.0, 2.0]])
    assert laplace_df(laplace, both) == pytest.approx(linear.degrees_of_freedom(both), rel=0.02)


def test_beta_fit_has_about_as_many_degrees_as_groups(data):
    found = laplace_df(cs.glmm(f"share {FORMULA}", data), np.eye(2))
    assert np.all(found > 4) and np.all(found < 8)


def test_without_varying_slopes_the_slope_has_many(data):
    fit = cs.glmm("share ~ x + (1 | g)", data)
    level, slope = laplace_df(fit, np.eye(2))
    assert level < 10 and slope > 200


def test_without_random_effects_there_are_infinitely_many(data):
    assert np.all(np.isinf(laplace_df(cs.glmm("share ~ x", data), np.eye(2))))
