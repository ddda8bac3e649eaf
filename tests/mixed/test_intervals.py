"""Intervals of predictions: closed forms, emmeans' intervals, quantiles of simulated responses, coverage."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import canopy_stats as cs
from canopy_stats.mixed.families.trials import betabinomial_cdf
from canopy_stats.mixed.results.intervals import quantile

EXTRA = {"nbinom2": "count", "poisson": "count", "gamma": "time", "lognormal": "time", "beta": "share",
         "ordbeta": "edged", "binomial": "hit", "betabinomial": "cbind(passed, 6 - passed)", "nbinom1": "count",
         "hurdle_poisson": "count", "gaussian": "score"}


@pytest.fixture(scope="module")
def panel():
    rng = np.random.default_rng(4)
    g = np.repeat(np.arange(24), 10)
    x = rng.normal(size=240)
    eta = 0.3 + 0.5 * x + rng.normal(0, 0.6, 24)[g]
    p = 1 / (1 + np.exp(-eta))
    share = np.clip(rng.beta(6 * p, 6 * (1 - p)), 1e-6, 1 - 1e-6)
    return pd.DataFrame({
        "g": g, "x": x, "score": eta + rng.normal(size=240), "count": rng.negative_binomial(3, 3 / (3 + np.exp(eta))),
        "time": np.exp(eta + rng.normal(0, 0.4, 240)), "share": share, "hit": rng.binomial(1, p),
        "passed": rng.binomial(6, rng.beta(5 * p, 5 * (1 - p))),
        "edged": np.where(share > 0.9, 1.0, np.where(share < 0.1, 0.0, share)),
    })


@pytest.fixture(scope="module")
def fits(panel):
    made = {name: cs.glmm(f"{y} ~ x + (1 | g)", panel, family=name) for name, y in EXTRA.items()}
    return made | {"lmm": cs.lmm("score ~ x + (1 + x | g)", panel)}


@pytest.mark.slow
def test_confidence_intervals_at_typical_effects_are_those_of_means(fits, panel):
    """The means' own are emmeans' (test_means)."""
    for fit in (fits["lmm"], fits["poisson"]):
        half = panel.assign(half=panel["g"] % 2 == 0)
        again = (cs.lmm if fit is fits["lmm"] else cs.glmm)(
            f"{fit.design.response} ~ x + half + (1 | g)", half,
            **({} if fit is fits["lmm"] else {"family": "poisson"}))
        grid = cs.means(again, "half")
        ours = again.predict(grid[["half"]].assign(x=panel["x"].mean()), mode="population", interval="confidence")
        np.testing.assert_allclose(ours, grid[["estimate", "conf_low", "conf_high"]], rtol=1e-7)


@pytest.mark.slow
def test_confidence_ends_are_mapped_back_from_the_link(fits, panel):
    new = panel.iloc[:7][["x", "g"]]
    for mode in ("population", "conditional"):
        table = fits["binomial"].predict(new, mode=mode, scale="link", se=True)
        half = stats.norm.isf(0.05) * table["se"]
        ours = fits["binomial"].predict(new, mode=mode, interval="confidence", level=0.9)
        expected = [1 / (1 + np.exp(-(table["mean"] + sign * half))) for sign in (0, -1, 1)]
        np.testing.assert_allclose(ours.to_numpy().T, expected, rtol=1e-9)
        assert list(ours.columns) == ["estimate", "conf_low", "conf_high"] and list(ours.index) == list(new.index)


def test_prediction_intervals_of_linear_models_are_closed(panel):
    balanced = cs.lmm("score ~ 1 + (1 | g)", panel)
    between, within = balanced.varcorr()["variance_or_cov"]
    new = pd.DataFrame({"g": [999]})
    se = np.sqrt((within / 10 + between) / 24)  # balanced one-way layout
    for mode in ("population", "new_levels"):
        row = balanced.predict(new, mode=mode, interval="prediction").iloc[0]
        half = stats.norm.isf(0.025) * np.sqrt(se**2 + between + within)
        assert (row["conf_low"], row["conf_high"]) == pytest.approx(
            (row["estimate"] - half, row["estimate"] + half), rel=1e-6)
    # A known level: posterior variance of its mean (theta known), then the residual.
    row = balanced.predict(pd.DataFrame({"g": [3]}), interval="prediction").iloc[0]
    shrink = 10 * between / (10 * between + within)
    known = within * shrink / 10 + (1 - shrink) ** 2 * se**2
    half = stats.norm.isf(0.025) * np.sqrt(known + within)
    assert row["conf_high"] - row["estimate"] == pytest.approx(half, rel=1e-6)


@pytest.mark.slow
def test_random_slopes_and_a_dispersion_model_enter(panel, fits):
    fit, new = fits["lmm"], pd.DataFrame({"x": [-2.0, 0.0, 3.0]})
    root = fit.roots[0]
    z = np.column_stack([np.ones(3), new["x"]])
    se = fit.predict(new, mode="population", se=True)["se"]
    expected = np.sqrt(se**2 + np.sum((z @ root) ** 2, axis=1) + fit.sigma**2)
    ours = fit.predict(new, mode="population", interval="prediction")
    np.testing.assert_allclose((ours["conf_high"] - ours["conf_low"]) / 2, stats.norm.isf(0.025) * expected, rtol=1e-9)
    uneven = cs.glmm("score ~ x + (1 | g)", panel, family="gaussian", dispersion="~ x")
    wide = uneven.predict(new, mode="population", interval="prediction")
    se = uneven.predict(new, mode="population", se=True)["se"]
    sigma = np.exp(uneven.params_dispersion["Intercept"] + uneven.params_dispersion["x"] * new["x"])
    expected = np.sqrt(se**2 + uneven.varcorr()["variance_or_cov"][0] + sigma)
    np.testing.assert_allclose((wide["conf_high"] - wide["conf_low"]) / 2, stats.norm.isf(0.025) * expected, rtol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in EXTRA if n != "gaussian"])
def test_ends_are_quantiles_of_simulated_responses(fits, panel, name):
    fit, rng, n = fits[name], np.random.default_rng(9), 40_000
    rows = panel.iloc[[0, 100, 200]]
    ours = fit.predict(rows, mode="conditional", interval="prediction", level=0.8)
    link = fit.predict(rows, scale="link", se=True)
    family, one = fit.frame.family, np.ones(n)
    for i in range(3):
        eta = link["mean"].iloc[i] + link["se"].iloc[i] * rng.standard_normal(n)
        delta, zero = (part.iloc[0] if len(part) else 0.0 for part in (fit.params_dispersion, fit.params_zero))
        rest = type(fit.others())(delta * one, zero * one, fit.cut, one)
        y = family.draw(eta, rest, rng)
        low, high = ours[["conf_low", "conf_high"]].iloc[i]
        slack = 4 * np.sqrt(0.1 * 0.9 / n)
        assert np.mean(y < low) <= 0.1 + slack and np.mean(y <= low) >= 0.1 - slack
        assert np.mean(y < high) <= 0.9 + slack and np.mean(y <= high) >= 0.9 - slack


@pytest.mark.slow
def test_successes_out_of_trials_are_shares_of_the_rows_own_trials(fits, panel):
    table = fits["betabinomial"].predict(interval="prediction")
    assert np.allclose(table[["conf_low", "conf_high"]] * 6, np.round(table[["conf_low", "conf_high"]] * 6))
    inside = (panel["passed"] / 6 >= table["conf_low"]) & (panel["passed"] / 6 <= table["conf_high"])
    assert inside.mean() > 0.93


@pytest.mark.parametrize("share", [0.001, 0.025, 0.5, 0.975, 0.999])
def test_quantiles_are_scipys(share):
    near = np.array([0.2, 3.0, 400.0, 1e6])
    np.testing.assert_array_equal(quantile(lambda y: stats.poisson.cdf(y, near), share, near, True),
                                  stats.poisson.ppf(share, near))
    scale = np.array([1e-8, 1.0, 1e9])
    np.testing.assert_allclose(quantile(lambda y: stats.gamma.cdf(y, 2, scale=scale), share, 2 * scale, False),
                               stats.gamma.ppf(share, 2, scale=scale), rtol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["lmm", "poisson"])
def test_new_levels_are_covered(family):
    """A new response of a new group lies in its 90% interval with a probability of 90%, on average over 60 panels."""
    chance = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        g, x = np.repeat(np.arange(40), 5), rng.normal(size=200)
        eta = 1 + 0.4 * x + rng.normal(0, 0.7, 40)[g]
        y = rng.poisson(np.exp(eta)) if family == "poisson" else eta + rng.normal(size=200)
        data = pd.DataFrame({"y": y, "x": x, "g": g})
        fit = cs.lmm("y ~ x + (1 | g)", data) if family == "lmm" else cs.glmm("y ~ x + (1 | g)", data, family=family)
        row = fit.predict(pd.DataFrame({"x": [0.5]}), mode="population", interval="prediction", level=0.9).iloc[0]
        new = 1.2 + rng.normal(0, 0.7, 4000)
        drawn = rng.poisson(np.exp(new)) if family == "poisson" else new + rng.normal(size=4000)
        chance.append(np.mean((row["conf_low"] <= drawn) & (drawn <= row["conf_high"])))
    error = np.std(chance) / np.sqrt(60)
    assert 0.9 - 3 * error <= np.mean(chance) <= 0.9 + 3 * error + (0.05 if family == "poisson" else 0)  # discrete
    assert error < 0.01


@pytest.mark.slow
@pytest.mark.parametrize(("words", "arguments"), [
    ("interval is 'tolerance'", {"interval": "tolerance"}), ("level is 95", {"interval": "confidence", "level": 95}),
    ("for responses", {"interval": "prediction", "scale": "link"}),
    ("mode is 'all'", {"interval": "confidence", "mode": "all"})])
def test_what_makes_no_interval_is_refused(fits, words, arguments):
    with pytest.raises(cs.UserError, match=words):
        fits["poisson"].predict(**arguments)


def test_ordered_categories_have_intervals_on_the_link_alone(panel):
    fit = cs.glmm("passed ~ x + (1 | g)", panel, family="cumulative")
    with pytest.raises(cs.UserError, match="table of probabilities"):
        fit.predict(interval="prediction")
    assert fit.predict(interval="confidence", scale="link").notna().all().all()


def test_the_betabinomial_law_is_scipys():
    n, y = np.array([0, 1, 6, 40, 300.0]), np.array([0, 0, 7, 13, -1.0])
    a, b = np.array([0.2, 3, 1e-3, 5e3, 2]), np.array([4, 0.5, 2, 3e3, 9.0])
    law = stats.betabinom(n, a, b)
    np.testing.assert_allclose(betabinomial_cdf(y, n, a, b), [law.cdf(y - 1), law.cdf(y)], rtol=1e-9, atol=1e-15)
