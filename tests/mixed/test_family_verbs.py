"""What every fit can do, for every family: draw, refit, predict, profile, bootstrap, residuals, files; refusals."""

import copy
import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
from family_rows import CUTS, KAPPA, NAMES, family_of, fitted, simulated
from hypothesis import given, settings
from hypothesis import strategies as st

from canopy_stats.mixed import anova, bootstrap, glmm, lmm, load_fit, profile, quantile_residuals, variance_shares
from canopy_stats.schema import UserError


@pytest.fixture(scope="module")
def fits():
    made = {}

    def fit(name):
        if name not in made:
            made[name] = fitted(name, simulated(name, 6))
        return made[name]

    return fit


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_estimates_are_near_the_truth(name, fits):
    fit = fits(name)
    assert fit.converged
    assert abs(fit.params["x"] - 0.5) < 4 * fit.bse["x"]
    assert fit.varcorr()["sd_or_corr"].iloc[0] == pytest.approx(0.6, abs=0.4)
    if fit.frame.family.zero:
        assert abs(fit.params_zero["Intercept"] + 1.0) < 4 * fit.bse_zero["Intercept"]
    if fit.frame.family.has_dispersion:
        assert abs(fit.params_dispersion.iloc[0] - KAPPA.get(name, 1.0)) < 4 * fit.bse_dispersion.iloc[0]
    if name in CUTS:
        truth = family_of(name).cuts.points(CUTS[name]) - (0.4 if name == "cumulative" else 0.0)
        assert np.all(np.abs(fit.thresholds - truth) < 4 * fit.bse_thresholds)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_draws_are_refitted(name, fits):
    fit = fits(name)
    drawn = fit.simulate(rng=np.random.default_rng(1))[:, 0]
    again = fit.refit(drawn)
    assert again.converged and again.frame.family.name == fit.frame.family.name
    assert abs(again.params["x"] - fit.params["x"]) < 5 * fit.bse["x"]
    assert fit.refit(fit.design.y).llf == pytest.approx(fit.llf, abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_predictions(name, fits):
    fit, data = fits(name), simulated(name, 6)
    one, both = fit.predict(scale="link", se=True), fit.predict(data, scale="link", se=True)
    np.testing.assert_allclose(one, both, rtol=1e-9)
    means = np.asarray(fit.predict(data))
    if name == "cumulative":
        assert means.shape == (len(data), 4)
        np.testing.assert_allclose(means.sum(axis=1), 1)
        np.testing.assert_allclose(means @ np.arange(1, 5), fit.fittedvalues)
        assert list(fit.predict(data).columns) == ["1", "2", "3", "4"]
        with pytest.raises(UserError, match="scale='link'"):
            fit.predict(se=True)
    else:
        np.testing.assert_allclose(means, fit.fittedvalues)
    assert np.corrcoef(fit.resid, fit.fittedvalues)[0, 1] < 0.3 and abs(fit.resid.mean()) < 0.3 * fit.resid.std()


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_files_pickles_and_copies(name, fits, tmp_path):
    fit = fits(name)
    for twin in (load_fit(fit.save(tmp_path / "fit")), pickle.loads(pickle.dumps(fit)), copy.deepcopy(fit)):
        assert twin.llf == pytest.approx(fit.llf, abs=1e-8)
        pd.testing.assert_frame_equal(twin.tidy(), fit.tidy(), rtol=1e-9)
        np.testing.assert_allclose(twin.predict(scale="link"), fit.predict(scale="link"), rtol=1e-6, atol=1e-9)
        same = [f.simulate(rng=np.random.default_rng(3)) for f in (fit, twin)]
        np.testing.assert_allclose(*same)


@pytest.mark.parametrize("name", NAMES)
def test_tables(name, fits):
    fit, family = fits(name), family_of(name)
    table = fit.tidy()
    parts = ["mean", *["dispersion"] * family.has_dispersion, *["zero"] * bool(family.zero),
             *["threshold"] * bool(family.cuts.names)]
    assert list(dict.fromkeys(table["component"])) == parts
    assert np.isfinite(table[["estimate", "std_error", "statistic", "p_value", "conf_low", "conf_high"]]).all(axis=None)
    text = fit.summary()
    assert all(f"Coefficients ({part})" in text for part in parts) and fit.family in text


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_profiles_are_near_wald(name, fits):
    table = profile(fits(name), ["x"]).iloc[0]
    width = table["wald_high"] - table["wald_low"]
    assert abs(table["conf_low"] - table["wald_low"]) < 0.2 * width
    assert abs(table["conf_high"] - table["wald_high"]) < 0.2 * width
    assert not table.isna().any()


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_bootstraps(name, fits):
    drawn = bootstrap(fits(name), 6, seed=4)
    assert drawn.n_failed == 0 and list(drawn.estimates.columns) == list(drawn.observed.index)
    assert 0.2 < drawn.std_errors()["x"] / fits(name).bse["x"] < 2.5
    clusters = bootstrap(fits(name), 3, seed=4, cluster="g")
    # A resample of groups may hold too few zeros for a zero part of its own: that replicate is kept as a failure.
    assert clusters.n_failed <= name.startswith("inflated")
    assert all("flat along: zero" in why for why in clusters.failures.values())


@pytest.mark.parametrize("name", NAMES)
def test_residuals_of_the_right_model_are_uniform(name, fits):
    result = quantile_residuals(fits(name), n=60, reference=39, seed=2)
    assert (result.tests["p_value"] > 0.01).all() and len(result.fitted) == fits(name).nobs


def test_residuals_see_the_wrong_family(fits):
    data = simulated("nbinom2", 6)
    result = quantile_residuals(fitted("poisson", data, "x"), n=100, reference=99, seed=2)
    assert result.tests.set_index("test")["p_value"]["dispersion"] < 0.03


@pytest.mark.parametrize("name", NAMES)
def test_shares_of_variance(name, fits):
    shares = variance_shares(fits(name))
    assert 0 < shares.marginal < shares.conditional < 1 and shares.residual > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=2, deadline=None)
