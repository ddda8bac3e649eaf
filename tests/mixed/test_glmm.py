"""Beta, ordered-beta and gaussian mixed models against glmmTMB (tests/golden/*.R), the linear one, and themselves."""

import copy
import json
import pickle
import subprocess
import sys
import warnings

import mixedlm
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from r_references import GOLDEN, REFERENCE, rename
from scipy import stats

from canopy_stats.mixed import AliasedWarning, glmm, lmm, load_fit
from canopy_stats.schema import UserError

DISPERSION = {
    "a.beta_paper": "~ model_variant*task + ns(invN_sc, df=3) + R_sc*model_variant + model_name",
    "a.gauss_disp": "~ model_variant + task",
    **dict.fromkeys(["a.beta_slope", "a.beta_shared_smooth", "b.ordbeta", "c.beta_slope", "c.beta_slope_crossed"],
                    "~ model_variant"),
}
INSIDE = ["a.beta_simple", "a.beta_paper", "a.beta_shared_smooth", "a.gauss_disp", "b.ordbeta", "c.beta_slope",
          "c.beta_slope_crossed", "c.beta_uncorrelated"]


def family_of(name):
    return "ordbeta" if "ord" in name else "gaussian" if "gauss" in name else "beta"


@pytest.fixture(scope="module")
def fits(golden, panel):
    """Our fits of the reference models, made once each; tests only read them."""
    made = {}

    def fit(name):
        if name not in made:
            formula, dispersion = golden[name]["formula"], DISPERSION.get(name, "~ 1")
            data = panel(name[0])
            made[name] = glmm(formula, data, family=family_of(name), dispersion=dispersion, reference=REFERENCE)
        return made[name]

    return fit


def ordered(series):
    """Interactions named in one order, whichever program wrote them."""
    return series.rename(lambda name: ":".join(sorted(name.split(":")))).sort_index()


def theirs(table):
    return ordered(pd.Series({rename(name): value for name, value in table.items()}))


def assert_agree(params, bse, expected):
    ours, errors = ordered(params), theirs(expected["bse"])
    assert list(ours.index) == list(errors.index)
    assert ((ours - theirs(expected["params"])) / errors).abs().max() < 5e-4
    assert (ordered(bse) / errors - 1).abs().max() < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("name", INSIDE)
def test_agrees_with_glmmtmb(name, fits, golden):
    fit, expected = fits(name), golden[name]
    assert fit.llf > expected["logLik"] - 1e-4 and fit.llf == pytest.approx(expected["logLik"], abs=1e-3)
    assert fit.df_model == expected["df_model"]
    assert_agree(fit.params, fit.bse, expected["cond"])
    if expected["disp"]:
        assert_agree(fit.params_dispersion, fit.bse_dispersion, expected["disp"])
    else:
        assert np.exp(fit.params_dispersion.iloc[0]) == pytest.approx(expected["sigma"], rel=1e-4)
    assert fit.converged and not fit.singular


@pytest.mark.parametrize("name", INSIDE)
def test_variance_components_of_glmmtmb(name, fits, golden):
    table = fits(name).varcorr()
    for group, matrix in golden[name]["vcov_groups"].items():
        own = table[table["group"] == group]
        variances = own.loc[own["term2"].isna(), "variance_or_cov"]
        np.testing.assert_allclose(variances, np.diag(matrix), rtol=1e-3)
        covariances = own.loc[own["term2"].notna(), "variance_or_cov"]
        if len(covariances):
            np.testing.assert_allclose(covariances, matrix[0][1], rtol=1e-3)


def test_thresholds_of_glmmtmb(fits, golden):
    np.testing.assert_allclose(fits("b.ordbeta").thresholds, golden["b.ordbeta"]["psi"], rtol=1e-4)


def test_correlation_of_one_is_reached_and_reported(fits, golden):
    fit, expected = fits("a.beta_slope"), golden["a.beta_slope"]
    assert fit.llf > expected["logLik"] - 1e-4
    errors = theirs(expected["cond"]["bse"])
    assert ((ordered(fit.params) - theirs(expected["cond"]["params"])) / errors).abs().max() < 5e-4
    assert fit.singular and fit.converged
    assert fit.certificate.boundary["R_sc | prompt_uid"] < 0


