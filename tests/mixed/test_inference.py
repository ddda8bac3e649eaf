"""Comparisons, bootstraps, slopes, variance shares and residuals."""

import mixedlm
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from canopy_stats.mixed import (
    anova,
    bootstrap,
    glmm,
    lmm,
    means,
    quantile_residuals,
    ratio,
    slopes,
    variance_shares,
)
from canopy_stats.mixed.inference import bootstraps
from canopy_stats.mixed.inference.bootstraps import estimate_values
from canopy_stats.schema import UserError


def test_anova_refits_reml_by_likelihood(sleep):
    """R: anova(lmer(Reaction ~ 1 + (1+Days|Subject)), lmer(Reaction ~ Days + (1+Days|Subject)))."""
    table = anova(sleep, lmm("Reaction ~ 1 + (1 + Days|Subject)", mixedlm.load_sleepstudy()))
    assert table.attrs["notes"] == ["REML fits with different fixed parts were refitted by maximum likelihood."]
    assert table["chi2"].iloc[1] == pytest.approx(23.537, abs=1e-3) and table["df"].iloc[1] == 1
    assert table["p_value"].iloc[1] == pytest.approx(1.226e-06, rel=1e-3)


def test_anova_keeps_reml_for_random_parts(sleep):
    table = anova(lmm("Reaction ~ Days + (1|Subject)", mixedlm.load_sleepstudy()), sleep)
    assert table.attrs["notes"] == [] and table["llf"].iloc[1] == sleep.llf
    assert table["chi2"].iloc[1] == pytest.approx(42.837, abs=1e-3)


def test_anova_refuses_what_cannot_be_compared(sleep, beta):
    with pytest.raises(UserError, match="different responses"):
        anova(sleep, beta)


@pytest.mark.slow
def test_bootstrap_is_the_same_for_any_number_of_workers(beta):
    one, two = (bootstrap(beta, 6, seed=3, workers=workers) for workers in (1, 2))
    pd.testing.assert_frame_equal(one.estimates, two.estimates)
    assert one.n_failed == 0 and list(one.estimates.columns)[-1] == "sd Intercept | g"
    assert not bootstrap(beta, 6, seed=4).estimates.equals(one.estimates)


def test_replicates_are_refits(beta):
    """The quick search for a replicate ends where a whole fit ends."""
    found = bootstrap(beta, 3, seed=7)
    streams = np.random.SeedSequence(7).spawn(3)
    for i, stream in enumerate(streams):
        whole = beta.refit(beta.simulate(rng=np.random.default_rng(stream))[:, 0])
        np.testing.assert_allclose(found.estimates.iloc[i], estimate_values(whole), atol=1e-4)


@pytest.mark.slow
def test_bootstrap_errors_are_near_the_fits(sleep):
    found = bootstrap(sleep, 150, seed=5)
    assert found.std_errors()["Days"] == pytest.approx(sleep.bse["Days"], rel=0.25)
    for kind in ("percentile", "basic", "normal"):
        interval = found.conf_int(kind=kind).loc["Days"]
        assert interval["conf_low"] < sleep.params["Days"] < interval["conf_high"]
    with pytest.raises(UserError, match="choose percentile"):
        found.conf_int(kind="bca")


def test_failed_replicates_are_kept_and_counted(beta, monkeypatch):
    original, calls = bootstraps.simulate, []

    def simulate(fit, rng):
        calls.append(1)
        if len(calls) == 2:
            raise UserError("broken on purpose")
        return original(fit, rng)

    monkeypatch.setattr(bootstraps, "simulate", simulate)
    found = bootstrap(beta, 4, seed=1)
    assert found.failures == {1: "UserError: broken on purpose"} and found.n_failed == 1
    assert found.estimates.isna().all(axis=1).tolist() == [False, True, False, False]


