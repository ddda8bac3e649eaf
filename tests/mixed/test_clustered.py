"""Clustered standard errors against R's clubSandwich, and the sandwich of the clusters' own scores in glmmTMB."""

import json
import pickle

import numpy as np
import pandas as pd
import pytest
from r_references import GOLDEN

import canopy_stats as cs
from canopy_stats.mixed import glmm, lmm

REFERENCE = json.loads((GOLDEN / "clustered.json").read_text())
FITS = {fit["name"]: fit for fit in REFERENCE["fits"]}
KINDS = ["CR0", "CR1", "CR2", "CR3"]


@pytest.fixture(scope="module")
def schools():
    return pd.DataFrame(REFERENCE["data"])


@pytest.fixture(scope="module")
def plain(schools):
    return {
        "lmer": lmm("y ~ x + arm + (1 | school)", schools),
        "lmer nested": lmm("y ~ x + arm + (1 + x | school) + (1 | class)", schools),
        "lmer ml": lmm("y ~ x + arm + (1 | class)", schools, reml=False),
        "lm": glmm("y ~ x + arm", schools, family="gaussian"),
        "logit": glmm("hit ~ x + arm", schools, family="binomial"),
        "poisson": glmm("count ~ x + arm", schools, family="poisson"),
    }


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", list(FITS))
def test_errors_and_degrees_of_freedom_are_those_of_clubsandwich(plain, schools, name, kind):
    theirs = FITS[name]["tests"][KINDS.index(kind)]
    fit = plain[name].robust(schools["school"], kind)
    # Where lme4 and we stop in the variances moves the errors by some 1e-6; Hessians are differenced to about 1e-5.
    np.testing.assert_allclose(fit.cov_params(), theirs["vcov"], rtol=5e-5, atol=2e-6)
    np.testing.assert_allclose(fit.df_tests, theirs["df"], rtol=5e-5)
    joint = cs.anova(fit).iloc[-1]  # the two dummies of the arm
    assert joint["statistic"] == pytest.approx(theirs["f"], rel=1e-4)
    assert joint["den_df"] == pytest.approx(theirs["f_df"], rel=1e-4)
    assert joint["p_value"] == pytest.approx(theirs["f_p"], rel=1e-3)


@pytest.mark.parametrize(("name", "formula", "dispersion"), [
    ("binomial", "hit ~ x + (1 | school)", "~ 1"), ("nbinom2", "count ~ x + (1 | school)", "~ 1"),
    ("gaussian", "y ~ x + (1 | school)", "~ x")])
def test_mixed_models_have_the_sandwich_of_their_clusters_scores(schools, name, formula, dispersion):
    theirs = REFERENCE[name]
    fit = glmm(formula, schools, family=name, dispersion=dispersion).robust("school", "CR0")
    np.testing.assert_allclose(fit.params, theirs["beta"], rtol=1e-4)
    np.testing.assert_allclose(fit.cov_params(), theirs["vcov"], rtol=1e-3, atol=1e-6)
    if dispersion == "~ x" or name == "nbinom2":
        np.testing.assert_allclose(fit.bse_dispersion, np.atleast_1d(theirs["dispersion_se"]), rtol=1e-3)


def test_quadrature_and_thresholds_have_clustered_errors_too(schools):
    laplace = glmm("hit ~ x + (1 | school)", schools, family="binomial").robust("school")
    finer = glmm("hit ~ x + (1 | school)", schools, family="binomial", quadrature=15).robust("school")
    np.testing.assert_allclose(finer.bse, laplace.bse, rtol=0.05)
    assert np.all(finer.bse != laplace.bse)
    two = glmm("hit ~ x", schools, family="binomial").robust(schools["school"], "CR0")
    ordered = glmm("hit ~ x", schools, family="cumulative").robust(schools["school"], "CR0")
    assert ordered.bse["x"] == pytest.approx(two.bse["x"], rel=1e-4)
    assert ordered.bse_thresholds.iloc[0] == pytest.approx(two.bse["Intercept"], rel=1e-4)