@pytest.fixture(scope="module")
def more():
    return {fit["name"]: fit for fit in json.loads((GOLDEN / "glmm_fits.json").read_text())["fits"]}


def data_of(name, panel):
    key = {"nested": "c", "slopes_two": "c", "ordbeta_crossed": "b"}.get(name, "a")
    data = panel(key)
    if key == "a":
        data = data[data["model_name"] == "Qwen3-8b"]
        rows = np.arange(1, len(data) + 1)
        whole = np.flatnonzero(panel("a")["model_name"] == "Qwen3-8b") + 1
        assert len(rows) == len(whole)
        data = data.assign(w=0.5 + (whole % 3) / 2, shift=0.1 * (whole % 5))
    if name == "tiny":
        data = data[(data["task"] == "math") & (data["prompt_id"] < 12)]
    return mixedlm.load_sleepstudy() if name == "gauss_slope" else data


@pytest.mark.slow
@pytest.mark.parametrize("name", ["one_family", "nested", "weighted", "offset", "tiny", "no_random", "gauss_slope",
                                  "slopes_two", "ordbeta_crossed"])
def test_more_fits_of_glmmtmb(name, more, panel):
    expected = more[name]
    extra = {"weights": "w"} if name == "weighted" else {"offset": "shift"} if name == "offset" else {}
    data = data_of(name, panel)
    reference = {key: value for key, value in REFERENCE.items() if key in data and name != "tiny"}
    fit = glmm(expected["formula"], data, family=family_of(name), dispersion=expected["dispformula"],
               reference=reference, **extra)
    assert fit.llf > expected["logLik"] - 1e-4 and fit.llf == pytest.approx(expected["logLik"], abs=1e-3)
    assert fit.converged
    np.testing.assert_allclose((fit.params - expected["params"]) / expected["bse"], 0, atol=5e-4)
    np.testing.assert_allclose(fit.bse, expected["bse"], rtol=1e-4)
    np.testing.assert_allclose(fit.params_dispersion, expected["disp"], rtol=1e-4, atol=1e-4)
    if expected["sd"]:
        table = fit.varcorr()
        ours = sorted(table.loc[table["term2"].isna(), "sd_or_corr"])
        np.testing.assert_allclose(ours, sorted(np.atleast_1d(expected["sd"])), rtol=1e-3, atol=1e-4)
    if expected["psi"]:
        np.testing.assert_allclose(fit.thresholds, expected["psi"], rtol=1e-4)
    else:
        np.testing.assert_allclose(fit.fittedvalues[:5], expected["fitted"], rtol=1e-4)
        np.testing.assert_allclose(fit.predict(mode="population")[:5], expected["population"], rtol=1e-4)
    errors = fit.predict(scale="link", se=True)["se"].to_numpy()[:5]
    np.testing.assert_allclose(errors, expected["se_link"], rtol=1e-3)


@pytest.mark.slow
def test_zero_variance_is_reached_and_reported(panel):
    fit = glmm("D_beta ~ R_sc*model_variant + task + (1+R_sc|prompt_uid) + (0+R_sc|model_name)", panel("c"),
               dispersion="~ model_variant", reference=REFERENCE)
    assert fit.singular and fit.certificate.boundary["R_sc | model_name"] < 0
    row = fit.varcorr().query("group == 'model_name'").iloc[0]
    assert row["sd_or_corr"] < 1e-4


@pytest.mark.parametrize("formula", ["Reaction ~ Days + (1|Subject)", "Reaction ~ Days + (1+Days|Subject)",
                                     "Reaction ~ Days + (Days||Subject)"])
def test_gaussian_with_constant_dispersion_is_the_linear_model(formula):
    data = mixedlm.load_sleepstudy()
    linear, fit = lmm(formula, data, reml=False), glmm(formula, data, family="gaussian")
    assert fit.llf == pytest.approx(linear.llf, abs=1e-6)
    np.testing.assert_allclose(fit.params, linear.params, rtol=1e-6)
    np.testing.assert_allclose(fit.bse, linear.bse, rtol=1e-4)
    assert np.exp(fit.params_dispersion.iloc[0] / 2) == pytest.approx(linear.sigma, rel=1e-5)
    np.testing.assert_allclose(fit.varcorr()["variance_or_cov"], linear.varcorr()["variance_or_cov"][:-1], rtol=1e-4)
    np.testing.assert_allclose(fit.predict(), linear.predict(), rtol=1e-5)


