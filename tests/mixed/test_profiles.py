"""Profile intervals: lme4's, where the likelihood-ratio test just rejects, and at the ends of a parameter's range."""

import numpy as np
import pandas as pd
import pytest
from scipy import optimize, stats

from canopy_stats.mixed import glmm, lmm, profile
from canopy_stats.mixed.inference.profiles import _raised, likelihood
from canopy_stats.mixed.inference.quantities import Correlation, linear
from canopy_stats.schema import UserError


def test_profile_of_the_linear_model_is_lme4s(sleep):
    """R: confint(lmer(Reaction ~ Days + (1 + Days|Subject), sleepstudy))."""
    table = profile(sleep, ["Intercept", "Days", "random Intercept | Subject"]).set_index("term")
    expected = {"Intercept": (237.6807, 265.1295), "Days": (7.3587, 13.5759),
                "random Intercept | Subject": (14.3815, 37.7160)}
    for term, ends in expected.items():
        assert tuple(table.loc[term, ["conf_low", "conf_high"]]) == pytest.approx(ends, rel=1e-4)


@pytest.mark.slow
def test_standard_deviations_and_correlations_are_profiled_as_such(sleep):
    """R: confint(profile(lmer(Reaction ~ Days + (Days|Subject), sleepstudy))): .sig01, .sig02, .sig03."""
    expected = {"sd Intercept | Subject": (14.381, 37.716), "cor Intercept, Days | Subject": (-0.482, 0.685),
                "sd Days | Subject": (3.801, 8.753)}
    table = profile(sleep, list(expected)).set_index("term")
    for term, ends in expected.items():
        assert tuple(table.loc[term, ["conf_low", "conf_high"]]) == pytest.approx(ends, abs=6e-4)
    ml = sleep.by_likelihood().varcorr()["sd_or_corr"]
    np.testing.assert_allclose(table["estimate"], [ml[0], ml[2], ml[1]], rtol=1e-4)


