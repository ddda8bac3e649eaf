"""Coefficient tables hold the fits' numbers, and those of statsmodels' MixedLM, and print like a paper's."""

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf

import canopy_stats as cs
from canopy_stats.report import views
from canopy_stats.report.coefficients import coefficients
from canopy_stats.report.printed import console, latex
from canopy_stats.schema import UserError

MODELS = ("main", "interaction", "quadratic")


@pytest.fixture(scope="module")
def panel():
    return cs.load_demo_panel()


@pytest.fixture(scope="module")
def long(panel):
    return coefficients({model: cs.slope_change(panel, model=model) for model in MODELS})


@pytest.fixture(scope="module")
def printed(long):
    return views.side_by_side(long).set_index("term")


FORMULAS = {
    "main": "D ~ R_bar + N_bar + task + model_name*model_variant",
    "interaction": "D ~ R_bar*model_variant + N_bar + task + model_name",
    "quadratic": "D ~ (R_c + R_c2)*model_variant + N_bar + task + model_name"}


def least_squares_errors(fit):
    """Standard errors from (XᵀV⁻¹X)⁻¹ for V = σ²(I + λ ZZᵀ), one random intercept a group."""
    x, groups = fit.model.exog, pd.factorize(fit.model.groups)[0]
    ratio = fit.cov_re.iloc[0, 0] / fit.scale
    sums = np.array([x[groups == g].sum(axis=0) for g in range(groups.max() + 1)])
    shrunk = ratio / (1 + ratio * np.bincount(groups))
    information = (x.T @ x - (sums.T * shrunk) @ sums) / fit.scale
    return pd.Series(np.sqrt(np.diag(np.linalg.inv(information))), index=fit.model.exog_names)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The MLE may be on the boundary")  # its rule of thumb; no variance is small here
@pytest.mark.parametrize("model", MODELS)
def test_linear_coefficients_are_those_of_statsmodels(panel, long, model):
    """statsmodels optimises the same likelihood by other means: coefficients agree within a hundredth of their standard
    error, standard deviations to three digits. Its standard errors come from the joint Hessian; ours are the usual
    generalised least squares ones, calculated here anew from its variances."""
    rate = panel["R_bar"] - panel["R_bar"].mean()
    data = panel.assign(R_c=rate, R_c2=rate**2)
    theirs = smf.mixedlm(FORMULAS[model], data, groups="prompt_uid").fit(reml=model != "quadratic")
    own = long[(long["model"] == model) & (long["part"] == "mean")].set_index("term")
    assert set(own.index) == set(theirs.fe_params.index)
    away = (own["estimate"] - theirs.fe_params[own.index]) / own["std_error"]
    assert away.abs().max() < 1e-2
    np.testing.assert_allclose(own["std_error"], least_squares_errors(theirs)[own.index], rtol=1e-3)
    random = long[(long["model"] == model) & (long["part"] == "random")].set_index("term")["estimate"]
    assert random["prompt_uid"] == pytest.approx(np.sqrt(theirs.cov_re.iloc[0, 0]), rel=1e-3)
    assert random["Residual"] == pytest.approx(np.sqrt(theirs.scale), rel=1e-3)
    likelihood = long[(long["model"] == model) & long["term"].str.startswith("log-likelihood")]["estimate"].item()
    assert likelihood == pytest.approx(theirs.llf, abs=1e-2)


@pytest.mark.slow
def test_slopes_stand_below_the_coefficients_they_come_from(long):
    own = long[long["model"] == "interaction"].set_index(["part", "term"])["estimate"]
    base, change = own["mean", "R_bar"], own["mean", "R_bar:model_variant[T.instruct]"]
    assert own["slope", "base"] == pytest.approx(base) and own["slope", "difference"] == pytest.approx(change)
    assert own["slope", "tuned"] == pytest.approx(base + change)
    assert own["slope", "ratio"] == pytest.approx((base + change) / base)


@pytest.mark.slow
def test_models_stand_side_by_side_with_blanks_where_a_term_is_not_theirs(long, printed):
    assert list(printed.columns) == list(MODELS)
    assert printed.loc["R × instruct", "main"] == "" and printed.loc["R × instruct", "interaction"].endswith(")")
    assert printed.loc["rows", "main"] == "2,400"
    assert printed.loc["groups: prompt", "main"] == "400"
    assert printed.loc["difference", "main"] == "–" and printed.loc["95% set of the ratio", "main"] == "–"
    assert printed.loc["AIC", "main"] == "" and printed.loc["AIC", "quadratic"] != ""


@pytest.mark.slow
def test_decimals_show_two_digits_of_the_standard_error(printed, long):
    row = long[(long["model"] == "main") & (long["term"] == "N_bar")].iloc[0]
    shown = printed.loc["N", "main"]
    value, error = shown.replace("*", "").rstrip(")").split(" (")
    assert float(value) == pytest.approx(row["estimate"], abs=0.06 * row["std_error"])
    assert len(error.lstrip("0.")) == 2 and float(error) == pytest.approx(row["std_error"], rel=0.05)


@pytest.mark.parametrize(("term", "words"), [
    ("R_bar:model_variant[T.instruct]", "R × instruct"), ("task[T.math]", "task math"), ("R_c2", "R² (centred)"),
    ("model_name[T.birch]:model_variant[T.tuned]", "family birch × tuned"), ("Intercept", "Intercept"),
    ("ns(invN_sc, 4)[2]", "spline of 1/N (standardised), 2 of 4"), ("prompt_uid: R_sc", "prompt: R (standardised)"),
    ("groups of model_name", "groups: family"), ("my_column", "my_column")])
def test_terms_read_like_words(term, words):
    assert views.readable(term) == words


@pytest.mark.parametrize(("kind", "low", "high", "shown"), [
    ("bounded", 1.234, 2.0, "[1.23, 2.00]"), ("exclusive", -1.0, 2.0, "outside (-1.00, 2.00)"),
    ("whole", -np.inf, np.inf, "any number"), ("not modelled", np.nan, np.nan, "–")])
def test_every_kind_of_fiellers_set_is_told(kind, low, high, shown):
    long = pd.DataFrame([{"model": "m", "part": "slope", "term": "ratio", "estimate": 1.5, "std_error": 0.1,
                          "p_value": 0.5, "conf_low": low, "conf_high": high, "kind": kind}])
    assert views.side_by_side(long).set_index("term").loc["95% set of the ratio", "m"] == shown


@pytest.mark.slow
def test_printed_forms_carry_the_stars_and_their_meaning(long):
    shown = views.side_by_side(long)
    assert "*** p < 0.001" in console(shown) and "^{***}$" in latex(shown)
    assert r"R $\times$ instruct" in latex(shown)


def test_no_model_is_refused():
    with pytest.raises(UserError, match="no model"):
        coefficients({})