@given(seed=st.integers(0, 1000), power=st.floats(-6, 8))
def test_units_of_a_predictor_do_not_matter(name, seed, power):
    data = simulated(name, seed, groups=10, each=12)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        first = fitted(name, data)
        second = fitted(name, data.assign(x=data["x"] * 10**power))
    assert second.llf == pytest.approx(first.llf, abs=1e-6)
    assert second.tvalues["x"] == pytest.approx(first.tvalues["x"], rel=1e-3, abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gamma", "lognormal", "gaussian"])
@pytest.mark.parametrize("unit", [1e-8, 1e-3, 1e8])
def test_units_of_the_response_do_not_matter(name, unit, fits):
    data = simulated(name, 6)
    fit = fitted(name, data.assign(y=data["y"] * unit))
    shift = -len(data) * np.log(unit)
    assert fit.llf == pytest.approx(fits(name).llf + shift, abs=1e-5)
    assert fit.tvalues["x"] == pytest.approx(fits(name).tvalues["x"], rel=1e-4)


def test_lognormal_is_the_linear_model_of_the_logarithm(fits):
    data = simulated("lognormal", 6)
    linear, fit = lmm("log(y) ~ x + (1|g)", data, reml=False), fits("lognormal")
    assert fit.llf == pytest.approx(linear.llf - np.log(data["y"]).sum(), abs=1e-6)
    np.testing.assert_allclose(fit.params, linear.params, rtol=1e-6)
    assert np.exp(fit.params_dispersion.iloc[0] / 2) == pytest.approx(linear.sigma, rel=1e-5)
    mean = np.exp(fit.predict(scale="link") + linear.sigma**2 / 2)
    np.testing.assert_allclose(fit.predict(), mean, rtol=1e-5)


def test_ordered_categories_keep_their_names_and_order():
    data = simulated("cumulative", 6)
    words = pd.Categorical.from_codes(data["y"].astype(int) - 1, ["no", "hardly", "mostly", "yes"], ordered=True)
    named, plain = fitted("cumulative", data.assign(y=words)), fitted("cumulative", data)
    assert list(named.thresholds.index) == ["no|hardly", "hardly|mostly", "mostly|yes"]
    np.testing.assert_allclose(named.thresholds, plain.thresholds, rtol=1e-9)
    assert list(named.predict(data).columns) == ["no", "hardly", "mostly", "yes"]
    spread = fitted("cumulative", data.assign(y=2 * data["y"] + 3))
    assert spread.llf == pytest.approx(plain.llf, abs=1e-8) and list(spread.thresholds.index)[0] == "5|7"
    assert "Intercept" not in plain.params.index
    again = fitted("cumulative", data, "1 + (1|g)")
    assert len(again.params) == 0 and again.predict(data).shape == (len(data), 4)


def test_hurdle_parts_are_separate():
    """The zero part of a hurdle is a binomial model of zero or not, whatever the counts."""
    data = simulated("hurdle_poisson", 6)
    hurdle = glmm("y ~ x", data, family="hurdle_poisson", zero_inflation="~ x")
    zero = glmm("z ~ x", data.assign(z=(data["y"] == 0).astype(float)), family="binomial")
    np.testing.assert_allclose(hurdle.params_zero, zero.params, rtol=1e-6)
    np.testing.assert_allclose(hurdle.bse_zero, zero.bse, rtol=1e-4)


def test_weights_of_whole_numbers_are_repetitions():
    data = simulated("poisson", 6, groups=8, each=6)
    times = np.arange(len(data)) % 3 + 1.0
    weighted = fitted("poisson", data.assign(w=times), weights="w")
    repeated = fitted("poisson", data.loc[data.index.repeat(times.astype(int))])
    assert weighted.llf == pytest.approx(repeated.llf, abs=1e-6)
    np.testing.assert_allclose(weighted.bse, repeated.bse, rtol=1e-5)


def test_shares_with_trials_are_successes(fits):
    data = simulated("binomial", 6).assign(n=lambda d: d["y"] + d["missed"], share=lambda d: d["y"] / d["n"])
    shares = glmm("share ~ x + (1|g)", data, family="binomial", weights="n")
    assert shares.llf == pytest.approx(fits("binomial").llf, abs=1e-8)
    yes = glmm("y ~ x + (1|g)", data.assign(y=data["share"] > 0.5), family="binomial")
    assert yes.nobs == len(data) and yes.converged


def test_summary_warns_of_few_binary_rows():
    data = simulated("binomial", 6, groups=60, each=4).assign(y=lambda d: (d["y"] > d["missed"]).astype(float))
    small = glmm("y ~ x + (1|g)", data, family="binomial")
    assert "g (4)" in small.summary() and "compare quadrature=15" in small.summary()
    better = glmm("y ~ x + (1|g)", data, family="binomial", quadrature=15)
    assert "may be biased" not in better.summary() and "15 nodes" in better.summary()
    assert better.varcorr()["sd_or_corr"].iloc[0] > small.varcorr()["sd_or_corr"].iloc[0]


def test_no_overdispersion_is_said():
    rng = np.random.default_rng(1)
    data = pd.DataFrame({"x": rng.normal(size=200), "g": np.arange(200) % 10})
    data["y"] = rng.poisson(np.exp(1 + 0.3 * data["x"])).astype(float)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit = fitted("nbinom2", data)
    assert "vary as Poisson ones do" in str(fit.certificate)
    plain = fitted("poisson", data)
    assert fit.llf == pytest.approx(plain.llf, abs=1e-4) and np.isfinite(fit.bse).all()
    np.testing.assert_allclose(fit.bse, plain.bse, rtol=1e-3)


COUNTS = pd.DataFrame({"y": [0.0, 1, 2, 3, 1, 4] * 5, "x": np.arange(30) % 7 * 1.0, "g": np.arange(30) % 5,
                       "kind": pd.Categorical(["a", "b", "c"] * 10), "p": np.linspace(0.1, 0.9, 30)})


@pytest.mark.parametrize(("formula", "options", "words"), [
    ("p ~ x", {"family": "poisson"}, "p is not a count .* in rows 0, 1"),
    ("p ~ x", {"family": "binomial"}, "p is not 0 or 1 in rows"),
    ("y ~ x", {"family": "gamma"}, r"y is not positive in rows 0, 6, 12, 18 and 24, which family='gamma'"),
    ("kind ~ x", {"family": "cumulative"}, "ordered"),
    ("p ~ x", {"family": "cumulative"}, "p is no whole number in rows"),
    ("x + 1 ~ y", {"family": "hurdle_poisson"}, "no zero"),
    ("cbind(y, x + 1) ~ p", {"family": "poisson"}, "'binomial' or 'betabinomial'"),
    ("p ~ x", {"family": "beta", "link": "log10"}, "no link 'log10'; choose one of logit, probit, cloglog"),
    ("p ~ x", {"family": "beta", "zero_inflation": "~ 1"}, "no zero inflation; it is for counts: poisson"),
    ("y ~ x", {"family": "poisson", "dispersion": "~ x"}, "family='poisson' has no dispersion to model"),
    ("y ~ x", {"family": "poisson", "zero_inflation": "~ (1|g)"}, "only fixed terms are possible there"),
    ("p ~ x", {"family": "binomial", "weights": "y"}, "weights must be"),
    ("p ~ x", {"family": "binomial", "weights": np.full(30, 2.0)}, "not a whole number of successes"),
    ("y ~ x + (1|g) + (1|kind)", {"family": "poisson", "quadrature": 5}, "one grouping variable with one"),
    ("y ~ x + (1|g)", {"family": "poisson", "quadrature": 0}, "whole number of nodes from 1"),
    ("p ~ x + (1|row)", {"family": "beta"}, "as many levels as there are rows"),
])
def test_refusals_in_one_line(formula, options, words):
    with pytest.raises(UserError, match=words) as caught:
        glmm(formula, COUNTS.assign(row=np.arange(30)), **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("family", "link"), [("binomial", "logit"), ("binomial", "probit"), ("cumulative", "logit")])
def test_complete_separation_is_no_maximum(family, link):
    """A threshold of x decides every answer: the likelihood rises for ever, and no end of a search is a maximum."""
    rng = np.random.default_rng(2)
    data = pd.DataFrame({"x": rng.normal(size=120), "g": np.arange(120) % 10}).assign(y=lambda d: (d["x"] > 0) * 1)
    with pytest.warns(UserWarning, match="(?s)may not have converged.*suspect separation"):
        fit = glmm("y ~ x + (1|g)", data, family=family, link=link)
    assert not fit.converged
    noisy = data.assign(y=(data["x"] + 0.5 * rng.normal(size=120) > 0) * 1)
    assert glmm("y ~ x + (1|g)", noisy, family=family, link=link).converged  # steep, but with a maximum


def test_likelihoods_of_different_quadrature_are_not_compared():
    data = simulated("binomial", 3)
    one, five = (fitted("binomial", data, formula, quadrature=nodes)
                 for formula, nodes in (("1 + (1|g)", 1), ("x + (1|g)", 5)))
    with pytest.raises(UserError, match=r"differ in their quadrature \(1 and 5\)"):
        anova(one, five)