def test_profile_beside_a_variance_of_zero():
    """lme4's Dyestuff2, where the variance is zero at the maximum but not along the profile of the mean.

    R: confint(lmer(Yield ~ 1 + (1|Batch), Dyestuff2, REML = FALSE)).
    """
    y = [7.2980, 3.8460, 2.4340, 9.5660, 7.9900, 5.2200, 6.5560, 0.6080, 11.7880, -0.8920, 0.1100, 10.3860, 13.4340,
         5.5100, 8.1660, 2.2120, 4.8520, 7.0920, 9.2880, 4.9800, 0.2820, 9.0140, 4.4580, 9.4460, 7.1980, 1.7220, 4.7820,
         8.1060, 0.7580, 3.7580]
    fit = lmm("y ~ 1 + (1|b)", pd.DataFrame({"y": y, "b": np.arange(30) // 5}))
    row = profile(fit).iloc[0]
    assert (row["conf_low"], row["conf_high"]) == pytest.approx((4.3128, 7.0184), abs=1e-4)
    assert profile(fit, ["sd Intercept | b"]).iloc[0]["conf_low"] == 0


@pytest.mark.slow
def test_profile_of_a_third_random_column():
    """The order in which random columns are written changes neither their deviations' nor their correlations' ends."""
    rng = np.random.default_rng(4)
    g = np.repeat(np.arange(25), 12)
    x, z = rng.normal(size=(2, 300))
    b = rng.normal(size=(25, 3)) @ np.array([[0.8, 0.3, 0.2], [0, 0.6, -0.2], [0, 0, 0.5]])
    frame = pd.DataFrame({"y": b[g, 0] + b[g, 1] * x + b[g, 2] * z + rng.normal(size=300), "x": x, "z": z, "g": g})
    first = profile(lmm("y ~ x + z + (1 + x + z|g)", frame), ["sd z | g", "cor x, z | g"])
    second = profile(lmm("y ~ x + z + (1 + z + x|g)", frame), ["sd z | g", "cor z, x | g"])
    for name in ("estimate", "conf_low", "conf_high"):
        np.testing.assert_allclose(first[name], second[name], rtol=1e-3)


def test_profile_ends_are_where_the_test_just_rejects(beta, data):
    row = profile(beta, ["x:f[T.b]"]).iloc[0]
    for end in (row["conf_low"], row["conf_high"]):
        fixed = glmm("y ~ x + f + (1|g)", data.assign(o=end * data["x"] * (data["f"] == "b")), offset="o")
        assert 2 * (beta.llf - fixed.llf) == pytest.approx(stats.chi2.ppf(0.95, 1), abs=1e-3)
    assert row["wald_low"] == pytest.approx(beta.conf_int().loc["x:f[T.b]", "conf_low"], rel=1e-4)


def test_profile_of_a_small_variance_starts_at_zero(data):
    flat = data.assign(g=np.tile(np.arange(30), 6))
    row = profile(glmm("y ~ x*f + (1|g)", flat), ["random Intercept | g"]).iloc[0]
    assert row["conf_low"] == 0 and row["conf_high"] > 0


def test_profile_of_unknown_terms(beta):
    with pytest.raises(UserError, match="Cannot profile z; the parameters are: Intercept, "):
        profile(beta, ["z"])


@pytest.mark.slow
def test_default_terms_and_columns(beta):
    table = profile(beta)
    assert list(table["term"]) == ["Intercept", "x", "f[T.b]", "x:f[T.b]"]
    assert list(table.columns) == ["term", "estimate", "conf_low", "conf_high", "wald_low", "wald_high"]
    np.testing.assert_allclose(table["estimate"], beta.params, atol=1e-4)
    narrow = profile(beta, ["x"], level=0.5).iloc[0]
    whole = table.iloc[1]
    assert whole["conf_low"] < narrow["conf_low"] < narrow["conf_high"] < whole["conf_high"]
    width = (narrow["wald_high"] - narrow["wald_low"]) / (whole["wald_high"] - whole["wald_low"])
    assert width == pytest.approx(stats.norm.ppf(0.75) / stats.norm.ppf(0.975))


def test_several_unknown_terms_are_named(beta):
    with pytest.raises(UserError, match=r"^Cannot profile z, w; the parameters are: Intercept, x, f\[T\.b\], "
                                        r"x:f\[T\.b\], dispersion Intercept, sd Intercept \| g\.$"):
        profile(beta, ["z", "x", "w"])


def test_wald_ends_of_deviations_and_correlations_are_those_of_the_curvature(sleep):
    """The delta method by differences of the correlation, rho = a / sqrt(a^2 + b^2), and of the deviation."""
    found = likelihood(sleep)
    covariance, first, natural = np.linalg.inv(found.hessian), found.problem.sizes.fixed, found.own.natural
    low, diagonal = (first + int(found.problem.factors[0].pattern[1, k]) for k in (0, 1))
    quantities = {
        "cor Intercept, Days | Subject": lambda x: natural(x)[low] / np.hypot(natural(x)[low], natural(x)[diagonal]),
        "sd Intercept | Subject": lambda x: natural(x)[first + int(found.problem.factors[0].pattern[0, 0])]}
    table = profile(sleep, list(quantities)).set_index("term")
    for name, quantity in quantities.items():
        gradient = optimize.approx_fprime(found.omega, quantity, 1e-6)
        se = np.sqrt(gradient @ covariance @ gradient)
        row = table.loc[name]
        assert (row["wald_high"] - row["wald_low"]) / 2 == pytest.approx(stats.norm.ppf(0.975) * se, rel=1e-3)
        assert (row["wald_high"] + row["wald_low"]) / 2 == pytest.approx(row["estimate"])


def test_a_correlation_that_one_cannot_exclude_ends_at_one():
    """Eight groups whose slopes follow their intercepts; the sign of x turns the interval about zero."""
    rng = np.random.default_rng(5)
    g, x = np.repeat(np.arange(8), 12), np.tile(np.linspace(-1, 1, 12), 8)
    b = rng.normal(size=8)
    frame = pd.DataFrame({"y": b[g] * (1 + 0.8 * x) + rng.normal(size=96), "x": x, "g": g})
    rows = [profile(lmm("y ~ x + (1 + x|g)", frame.assign(x=sign * x)), ["cor Intercept, x | g"]).iloc[0]
            for sign in (1, -1)]
    assert rows[0]["conf_high"] == 1.0 and -1 < rows[0]["conf_low"] < rows[0]["estimate"]
    assert rows[1]["conf_low"] == -1.0 and rows[1]["conf_high"] == pytest.approx(-rows[0]["conf_low"], abs=1e-4)


def test_coordinates_of_a_correlation_go_there_and_back():
    """(a, b) of a covariance factor's row as (rho, s); gradients follow by the chain rule."""
    quantity, omega = Correlation(2, scale=1), np.array([9.0, 0.8, -0.6])
    x = quantity.start(omega)
    np.testing.assert_allclose(x, [9.0, 1.0, -0.6])
    np.testing.assert_allclose(quantity.omega(x), omega)
    function = lambda w: w[0] * w[1] ** 2 + 3 * w[2] * w[1] + np.exp(w[2])  # noqa: E731
    slope = optimize.approx_fprime(omega, function, 1e-7)
    expected = optimize.approx_fprime(x, lambda at: function(quantity.omega(at)), 1e-7)
    np.testing.assert_allclose(quantity.pull(x, slope), expected, rtol=1e-5)


def test_coordinates_of_a_linear_function_go_there_and_back():
    quantity, omega = linear(np.array([0.5, -3.0, 1.0])), np.array([9.0, 0.8, -0.6])
    x = quantity.start(omega)
    np.testing.assert_allclose(x, [9.0, 0.5 * 9 - 3 * 0.8 - 0.6, -0.6])
    np.testing.assert_allclose(quantity.omega(x), omega)
    function = lambda w: w[0] * w[1] ** 2 + 3 * w[2] * w[1] + np.exp(w[2])  # noqa: E731
    slope = optimize.approx_fprime(omega, function, 1e-7)
    expected = optimize.approx_fprime(x, lambda at: function(quantity.omega(at)), 1e-7)
    np.testing.assert_allclose(quantity.pull(x, slope), expected, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("shift", [0, 1e4])
@pytest.mark.parametrize("unit", [1e-6, 1, 1e8])
@pytest.mark.parametrize("unit_y", [1e-8, 1e8])
def test_profiles_know_no_unit_and_no_origin(sleep, shift, unit, unit_y):
    """A column far from zero and any units: the ends of what such a change leaves alone."""
    data = sleep.design.data
    days = (data["Days"] + shift * data["Days"].std()) * unit
    moved = lmm(sleep.formula, data.assign(Days=days, Reaction=data["Reaction"] * unit_y))
    terms = ["Days", "sd Days | Subject"]
    here, there = profile(sleep, terms).iloc[:, 1:], profile(moved, terms).iloc[:, 1:]
    np.testing.assert_allclose(there.iloc[:, :3] * unit / unit_y, here.iloc[:, :3], rtol=1e-4)
    np.testing.assert_allclose(there * unit / unit_y, here, rtol=1e-3)


def test_an_interval_begins_at_zero_where_the_test_of_no_variance_does_not_reject():
    """Twice the drop of the log-likelihood to a model without the variance, against the quantile's square."""
    rng = np.random.default_rng(2)
    g = np.repeat(np.arange(12), 6)
    frame = pd.DataFrame({"y": 0.55 * rng.normal(size=12)[g] + rng.normal(size=72), "g": g})
    fit = glmm("y ~ 1 + (1|g)", frame, family="gaussian")
    drop = 2 * (fit.llf - glmm("y ~ 1", frame, family="gaussian").llf)
    assert 1.2 < drop < 3.5
    for factor, begins_at_zero in ((1.02, True), (0.98, False)):
        level = 2 * stats.norm.cdf(np.sqrt(factor * drop)) - 1
        assert (profile(fit, ["sd Intercept | g"], level=level)["conf_low"].item() == 0) is begins_at_zero


def test_only_deviations_near_zero_are_raised_for_a_start():
    rng = np.random.default_rng(3)
    g, h = np.repeat(np.arange(10), 8), np.tile(np.arange(8), 10)
    frame = pd.DataFrame({"y": rng.normal(size=10)[g] + rng.normal(size=8)[h] + rng.normal(size=80), "g": g, "h": h})
    found = likelihood(glmm("y ~ 1 + (1|g) + (1|h)", frame, family="gaussian"))
    first, zero = found.problem.sizes.fixed, found.omega.copy()
    zero[first + 1] = 0.0
    raised = _raised(found.problem, zero)
    assert np.flatnonzero(raised != zero).tolist() == [first + 1] and 0 < raised[first + 1] < found.omega[first + 1]
    np.testing.assert_array_equal(_raised(found.problem, found.omega), found.omega)


def test_a_column_called_random_keeps_its_name():
    rng = np.random.default_rng(4)
    frame = pd.DataFrame({"y": rng.normal(size=60), "random": rng.normal(size=60), "g": np.arange(60) % 6})
    with pytest.raises(UserError, match=r"sd Intercept \| g, cor Intercept, random \| g, sd random \| g\.$"):
        profile(glmm("y ~ 1 + (1 + random|g)", frame, family="gaussian"), ["z"])