def simulated(seed, groups=12, each=6):
    rng = np.random.default_rng(seed)
    data = pd.DataFrame({"g": np.repeat(np.arange(groups), each), "x": rng.normal(size=groups * each)})
    data["f"] = rng.choice(["a", "b", "c"], len(data))
    eta = -0.5 + 0.6 * data["x"] + 0.5 * rng.normal(size=groups)[data["g"]]
    mu = 1 / (1 + np.exp(-eta))
    return data.assign(y=np.clip(rng.beta(8 * mu, 8 * (1 - mu)), 1e-9, 1 - 1e-9))


@pytest.mark.slow
@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.01, 100), st.floats(-20, 20))
def test_invariants(seed, unit, shift):
    """Row order, level names and units of a predictor: the same model in other words."""
    data = simulated(seed)
    first = glmm("y ~ x + f + (1|g)", data, dispersion="~ x")
    changed = data.sample(frac=1, random_state=seed).assign(
        g=lambda d: "name" + (100 - d["g"]).astype(str), x=lambda d: d["x"] * unit + shift,
    )
    second = glmm("y ~ x + f + (1|g)", changed, dispersion="~ x")
    assert second.llf == pytest.approx(first.llf, abs=1e-6)
    assert second.params["x"] * unit == pytest.approx(first.params["x"], abs=1e-3 * first.bse["x"])
    assert second.bse["x"] * unit == pytest.approx(first.bse["x"], rel=1e-3)
    assert second.params["f[T.b]"] == pytest.approx(first.params["f[T.b]"], abs=1e-3 * first.bse["f[T.b]"])


@pytest.mark.slow
@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(["a", "b", "c"]))
def test_reference_level_changes_only_the_parametrisation(seed, level):
    data = simulated(seed)
    first, second = glmm("y ~ x*f + (1|g)", data), glmm("y ~ x*f + (1|g)", data, reference={"f": level})
    assert second.llf == pytest.approx(first.llf, abs=1e-6)
    np.testing.assert_allclose(second.predict(), first.predict(), atol=1e-5)


@pytest.mark.slow
@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10_000))
def test_mirrored_response(seed):
    """1 - y has the same likelihood with every sign turned."""
    data = simulated(seed)
    first, second = glmm("y ~ x + (1|g)", data), glmm("y ~ x + (1|g)", data.assign(y=1 - data["y"]))
    assert second.llf == pytest.approx(first.llf, abs=1e-5)
    np.testing.assert_allclose(second.params, -first.params, atol=1e-3 * first.bse.max())


@pytest.mark.slow
@settings(max_examples=8, deadline=None)
@given(st.integers(0, 10_000), st.floats(1e-4, 1e4), st.floats(-1e3, 1e3))
def test_gaussian_units(seed, unit, shift):
    """Another unit and origin of a gaussian response."""
    data = simulated(seed)
    first = glmm("y ~ x + (1|g)", data, family="gaussian", dispersion="~ f")
    second = glmm("y ~ x + (1|g)", data.assign(y=data["y"] * unit + shift), family="gaussian", dispersion="~ f")
    assert second.llf + len(data) * np.log(unit) == pytest.approx(first.llf, abs=1e-4)
    assert second.params["x"] / unit == pytest.approx(first.params["x"], abs=1e-3 * first.bse["x"])


def test_doubled_weights_are_doubled_rows():
    data = simulated(4)
    doubled = pd.concat([data, data], ignore_index=True)
    twice = glmm("y ~ x + (1|g)", data.assign(w=2.0), weights="w")
    assert twice.llf == pytest.approx(glmm("y ~ x + (1|g)", doubled).llf, abs=1e-6)


