"""Linear mixed models against lme4 and lmerTest (tests/golden/*.R), statsmodels, and themselves."""

import mixedlm
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from r_references import REFERENCE

import canopy_stats as cs
from canopy_stats.mixed import AliasedWarning
from canopy_stats.schema import UserError

INSIDE = ["a.lmm_main", "a.lmm_interaction", "a.lmm_interaction_ml", "c.lmm_slope", "c.lmm_slope_crossed",
          "c.lmm_uncorrelated"]


@pytest.mark.parametrize("name", INSIDE)
def test_agrees_with_lme4(name, golden, panel, named):
    expected = golden[name]
    fit = cs.lmm(expected["formula"], panel(name[0]), reml=not name.endswith("_ml"), reference=REFERENCE)
    errors = named(expected["bse"])
    assert fit.llf == pytest.approx(expected["logLik"], abs=1e-4)
    assert set(fit.params.index) == set(errors.index)
    assert ((fit.params - named(expected["params"])) / errors).abs().max() < 5e-4
    assert (fit.bse / errors - 1).abs().max() < 1e-4
    assert (fit.df_tests / named(expected["df"]) - 1).abs().max() < 1e-4
    assert fit.converged and not fit.singular


@pytest.mark.parametrize("name", INSIDE)
def test_variances_of_lme4(name, golden, panel):
    fit = cs.lmm(golden[name]["formula"], panel(name[0]), reml=not name.endswith("_ml"), reference=REFERENCE)
    expected = {(v["grp"].removesuffix(".1"), v.get("var1", ""), v.get("var2")): v for v in golden[name]["varcorr"]}
    for row in fit.varcorr().itertuples():
        rename = {"Intercept": "(Intercept)"}
        key = (row.group, rename.get(row.term1, row.term1), row.term2 if isinstance(row.term2, str) else None)
        assert row.variance_or_cov == pytest.approx(expected[key]["vcov"], rel=1e-3)
        assert row.sd_or_corr == pytest.approx(expected[key]["sdcor"], rel=1e-3)
    assert len(fit.varcorr()) == len(expected)


def test_boundary_is_reached_and_reported(golden, panel, named):
    expected = golden["a.lmm_crossed_slope"]
    fit = cs.lmm(expected["formula"], panel("a"), reference=REFERENCE)
    assert fit.llf > expected["logLik"] - 1e-4
    assert ((fit.params - named(expected["params"])) / named(expected["bse"])).abs().max() < 5e-4
    assert fit.singular and fit.certificate.boundary["R_sc | prompt_uid"] < 0
    assert "on the boundary: R_sc | prompt_uid" in str(fit.certificate)


LOADERS = {"sleep": "sleepstudy", "penicillin": "penicillin", "pastes": "pastes"}


