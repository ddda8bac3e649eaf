"""No unit and no origin of a column may matter: linear models in other units say the same."""

import warnings

import numpy as np
import pandas as pd
import pytest
from family_rows import NAMES, fitted, simulated
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import canopy_stats as cs
from canopy_stats.mixed.algebra.coordinates import lower_root, make_coordinates, orthogonal
from canopy_stats.mixed.fitting.linear import NORMAL
from canopy_stats.mixed.model_frame import make_frame


def slopes_by_group(seed):
    """20 groups of 10 rows whose intercepts and slopes vary."""
    rng = np.random.default_rng(seed)
    g = np.repeat(np.arange(20), 10)
    x = rng.random(200) * 9
    b = rng.normal(size=(20, 2)) * [1, 0.2]
    return pd.DataFrame({"y": 1 + 0.3 * x + b[g, 0] + b[g, 1] * x + rng.normal(size=200), "x": x, "g": g,
                         "f": rng.choice(["a", "b"], 200), "h": rng.integers(0, 6, 200)})


def said(fit, term="x"):
    """What no unit may change: t, degrees of freedom, log p, whether it is singular and certified."""
    return [fit.tvalues[term], fit.df_tests[term], np.log(fit.pvalues[term]), fit.singular, fit.converged]


DF = [19.7, 20.5, 19.9, 172.8, 20.8, 20.0]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("unit", [1e-6, 1e3, 1e7, 1e8])
def test_units_of_a_random_slope(seed, unit):
    data = slopes_by_group(seed)
    first = cs.lmm("y ~ x + (x|g)", data, reml=False)
    second = cs.lmm("y ~ x + (x|g)", data.assign(x=data["x"] * unit), reml=False)
    assert first.df_tests["x"] == pytest.approx(DF[seed], abs=0.05)
    assert said(second) == pytest.approx(said(first), rel=1e-8)
    assert second.llf == pytest.approx(first.llf, abs=1e-8)
    assert second.bse["x"] * unit == pytest.approx(first.bse["x"], rel=1e-8)


@pytest.mark.slow
@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1000), st.floats(-6, 8), st.floats(-1e4, 1e4), st.floats(-8, 8), st.floats(-100, 100),
       st.sampled_from(["(x|g)", "(1|g)", "(x|g) + (1|h)"]), st.booleans())
def test_any_units_and_origins(seed, power, shift, power_y, shift_y, random, reml):
    data = slopes_by_group(seed)
    first = cs.lmm(f"y ~ x*f + {random}", data, reml=reml)
    unit, unit_y = 10.0**power, 10.0**power_y
    changed = data.assign(x=(data["x"] + shift * data["x"].std()) * unit, y=(data["y"] + shift_y) * unit_y)
    second = cs.lmm(f"y ~ x*f + {random}", changed, reml=reml)
    for term in ("x", "x:f[T.b]"):
        assert said(second, term) == pytest.approx(said(first, term), rel=1e-5, abs=1e-8)
    np.testing.assert_allclose(second.fittedvalues / unit_y - shift_y, first.fittedvalues, atol=1e-6)
    if not reml:
        assert second.llf + 200 * np.log(unit_y) == pytest.approx(first.llf, abs=1e-5)


@pytest.mark.slow
@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000), st.floats(-6, 8))
def test_uncorrelated_slopes_may_be_scaled(seed, power):
    data = slopes_by_group(seed)
    first = cs.lmm("y ~ x + (x||g)", data)
    second = cs.lmm("y ~ x + (x||g)", data.assign(x=data["x"] * 10.0**power))
    assert said(second) == pytest.approx(said(first), rel=1e-6)


def test_time_in_seconds_since_1970():
    data = slopes_by_group(1)
    first = cs.lmm("y ~ x + (x|g)", data)
    second = cs.lmm("y ~ x + (x|g)", data.assign(x=1.76e9 + 86_400 * data["x"]))
    assert said(second) == pytest.approx(said(first), rel=1e-6)


@pytest.mark.parametrize("power", [-8, -4, 0, 5, 8])
def test_units_of_the_response(power):
    rng = np.random.default_rng(5)
    g, x, z = np.repeat(np.arange(8), 4), np.tile([0, 0, 1, 1], 8), np.repeat(np.arange(8) % 2, 4)
    y = 1 + 0.3 * x + 0.5 * z + rng.normal(size=8)[g] * 0.7 + rng.normal(size=32) * 0.5
    fit = cs.lmm("y ~ x + z + (1|g)", pd.DataFrame({"y": y * 10.0**power, "x": x, "z": z, "g": g}))
    assert list(fit.df_tests) == pytest.approx([6.77, 23, 6], abs=5e-3)


def test_weights_are_repeated_rows():
    """A row of weight 2 has half the variance; its likelihood is that of the model with known ratios of variances."""
    data = slopes_by_group(2)
    doubled = cs.lmm("y ~ x + (1|g)", data, weights=np.full(200, 2.0))
    plain = cs.lmm("y ~ x + (1|g)", data)
    assert doubled.llf == pytest.approx(plain.llf, abs=1e-8)
    assert doubled.sigma == pytest.approx(np.sqrt(2) * plain.sigma, rel=1e-6)
    np.testing.assert_allclose(doubled.bse, plain.bse, rtol=1e-6)