def test_new_data_are_encoded_as_the_fitted_ones():
    data = simulated(5, groups=40)
    fit = glmm("y ~ ns(x, df=3)*f + (1|g)", data, dispersion="~ ns(x, df=2)")
    rows = data.iloc[[3, 3, 40]]
    np.testing.assert_allclose(fit.predict(rows), fit.fittedvalues[[3, 3, 40]], atol=1e-12)
    table = fit.predict(rows.assign(g=99), mode="new_levels", scale="link", se=True)
    known = fit.predict(rows, scale="link", se=True)
    assert (table["se"] > known["se"]).all()
    np.testing.assert_allclose(table["mean"], fit.predict(rows, mode="population", scale="link"))


def test_standard_errors_of_random_effects_come_from_the_curvature():
    fit = glmm("y ~ x + (1|g)", simulated(6))
    modes, sd = fit.ranef()["g"]["Intercept"], fit.ranef(sd=True)["g"]["Intercept"]
    assert modes.shape == sd.shape == (12,) and (sd < fit.varcorr()["sd_or_corr"][0]).all()


def test_simulate_and_refit():
    fit = glmm("y ~ x + (1|g)", simulated(7, groups=40))
    draws = fit.simulate(2, rng=np.random.default_rng(1))
    again = fit.refit(draws[:, 0])
    fresh = glmm("y ~ x + (1|g)", simulated(7, groups=40).assign(y=draws[:, 0]))
    assert again.llf == pytest.approx(fresh.llf, abs=1e-6)
    with pytest.raises(UserError, match="240 finite numbers"):
        fit.refit(draws[:5, 0])


@pytest.mark.parametrize(("low", "high"), [(True, True), (True, False), (False, True), (False, False)])
def test_ordered_beta_with_either_edge(low, high):
    """Where no 0 or no 1 occurs its threshold is infinite; without both the model is the beta model."""
    rng = np.random.default_rng(8)
    data = simulated(8, groups=30)
    edge = rng.uniform(size=len(data))
    y = np.where(low & (edge < 0.1), 0.0, np.where(high & (edge > 0.85), 1.0, data["y"]))
    fit = glmm("y ~ x + (1|g)", data.assign(y=y), family="ordbeta")
    assert list(np.isfinite(fit.thresholds)) == [low, high] and fit.converged
    draws = fit.simulate(1, rng=rng)[:, 0]
    assert bool(np.any(draws == 0)) == low and bool(np.any(draws == 1)) == high
    assert np.mean(fit.predict()) == pytest.approx(y.mean(), abs=0.05)
    if not (low or high):
        assert fit.llf == pytest.approx(glmm("y ~ x + (1|g)", data).llf, abs=1e-6)


def test_second_start_agrees():
    fit = glmm("y ~ x + (1 + x|g)", simulated(9, groups=40), certify=True)
    assert abs(fit.certificate.second_start) < 1e-5 and "second start" in str(fit.certificate)


@pytest.mark.slow
def test_failure_names_the_culprit():
    """A level whose responses all sit at the edge pulls its coefficient and its dispersion away without limit."""
    data = simulated(10)
    data.loc[data["f"] == "c", "y"] = 0.5
    with pytest.warns(UserWarning, match="may not have converged"):
        fit = glmm("y ~ x*f + (1|g)", data, dispersion="~ f")
    assert not fit.converged
    assert any("dispersion f[T.c]" in text for text in fit.certificate.culprits)
    assert "NOT converged" in fit.summary()


@pytest.mark.parametrize("seed", [0, 6])
def test_a_fit_whose_responses_hardly_vary_is_read_as_it_was_written(tmp_path, seed):
    """Rounding of a log-density with a precision of e^17 hides the way from zero to the random effects."""
    rng = np.random.default_rng(seed)
    tuned, x = np.tile([0.0, 1.0], 12), rng.normal(size=24)
    rng.normal(size=24)
    noise = rng.normal(size=24) * np.where(tuned > 0, 0.05, 10.0 ** -rng.integers(2, 8))
    data = pd.DataFrame({"y": np.clip(0.5 + 0.03 * x + noise, 0.01, 0.99), "g": np.repeat(np.arange(12), 2).astype(str),
                         "tuned": tuned, "x": x})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit = glmm("y ~ x*tuned + (1|g)", data, family="beta", dispersion="~ x*tuned")
    again = load_fit(fit.save(tmp_path / "fit"))
    assert not fit.converged and again.llf == pytest.approx(fit.llf, rel=1e-9)
    np.testing.assert_allclose(again.predict(), fit.predict(), rtol=1e-9)
    np.testing.assert_allclose(fit.way.uncertainty(fit).covariance, fit.full_covariance)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["lmm", "beta", "ordbeta", "gaussian"])