@pytest.mark.slow
def test_cluster_bootstrap(sleep, beta):
    found = bootstrap(sleep, 60, seed=2, cluster="Subject")
    assert found.n_failed == 0 and found.std_errors()["Days"] == pytest.approx(sleep.bse["Days"], rel=0.4)
    assert bootstrap(beta, 3, seed=2, cluster="g").estimates.notna().all(axis=None)
    with pytest.raises(UserError, match="not among the fitted columns"):
        bootstrap(sleep, 5, seed=1, cluster="nobody")


def test_slopes_on_the_link_are_the_coefficients(beta):
    table = slopes(beta, "x", "f").set_index("level")
    assert table.loc["a", "estimate"] == pytest.approx(beta.params["x"], rel=1e-6)
    assert table.loc["b - a", "estimate"] == pytest.approx(beta.params["x:f[T.b]"], rel=1e-6)
    assert table.loc["b - a", "std_error"] == pytest.approx(beta.bse["x:f[T.b]"], rel=1e-6)


def test_slopes_and_means_on_the_response(beta, data):
    table = slopes(beta, "x", "f", scale="response").set_index("level")
    mu = beta.predict(data.assign(f="b"), mode="population")
    expected = np.mean(mu * (1 - mu)) * (beta.params["x"] + beta.params["x:f[T.b]"])
    assert table.loc["b", "estimate"] == pytest.approx(expected, rel=1e-5)
    eta = beta.params["Intercept"] + beta.params["f[T.b]"] + beta.params[["x", "x:f[T.b]"]].sum() * data["x"].mean()
    average = means(beta, "f").set_index("f").loc["b"]
    assert average["estimate"] == pytest.approx(1 / (1 + np.exp(-eta)), rel=1e-9)
    ratio_of_odds = means(beta, "f", contrasts="reference").iloc[0]
    link = means(beta, "f", contrasts="reference", scale="link").iloc[0]
    assert ratio_of_odds["contrast"] == "b / a" and ratio_of_odds["p_value"] == pytest.approx(link["p_value"])
    assert np.log(ratio_of_odds["conf_low"]) == pytest.approx(link["conf_low"])


def test_slopes_of_the_linear_model_have_satterthwaite_df():
    data = mixedlm.load_sleepstudy()
    data = data.assign(half=np.where(data["Subject"].astype(int) % 2 == 0, "even", "odd"))
    fit = lmm("Reaction ~ Days*half + (1|Subject)", data)
    table = slopes(fit, "Days", "half").set_index("level")
    assert table.loc["odd - even", "df"] == pytest.approx(fit.df_tests["Days:half[T.odd]"], rel=1e-6)


def test_slopes_of_a_spline_are_its_derivative(data):
    fit = glmm("y ~ ns(x, df=3)*f + (1|g)", data)
    a = fit.predict(data.assign(f="a", x=data["x"] + 1e-4), mode="population", scale="link")
    b = fit.predict(data.assign(f="a", x=data["x"] - 1e-4), mode="population", scale="link")
    assert slopes(fit, "x", "f")["estimate"][0] == pytest.approx(np.mean(a - b) / 2e-4, rel=1e-5)


@pytest.mark.parametrize(("x", "by", "message"), [
    ("z", "f", "does not use z"), ("f", "f", "f is not numeric"), ("x", "g", "g is not a factor of the fixed part"),
])
def test_slopes_of_what_is_not_there(beta, x, by, message):
    with pytest.raises(UserError, match=message):
        slopes(beta, x, by)


def test_variance_shares_of_the_linear_model(sleep):
    """R: performance::r2_nakagawa gives .279 and .799 for this fit."""
    found = variance_shares(sleep)
    assert (found.marginal, found.conditional) == pytest.approx((0.279, 0.799), abs=1e-3)
    assert found.icc["Subject"] == pytest.approx(found.random["Subject"] / (found.random["Subject"] + found.residual))


def test_variance_shares_of_a_beta_model(beta):
    found = variance_shares(beta)
    assert 0 < found.marginal < found.conditional < 1
    eta = beta.predict(mode="population", scale="link")
    mu, phi = 1 / (1 + np.exp(-eta)), np.exp(beta.params_dispersion.iloc[0])
    assert found.residual == pytest.approx(np.mean(1 / (mu * (1 - mu) * (1 + phi))), rel=1e-6)