@pytest.mark.slow
def test_weighted_likelihood_in_closed_form():
    data = slopes_by_group(3).assign(w=np.random.default_rng(1).uniform(0.3, 3, 200))
    fit = cs.lmm("y ~ x + (x|g)", data, weights="w", reml=False)
    z = np.column_stack([np.ones(200), data["x"]])
    root = fit.roots[0]
    same = data["g"].to_numpy()[:, None] == data["g"].to_numpy()
    cov = same * (z @ root @ root.T @ z.T) + np.diag(fit.sigma**2 / data["w"])
    expected = stats.multivariate_normal.logpdf(data["y"], z @ fit.beta, cov)
    assert fit.llf == pytest.approx(expected, abs=1e-8)
    draws = fit.simulate(3000, rng=np.random.default_rng(0))
    np.testing.assert_allclose(np.var(draws, axis=1), np.diag(cov), rtol=0.2)


def test_an_offset_is_taken_off_the_response():
    data = slopes_by_group(4).assign(o=lambda d: d["x"] ** 2)
    plain = cs.lmm("y ~ x + (1|g)", data.assign(y=data["y"] - data["o"]))
    for fit in (cs.lmm("y ~ x + (1|g)", data, offset="o"), cs.lmm("y ~ x + offset(o) + (1|g)", data)):
        np.testing.assert_allclose(fit.params, plain.params, rtol=1e-9)
        np.testing.assert_allclose(fit.fittedvalues - data["o"], plain.fittedvalues, atol=1e-8)
        np.testing.assert_allclose(fit.predict(data.iloc[[3, 9]]), fit.fittedvalues[[3, 9]])


def test_roots_and_bases():
    rng = np.random.default_rng(0)
    columns = np.column_stack([np.ones(50), 1e4 + rng.normal(size=50)])
    basis, back = orthogonal(columns)
    np.testing.assert_allclose(basis.T @ basis / 50, np.eye(2), atol=1e-12)
    np.testing.assert_allclose(columns @ back, basis, atol=1e-7)
    m = rng.normal(size=(3, 3))
    root = lower_root(m)
    np.testing.assert_allclose(root @ root.T, m @ m.T, atol=1e-12)
    assert np.all(np.diag(root) >= 0) and np.all(np.triu(root, 1) == 0)
    at = make_coordinates(make_frame("y ~ x + (x|g)", slopes_by_group(0), family=NORMAL))
    theta = np.array([0.7, -0.2, 0.4])
    np.testing.assert_allclose(at.theta_inward(at.theta_outward(theta)), theta, rtol=1e-10)


def test_a_certificate_that_says_no_warns_with_the_culprit():
    """Two random slopes of the same column for two groupings of the same rows are not told apart."""
    data = slopes_by_group(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cs.lmm("y ~ x + (x|g)", data)
    with pytest.warns(UserWarning, match="(?s)may not have converged.*random Intercept") as caught:
        cs.lmm("y ~ x + (1|g) + (1|h)", data.assign(h="g" + data["g"].astype(str)))
    assert len(caught) == 1


WITH_UNITS = ("gaussian", "lognormal", "gamma")
"""Families whose response has a unit."""


def invariant(fit):
    """Statistics and log p-values (k, 2) of the coefficients that no unit and no origin of x changes."""
    table = fit.tidy()
    table = table[table["term"].isin(["x", "x:f[T.b]"])]
    return np.column_stack([table["statistic"], np.log(table["p_value"])])


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=3, deadline=None)
@given(seed=st.integers(0, 50), power=st.floats(-6, 8), shift=st.floats(-1e4, 1e4), power_y=st.floats(-8, 8),
       random=st.sampled_from(["(x|g)", "(1|g)"]))
def test_no_unit_and_no_origin_matters_to_any_family(name, seed, power, shift, power_y, random):
    data = simulated(name, seed, groups=20).assign(f=lambda d: np.where(np.arange(len(d)) % 2, "a", "b"))
    unit_y = 10.0**power_y if name in WITH_UNITS else 1.0
    x = (data["x"] + shift * data["x"].std()) * 10.0**power
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        first, second = (fitted(name, rows, f"x*f + {random}")
                         for rows in (data, data.assign(x=x, y=data["y"] * unit_y)))
    assert (second.converged, second.singular) == (first.converged, first.singular)
    assert second.llf + len(data) * np.log(unit_y) == pytest.approx(first.llf, abs=1e-4)
    if first.converged:
        np.testing.assert_allclose(invariant(second), invariant(first), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("shift", [1e2, 1e4, -1e4])
def test_ordered_categories_know_no_origin(shift):
    """No intercept takes a shift of x up: the thresholds must."""
    rng = np.random.default_rng(1)
    g, x, b = np.repeat(np.arange(15), 15), rng.normal(size=225), rng.normal(size=(15, 2)) * [0.8, 0.4]
    eta = 0.5 * x + b[g, 0] + b[g, 1] * x
    y = 1.0 + (rng.logistic(size=225) + eta > np.array([-1.5, 0, 1.2])[:, None]).sum(axis=0)
    here, there = (cs.glmm("y ~ x + (x | g)", pd.DataFrame({"y": y, "x": x + move, "g": g}), family="cumulative")
                   for move in (0, shift))
    assert there.converged and there.llf == pytest.approx(here.llf, abs=1e-6)
    assert there.tvalues["x"] == pytest.approx(here.tvalues["x"], rel=1e-3)
    moved = here.thresholds + shift * here.params["x"]
    np.testing.assert_allclose(there.thresholds, moved, rtol=1e-5)