def test_saved_and_loaded(family, tmp_path):
    data = simulated(11).assign(f=lambda d: pd.Categorical(d["f"], ["b", "a", "c"]), flag=lambda d: d["x"] > 0)
    data.loc[:3, "y"] = [0.0, 1.0, 0.0, 1.0] if family == "ordbeta" else data.loc[:3, "y"]
    text = "y ~ ns(x, df=2)*f + flag + (1|g)"
    fit = lmm(text, data) if family == "lmm" else glmm(text, data, family=family, dispersion="~ x")
    again = load_fit(fit.save(tmp_path / "fit"))
    assert again.summary() == fit.summary()
    pd.testing.assert_frame_equal(again.tidy(), fit.tidy())
    new = data.iloc[[5, 17]]
    pd.testing.assert_frame_equal(again.predict(new, se=True), fit.predict(new, se=True))
    assert again.refit(fit.design.y).llf == pytest.approx(fit.llf, abs=1e-6)


def test_a_loaded_fit_keeps_the_columns_of_its_dispersion(tmp_path):
    rng = np.random.default_rng(3)
    data = pd.DataFrame({"x": rng.standard_normal(120), "kind": np.repeat(["a", "b"], 60), "g": np.tile(range(12), 10)})
    data["y"] = rng.beta(2, 3, 120)
    fit = glmm("y ~ x + (1|g)", data, dispersion="~ kind")
    again = load_fit(fit.save(tmp_path / "fit"))
    np.testing.assert_allclose(again.predict(again.design.data), fit.predict(data), rtol=1e-8)


@pytest.mark.parametrize("family", ["lmm", "beta"])
def test_a_file_that_was_changed_is_refused(family, tmp_path):
    data = simulated(11)
    fit = lmm("y ~ x + (1|g)", data) if family == "lmm" else glmm("y ~ x + (1|g)", data)
    path = fit.save(tmp_path / "fit")
    stored = dict(np.load(path))
    for name in ("y", "theta" if family == "lmm" else "omega"):
        changed = stored["y"][::-1] if name == "y" else 1.3 * stored[name]
        np.savez(tmp_path / "changed.npz", **(stored | {name: changed}))
        with pytest.raises(UserError, match="does not hold what was fitted"):
            load_fit(tmp_path / "changed.npz")
    assert load_fit(path).llf == pytest.approx(fit.llf, abs=1e-9)


def test_names_of_files_are_kept(tmp_path):
    fit = glmm("y ~ x + (1|g)", simulated(11))
    paths = [fit.save(tmp_path / name) for name in ("beta.0.5", "beta.0.6", "plain.npz")]
    assert [path.name for path in paths] == ["beta.0.5.npz", "beta.0.6.npz", "plain.npz"]
    assert all(load_fit(path).formula == fit.formula for path in paths)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda fit: pickle.loads(pickle.dumps(fit))], ids=["copy", "pickle"])
@pytest.mark.parametrize("family", ["lmm", "beta"])
def test_fits_are_copied_in_memory(family, copied):
    data = simulated(11)
    text = "y ~ ns(x, df=2) + (x|g)"
    fit = lmm(text, data) if family == "lmm" else glmm(text, data)
    again = copied(fit)
    pd.testing.assert_frame_equal(again.tidy(), fit.tidy())
    np.testing.assert_array_equal(again.predict(data.iloc[:4]), fit.predict(data.iloc[:4]))
    assert again.refit(fit.design.y).llf == pytest.approx(fit.llf, abs=1e-7)


def test_files_that_are_no_fits(tmp_path):
    with pytest.raises(UserError, match="There is no file"):
        load_fit(tmp_path / "absent.npz")
    np.savez(tmp_path / "other.npz", x=np.ones(2))
    with pytest.raises(UserError, match="is not a fit"):
        load_fit(tmp_path / "other.npz")