@pytest.mark.parametrize("name", ["sleep_slope", "sleep_uncorrelated", "sleep_ml", "penicillin", "pastes_nested"])
def test_classic_data(name, classic):
    expected = classic[name]
    data = getattr(mixedlm, "load_" + LOADERS[name.split("_")[0]])()
    fit = cs.lmm(expected["formula"], data, reml=expected["REML"])
    assert fit.llf == pytest.approx(expected["logLik"], abs=1e-5)
    assert fit.aic == pytest.approx(expected["aic"], abs=1e-4) and fit.bic == pytest.approx(expected["bic"], abs=1e-4)
    np.testing.assert_allclose(fit.params, np.ravel(expected["params"]), rtol=1e-5)
    np.testing.assert_allclose(fit.bse, np.ravel(expected["bse"]), rtol=1e-4)
    np.testing.assert_allclose(fit.df_tests, np.ravel(expected["df"]), rtol=1e-3)
    assert sorted(fit.varcorr()["sd_or_corr"]) == pytest.approx(sorted(expected["sdcor"]), rel=1e-3, abs=1e-4)
    factor = max(fit.ngroups, key=fit.ngroups.get)
    levels = [":".join(reversed(name.split(":"))) for name in expected["group"]]  # lme4 calls a:b in (1|a/b) b:a
    np.testing.assert_allclose(fit.ranef()[factor].loc[levels].to_numpy(), expected["ranef"], atol=2e-3)
    found = fit.ranef(sd=True)[factor].loc[levels].to_numpy()[:, 0]
    np.testing.assert_allclose(found, expected["condsd"], rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("formula", ["Reaction ~ Days + (1|Subject)", "Reaction ~ Days + (1 + Days|Subject)"])
@pytest.mark.parametrize("reml", [True, False])
@pytest.mark.parametrize("engine", ["mixedlm", "statsmodels"])
def test_second_opinion(formula, reml, engine):
    data = mixedlm.load_sleepstudy()
    first, second = (cs.lmm(formula, data, reml=reml, engine=e) for e in ("newton", engine))
    assert second.llf == pytest.approx(first.llf, abs=1e-4)
    np.testing.assert_allclose(second.params, first.params, rtol=1e-4)
    np.testing.assert_allclose(second.bse, first.bse, rtol=1e-2)


def test_tables(sleep):
    table = sleep.tidy()
    assert list(table["term"]) == ["Intercept", "Days"]
    assert table["df"].to_numpy() == pytest.approx(17.0, rel=1e-3)
    interval = sleep.conf_int().loc["Days"]
    assert interval["conf_high"] - 10.46729 == pytest.approx(2.1098 * 1.545790, rel=1e-4)
    assert sleep.glance().loc[0, "nobs"] == 180
    np.testing.assert_allclose(np.sqrt(np.diag(sleep.cov_params())), sleep.bse)
    text = sleep.summary()
    assert "fit by REML" in text and "Subject 18" in text and "converged" in text


def test_predict_modes(sleep):
    data = mixedlm.load_sleepstudy().iloc[:12]
    np.testing.assert_allclose(sleep.predict(data), sleep.fittedvalues[:12])
    population = sleep.predict(data, mode="population")
    np.testing.assert_allclose(population, sleep.params["Intercept"] + sleep.params["Days"] * data["Days"])
    new = data.assign(Subject="someone")
    np.testing.assert_allclose(sleep.predict(new, mode="new_levels"), population)
    with pytest.raises(UserError, match="mode='new_levels'"):
        sleep.predict(new)
    table = sleep.predict(data, mode="population", se=True)
    assert table["se"].iloc[0] == pytest.approx(sleep.bse["Intercept"])


def test_refit_and_simulate(sleep):
    draws = sleep.simulate(3, rng=np.random.default_rng(5))
    assert draws.shape == (180, 3) and np.array_equal(draws, sleep.simulate(3, rng=np.random.default_rng(5)))
    data = mixedlm.load_sleepstudy().assign(Reaction=draws[:, 1])
    fresh, again = cs.lmm(sleep.formula, data), sleep.refit(draws[:, 1])
    np.testing.assert_allclose(again.params, fresh.params, rtol=1e-5)
    assert again.llf == pytest.approx(fresh.llf, abs=1e-6)
    assert sleep.refit(sleep.design.y).llf == pytest.approx(sleep.llf, abs=1e-8)
    with pytest.raises(UserError, match="180 finite numbers"):
        sleep.refit(np.full(180, np.nan))


@pytest.mark.slow
def test_simulated_variances_are_those_of_the_fit(sleep):
    draws = sleep.simulate(4000, rng=np.random.default_rng(6))[:10]
    z = np.column_stack([np.ones(10), np.arange(10)])
    cov = np.array([[612.1, 9.604], [9.604, 35.07]])  # lme4's VarCorr
    expected = z @ cov @ z.T + 654.94 * np.eye(10)
    np.testing.assert_allclose(np.cov(draws), expected, rtol=0.15, atol=60)


def test_aliased_columns_are_nan():
    data = mixedlm.load_sleepstudy()
    with pytest.warns(AliasedWarning, match="Hours"):
        fit = cs.lmm("Reaction ~ Days + Hours + (1|Subject)", data.assign(Hours=24 * data["Days"]))
    assert np.isnan(fit.params["Hours"]) and np.isnan(fit.pvalues["Hours"])
    assert np.isnan(fit.conf_int().loc["Hours"]).all()
    plain = cs.lmm("Reaction ~ Days + (1|Subject)", data)
    assert fit.params["Days"] == pytest.approx(plain.params["Days"]) and fit.llf == pytest.approx(plain.llf)


@pytest.mark.parametrize(("change", "formula", "message"), [
    (lambda d: d.assign(Reaction=1.0), "Reaction ~ Days + (1|Subject)", "Reaction is constant"),
    (lambda d: d.iloc[[0, 1, 10]], "Reaction ~ Days + (1|Subject)", "3 rows, too few for the 4 parameters"),
    (lambda d: d, "Reaction ~ Days", "no random term"),
    (lambda d: d[d["Days"] < 2], "Reaction ~ Days + (1 + Days|Subject)", "drop a random column"),
])
def test_bad_input(change, formula, message):
    with pytest.raises(UserError, match=message):
        cs.lmm(formula, change(mixedlm.load_sleepstudy()))


def test_unknown_engine_and_choices(sleep):
    with pytest.raises(UserError, match="choose one of newton, mixedlm, statsmodels"):
        cs.lmm(sleep.formula, mixedlm.load_sleepstudy(), engine="lme4")
    with pytest.raises(UserError, match="leave engine out"):
        cs.lmm("diameter ~ 1 + (1|plate) + (1|sample)", mixedlm.load_penicillin(), engine="statsmodels")
    with pytest.raises(UserError, match="choose one of population"):
        sleep.predict(mode="median")


@pytest.mark.slow
@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.floats(-50, 50), st.floats(0.01, 100))
def test_invariants(seed, constant, unit):
    """Row order, names of levels, a constant added to the response, units of a predictor: estimates follow."""
    rng = np.random.default_rng(seed)
    data = pd.DataFrame({"g": np.repeat(np.arange(9), 6), "x": rng.normal(size=54)})
    data["y"] = 1 + data["x"] + rng.normal(size=9)[data["g"]] + rng.normal(size=54)
    first = cs.lmm("y ~ x + (1|g)", data)
    changed = data.sample(frac=1, random_state=seed).assign(
        g=lambda d: "name" + (100 - d["g"]).astype(str), y=lambda d: d["y"] + constant, x=lambda d: d["x"] * unit,
    )
    second = cs.lmm("y ~ x + (1|g)", changed)
    assert second.params["x"] * unit == pytest.approx(first.params["x"], rel=1e-4, abs=1e-5)
    assert second.params["Intercept"] - constant == pytest.approx(first.params["Intercept"], rel=1e-4, abs=1e-4)
    assert second.llf + np.log(unit) == pytest.approx(first.llf, abs=1e-4)
    assert second.pvalues["x"] == pytest.approx(first.pvalues["x"], rel=1e-2, abs=1e-6)