def test_quantile_residuals_of_a_true_model(beta):
    found = quantile_residuals(beta, n=100, reference=39, seed=1)
    assert found.residuals.shape == (180,) and np.all((found.residuals > 0) & (found.residuals < 1))
    assert (found.tests["p_value"] > 0.02).all()
    again = quantile_residuals(beta, n=100, reference=39, seed=1)
    np.testing.assert_array_equal(found.residuals, again.residuals)


def test_quantile_residuals_see_a_wrong_dispersion(data):
    """Half of the rows have a precision eight times lower, which the model does not know."""
    rng = np.random.default_rng(3)
    rough = data["f"] == "a"
    y = np.where(rough, rng.beta(1.2, 1.8, len(data)), data["y"])
    found = quantile_residuals(glmm("y ~ x*f + (1|g)", data.assign(y=y)), n=100, reference=39, seed=1)
    spread = [np.var(found.residuals[mask]) for mask in (rough, ~rough)]
    assert spread[0] > 1.3 * spread[1]
    table = found.tests.set_index("test")
    assert table["effect"].notna().all() and table.loc["uniformity", "effect"] > 0


def test_quartiles_see_a_bend_that_uniformity_does_not():
    """A parabola fitted by a line: as a whole the residuals are uniform enough, along the column they are not. Along
    a column that the model has nothing to do with they are level, and the parabola's own model is level everywhere."""
    rng = np.random.default_rng(4)
    x, g = rng.uniform(-1, 1, 400), np.repeat(np.arange(40), 10)
    data = pd.DataFrame({"x": x, "g": g.astype(str), "other": rng.normal(size=400),
                         "y": 0.5 * x + 0.9 * x**2 + rng.normal(0, 0.3, 40)[g] + rng.normal(0, 0.5, 400)})
    named = {name: data[name].to_numpy() for name in ("x", "other")}
    p = {formula: quantile_residuals(lmm(formula, data), n=100, reference=99, seed=1, along=named)
         .tests.set_index("test")["p_value"] for formula in ("y ~ x + (1|g)", "y ~ x + I(x^2) + (1|g)")}
    line, parabola = p.values()
    assert line["quartiles, x"] <= 0.02 and line["uniformity"] > 0.05 and line["quartiles, other"] > 0.05
    assert (parabola[["quartiles, fitted", "quartiles, x", "quartiles, other"]] > 0.05).all()


@pytest.mark.slow
def test_residual_plots(beta, tmp_path):
    figure = quantile_residuals(beta, n=40, reference=19).plot()
    figure.savefig(tmp_path / "residuals.png")
    assert len(figure.axes) == 2 and (tmp_path / "residuals.png").stat().st_size > 5000


def test_too_few_simulations(beta):
    with pytest.raises(UserError, match="at least 20"):
        quantile_residuals(beta, n=5)


def test_ratio_of_slopes(beta):
    found = ratio(beta, {"x": 1, "x:f[T.b]": 1}, {"x": 1})
    table = slopes(beta, "x", "f").set_index("level")
    assert found.estimate == pytest.approx(table.loc["b", "estimate"] / table.loc["a", "estimate"], rel=1e-6)
    assert found.kind == "bounded" and found.low < found.estimate < found.high
    with pytest.raises(UserError, match="needs combinations of Intercept, x"):
        ratio(beta, {"z": 1}, {"x": 1})


def test_ratio_in_the_linear_model_uses_its_degrees_of_freedom(sleep):
    found = ratio(sleep, {"Intercept": 1}, {"Days": 1})
    t = stats.t.ppf(0.975, 17.0)
    for end in (found.low, found.high):
        w = np.array([1.0, -end])
        assert abs(w @ sleep.beta) == pytest.approx(t * np.sqrt(w @ sleep.covariance @ w), rel=1e-3)