def test_no_unit_matters(schools):
    formula = "y ~ x + (1 + x | school)"
    here = lmm(formula, schools).robust("school")
    there = lmm(formula, schools.assign(x=schools["x"] * 1e6 + 1e8, y=schools["y"] * 1e-4)).robust("school")
    assert there.tvalues["x"] == pytest.approx(here.tvalues["x"], rel=1e-4)
    assert there.df_tests["x"] == pytest.approx(here.df_tests["x"], rel=1e-4)


def test_every_question_to_the_fit_uses_them(plain, schools):
    fit = plain["lmer"].robust("school")
    assert "CR2, clustered by school (12 clusters)" in fit.summary() and "CR2" in fit._repr_html_()
    assert fit.tidy()["std_error"][1] == fit.bse["x"] != plain["lmer"].bse["x"]
    row = cs.hypothesis(fit, "x = 0").iloc[0]
    assert (row["std_error"], row["df"]) == pytest.approx((fit.bse["x"], fit.df_tests["x"]))
    pair = cs.means(fit, "arm", contrasts={"b - a": [-1, 1, 0]}, adjust="none").iloc[0]
    assert (pair["std_error"], pair["df"]) == pytest.approx((fit.bse["arm[T.b]"], fit.df_tests["arm[T.b]"]))
    again = fit.refit(schools["y"].to_numpy() * 2)
    assert again.bse["x"] == pytest.approx(2 * fit.bse["x"], rel=1e-5)
    assert again.errors == fit.errors
    np.testing.assert_allclose(pickle.loads(pickle.dumps(fit)).df_tests, fit.df_tests)
    other = fit.robust("school", "CR0")
    np.testing.assert_allclose(other.bse, plain["lmer"].robust("school", "CR0").bse, rtol=1e-6)


def test_clusters_by_series_array_and_name_are_the_same(plain, schools):
    shuffled = schools["school"].sample(frac=1, random_state=2)
    for cluster in ("school", shuffled, schools["school"].to_numpy(), schools["school"].astype(str).tolist()):
        np.testing.assert_allclose(plain["lmer"].robust(cluster).bse, plain["lmer"].robust("school").bse)


@pytest.mark.parametrize(("cluster", "words"), [
    ("clas", "not among the fitted columns"), ([1, 2, 3], "a value for each of the 80 rows"),
    (np.ones(80), "one cluster only"), (np.arange(80), "Levels of school occur in several clusters"),
    (pd.Series(np.ones(80), index=np.arange(80) + 7), "The index of cluster")])
def test_what_makes_no_clusters_is_refused(plain, cluster, words):
    with pytest.raises(cs.UserError, match=words):
        plain["lmer"].robust(cluster)


def test_what_would_not_use_them_is_refused(plain, schools, tmp_path):
    fit = plain["lmer"].robust("school")
    with pytest.raises(cs.UserError, match="kind is 'HC3'"):
        fit.robust("school", "HC3")
    with pytest.raises(cs.UserError, match="save the fit before robust"):
        fit.save(tmp_path / "fit")
    with pytest.raises(cs.UserError, match="likelihood ratios trust the model"):
        cs.anova(fit, lmm("y ~ x + arm + (1 + x | school)", schools))
    with pytest.raises(cs.UserError, match="degrees of freedom of their own"):
        cs.anova(fit, ddf="kenward-roger")
    with pytest.raises(cs.UserError, match="use the fit before robust"):
        cs.power(fit, {"x": 0.5}, along={"school": [24]}, n=10, seed=1)
    with pytest.raises(cs.UserError, match="use the fit before robust"):
        cs.bootstrap(fit, 5, seed=1, cluster="school")
    assert cs.bootstrap(fit, 3, seed=1).n_failed == 0