def test_order_of_random_terms_and_pieces_of_the_data():
    """Crossed factors in either order; a frame put together from pieces, with repeated row labels."""
    data = mixedlm.load_penicillin()
    first = lmm_of("(1|plate) + (1|sample)", data)
    second = lmm_of("(1|sample) + (1|plate)", data)
    pieces = pd.concat([part.reset_index(drop=True) for _, part in data.groupby("sample")][::-1])
    third = lmm_of("(1|plate) + (1|sample)", pieces)
    for other in (second, third):
        assert other.llf == pytest.approx(first.llf, abs=1e-6)
        for name in ("plate", "sample"):
            np.testing.assert_allclose(other.ranef()[name], first.ranef()[name], atol=1e-4)


def lmm_of(random, data):
    return cs.lmm(f"diameter ~ 1 + {random}", data)


def test_nearly_dependent_columns():
    """Days and their square far from zero: the same parabola in another origin."""
    data = mixedlm.load_sleepstudy()
    text = "Reaction ~ Days + I(Days**2) + (1|Subject)"
    near, far = cs.lmm(text, data), cs.lmm(text, data.assign(Days=data["Days"] + 500))
    assert far.tvalues.iloc[-1] == pytest.approx(near.tvalues.iloc[-1], rel=1e-5)
    assert far.df_tests.iloc[-1] == pytest.approx(near.df_tests.iloc[-1], rel=1e-3)
    assert far.llf == pytest.approx(near.llf, abs=1e-4)
    np.testing.assert_allclose(far.predict(se=True), near.predict(se=True), rtol=1e-4)


def test_predictions_with_errors_are_hendersons(sleep):
    """Standard errors of x'beta + z'b from the mixed-model equations, written out densely."""
    data = mixedlm.load_sleepstudy()
    x = np.column_stack([np.ones(180), data["Days"]])
    codes = pd.factorize(data["Subject"])[0]
    z = np.zeros((180, 36))
    z[np.arange(180), 2 * codes], z[np.arange(180), 2 * codes + 1] = 1.0, data["Days"]
    rows = sleep.varcorr()["variance_or_cov"]
    cov = np.array([[rows[0], rows[2]], [rows[2], rows[1]]])
    w = np.hstack([x, z]) / sleep.sigma
    penalty = np.zeros((38, 38))
    penalty[2:, 2:] = np.kron(np.eye(18), np.linalg.inv(cov))
    joint = np.linalg.inv(w.T @ w + penalty)
    rows_of = np.hstack([x, z])
    expected = np.sqrt(np.einsum("ij,jk,ik->i", rows_of, joint, rows_of))
    np.testing.assert_allclose(sleep.predict(se=True)["se"], expected, rtol=1e-6)