def test_squeeze_is_asked_for_and_counted():
    data = simulated(12)
    data.loc[[2, 5], "y"] = [0.0, 1.0]
    fit = glmm("y ~ x + (1|g)", data, squeeze=1e-6)
    assert fit.notes == ("2 of 72 responses were moved into [1e-06, 1 - 1e-06].",) and fit.notes[0] in fit.summary()


def test_aliased_dispersion_is_nan():
    data = simulated(13).assign(twice=lambda d: 2 * d["x"])
    with pytest.warns(AliasedWarning, match="twice"):
        fit = glmm("y ~ x + (1|g)", data, dispersion="~ x + twice")
    assert np.isnan(fit.params_dispersion["twice"]) and np.isnan(fit.tidy()["estimate"].iloc[-1])
    assert fit.llf == pytest.approx(glmm("y ~ x + (1|g)", data, dispersion="~ x").llf, abs=1e-7)


def put(rows, value, name="y"):
    return lambda d: d.assign(**{name: np.where(np.isin(d.index, rows), value, d[name])})


@pytest.mark.parametrize(("change", "options", "message"), [
    (put([3], 0.0), {}, r"y is exactly 0 or 1 in row 3, .* Use family='ordbeta'"),
    (put([3, 9], 1.0), {}, "in rows 3 and 9"),
    (put([1], 1.5), {"family": "ordbeta"}, r"y is outside \[0, 1\] in row 1"),
    (put([1], np.nan), {}, r"y is missing \(NaN\) in row 1"),
    (put([1], np.inf, "x"), {}, "x is infinite in row 1"),
    (put([4], np.nan, "z"), {"dispersion": "~ z"}, r"z is missing \(NaN\) in row 4"),
    (lambda d: d, {"dispersion": "~ zz"}, "uses zz, which the data do not have. Did you mean z?"),
    (lambda d: d, {"dispersion": "~ (1|g)"}, "only fixed terms are possible there"),
    (lambda d: d, {"family": "binomial"}, "y is not 0 or 1 in rows 0, 1"),
    (lambda d: d, {"family": "normal"}, "choose one of beta, ordbeta, gaussian"),
    (lambda d: d.assign(y=0.4), {}, "y is constant"),
    (lambda d: d.iloc[[0, 1, 6, 7]], {}, "4 rows, too few for the 4 parameters"),
    (lambda d: d.assign(g=range(len(d))), {}, "as many levels as there are rows"),
    (lambda d: d.assign(f="a"), {"dispersion": "~ f"}, "factor f has one level only"),
    (lambda d: d, {"weights": np.ones(3)}, "weights must be 72 positive numbers"),
    (lambda d: d, {"offset": "nowhere"}, "uses nowhere"),
])
def test_bad_input(change, options, message):
    data = simulated(14).assign(z=1.0)
    with pytest.raises(UserError, match=message):
        glmm("y ~ x + (1|g)", change(data), **options)


def test_intervals_are_normal():
    fit = glmm("y ~ x + (1|g)", simulated(15))
    half = stats.norm.ppf(0.975) * fit.bse["x"]
    assert fit.conf_int().loc["x", "conf_high"] == pytest.approx(fit.params["x"] + half)
    assert fit.pvalues["x"] == pytest.approx(2 * stats.norm.sf(abs(fit.tvalues["x"])))


@pytest.mark.slow
def test_order_of_random_terms_and_pieces_of_the_data():
    rng = np.random.default_rng(16)
    data = simulated(16).assign(h=lambda d: rng.integers(0, 4, len(d)))
    first = glmm("y ~ x + (1|g) + (1|h)", data)
    second = glmm("y ~ x + (1|h) + (1|g)", data)
    pieces = pd.concat([part.reset_index(drop=True) for _, part in data.groupby("h")][::-1])
    third = glmm("y ~ x + (1|g) + (1|h)", pieces)
    for other in (second, third):
        assert other.llf == pytest.approx(first.llf, abs=1e-6)
        np.testing.assert_allclose(other.params, first.params, atol=1e-3 * first.bse.min())


@pytest.mark.slow
def test_import_is_light():
    heavy = {"torch", "matplotlib", "mixedlm", "statsmodels"}
    code = f"import sys, canopy_stats.mixed; print(sorted({heavy} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
