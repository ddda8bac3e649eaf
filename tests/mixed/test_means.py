"""F tests of terms, estimated means, contrasts and hypotheses, against lmerTest and emmeans (golden/means.R)."""

import json

import numpy as np
import pandas as pd
import pytest
from r_references import GOLDEN
from scipy import stats
from scipy.special import expit

from canopy_stats.mixed import AliasedWarning, NotEstimableWarning, anova, glmm, hypothesis, lmm, means, slopes
from canopy_stats.mixed.formulas.checks import independent_columns
from canopy_stats.mixed.formulas.terms import terms_of, type_three
from canopy_stats.schema import UserError

FORMULA = "y ~ variant * task * x + (1 | item)"
NUMBERS = ["estimate", "std_error", "df", "conf_low", "conf_high", "statistic", "p_value"]


@pytest.fixture(scope="module")
def reference():
    return json.loads((GOLDEN / "means.json").read_text())


@pytest.fixture(scope="module")
def data():
    return pd.read_csv(GOLDEN / "panels" / "families.csv.gz")


@pytest.fixture(scope="module")
def unbalanced(data):
    item = data["item"].rank(method="dense").astype(int)
    return data[~((data["task"] == "math") & (data["variant"] == "tuned") & (item // 3 % 3 != 0))]


@pytest.fixture(scope="module")
def linear(unbalanced):
    return lmm(FORMULA, unbalanced)


@pytest.fixture(scope="module")
def empty(data):
    with pytest.warns(AliasedWarning):
        return lmm("y ~ variant * task + (1 | item)", data[~((data["task"] == "math") & (data["variant"] == "tuned"))])


def same_tests(table, rows, rel=1e-3):
    assert list(table["term"]) == [row["term"] for row in rows]
    assert list(table["num_df"]) == [row["NumDF"] for row in rows]
    for name, theirs in {"den_df": "DenDF", "statistic": "F.value"}.items():
        np.testing.assert_allclose(table[name], [row[theirs] for row in rows], rtol=rel)
    np.testing.assert_allclose(np.log(table["p_value"]), np.log([row["Pr..F."] for row in rows]), atol=1e-2)


def same_rows(table, rows, rel=1e-3):
    """R's rows in order; columns by place after the labels: estimate, SE, df, lower, upper, (null,) ratio, p."""
    ours = table[NUMBERS].to_numpy(dtype=float)
    for values, row in zip(ours, rows, strict=True):
        labels = ("contrast", "variant", "task", "null", "_row")
        theirs = [row[name] for name in row if name not in labels]
        theirs = [np.nan if v is None or v == "NA" else v for v in theirs]
        known = np.isfinite(np.array(theirs, dtype=float))
        np.testing.assert_allclose(values[known], np.array(theirs)[known], rtol=rel, atol=2e-4)
        assert np.isnan(values[0]) == (not known[0])


@pytest.mark.parametrize("kind", [3, 2])
def test_terms_of_a_linear_model_are_lmertests(linear, reference, kind):
    same_tests(anova(linear, type=kind), reference["linear"][f"type{kind}"])


def test_kenward_roger_is_pbkrtests(linear, reference):
    same_tests(anova(linear, ddf="kenward-roger"), reference["linear"]["kenward_roger"])


def test_kenward_roger_with_slopes_and_crossed_groups(data, reference):
    fit = lmm("y ~ variant + x + task + (1 + x | item) + (1 | model)", data)
    same_tests(anova(fit, ddf="kenward-roger"), reference["crossed"]["kenward_roger"])


@pytest.mark.slow
def test_crossed_groups_with_slopes(data, reference):
    fit = lmm("y ~ variant * task + x + (1 + x | item) + (1 | model)", data)
    same_tests(anova(fit), reference["slopes"]["type3"])
    same_rows(means(fit, ["variant", "task"], contrasts="pairwise"), reference["slopes"]["pairs"])


def test_kenward_roger_is_for_linear_models_by_reml(linear, share):
    for fit in (share, linear.by_likelihood()):
        with pytest.raises(UserError, match="linear models fitted by REML"):
            anova(fit, ddf="kenward-roger")


def test_type_three_does_not_depend_on_the_contrasts(unbalanced, reference):
    coded = lmm("y ~ C(variant, contr.sum) * C(task, contr.helmert) * x + (1 | item)", unbalanced)
    table = anova(coded)
    table["term"] = table["term"].str.replace(r"C\((\w+), contr.\w+\)", r"\1", regex=True)
    same_tests(table, reference["linear"]["type3_sum"])


def test_type_three_does_not_depend_on_the_reference_levels(linear, unbalanced):
    other = lmm(FORMULA, unbalanced, reference={"task": "story", "variant": "tuned"})
    pd.testing.assert_frame_equal(anova(other), anova(linear), rtol=1e-3)
    np.testing.assert_allclose(anova(other)["statistic"], anova(linear)["statistic"], rtol=1e-6)


@pytest.mark.parametrize("kind", [3, 2])
def test_terms_with_an_empty_cell(empty, reference, kind):
    same_tests(anova(empty, type=kind), reference["empty"][f"type{kind}"])


def test_terms_of_a_quadratic(unbalanced, reference):
    fit = lmm("y ~ variant * task + x + I(x^2) + (1 | item) + (1 | model)", unbalanced)
    table = anova(fit).assign(term=lambda t: t["term"].replace("I(x ** 2)", "I(x^2)"))
    same_tests(table, reference["quadratic"]["type3"])
    same_rows(means(fit, "task"), reference["quadratic"]["means"])


@pytest.mark.parametrize(("name", "arguments"), [
    ("means", {"factors": "variant", "by": "task"}), ("marginal_means", {"factors": "task"}),
    ("reference", {"factors": "task", "contrasts": "reference"}),
    ("fdr", {"factors": ["variant", "task"], "contrasts": "pairwise", "adjust": "fdr_bh"}),
    ("bonferroni", {"factors": "task", "by": "variant", "contrasts": "pairwise", "adjust": "bonferroni"}),
    ("custom", {"factors": "task", "contrasts": {"c": [1, -0.5, -0.5]}, "adjust": "none"}),
])
def test_means_and_contrasts_are_emmeans(linear, reference, name, arguments):
    same_rows(means(linear, **arguments), reference["linear"][name])


def test_what_an_empty_cell_hides_is_not_a_number(empty, reference):
    with pytest.warns(NotEstimableWarning, match="variant=tuned"):
        table = means(empty, "variant")
    same_rows(table, reference["empty"]["variant"])
    assert table.attrs["not_estimable"] == ["variant=tuned"]
    with pytest.warns(NotEstimableWarning, match="variant=tuned, task=math"):
        same_rows(means(empty, ["variant", "task"]), reference["empty"]["cells"])
    with pytest.warns(NotEstimableWarning, match="task=math, contrast=base - tuned"):
        same_rows(means(empty, "variant", by="task", contrasts="pairwise"), reference["empty"]["pairs"])
    with pytest.warns(NotEstimableWarning, match="variant=tuned, task=math"):
        cells = pd.DataFrame({"variant": ["base", "tuned"], "task": "math"})
        assert np.isnan(empty.predict(cells, mode="population")).tolist() == [False, True]


@pytest.mark.slow
def test_labels_of_tables(linear):
    table = means(linear, ["variant", "task"])
    numbers = ["estimate", "std_error", "df", "statistic", "p_value", "conf_low", "conf_high"]
    assert list(table.columns) == ["variant", "task", *numbers]
    pairs = means(linear, "task", by="variant", contrasts="pairwise")
    assert list(pairs.columns[:2]) == ["variant", "contrast"]
    assert list(pairs["contrast"][:3]) == ["code - math", "code - story", "math - story"]
    assert means(linear, "task", contrasts=[[0.5, 0.5, -1]])["contrast"][0] == "0.5 code + 0.5 math - story"


@pytest.mark.parametrize(("arguments", "message"), [
    ({"factors": "tsk"}, "Did you mean task?"), ({"factors": "x"}, "x is not a factor"),
    ({"factors": "task", "contrasts": "pairs"}, "choose 'pairwise'"),
    ({"factors": "task", "adjust": "sheffe"}, "tukey"),
    ({"factors": "task", "contrasts": [[1, -1]]}, "needs 3 finite weights"),
    ({"factors": "task", "scale": "logit"}, "choose one of response, link"),
])
def test_means_of_what_is_not_there(linear, arguments, message):
    with pytest.raises(UserError, match=message):
        means(linear, **arguments)


@pytest.mark.slow
def test_slopes_over_factors(linear, unbalanced):
    table = slopes(linear, "x", ["variant", "task"]).set_index("level")
    names = linear.params
    expected = names[["x", "variant[T.tuned]:x", "task[T.story]:x", "variant[T.tuned]:task[T.story]:x"]].sum()
    assert table.loc["tuned story", "estimate"] == pytest.approx(expected, rel=1e-6)
    pairs = slopes(linear, "x", "task", contrasts="pairwise", adjust="holm")
    free = slopes(linear, "x", "task", contrasts="pairwise", adjust="none")
    assert len(pairs) == 3 and (pairs["p_value"] >= free["p_value"]).all()
    overall = slopes(linear, "x")
    shares = unbalanced.groupby(["variant", "task"]).size() / len(unbalanced)
    by_cell = table.loc[[f"{v} {t}" for v, t in shares.index], "estimate"]
    assert overall["estimate"][0] == pytest.approx(np.sum(by_cell.to_numpy() * shares.to_numpy()), rel=1e-6)


def test_hypotheses_one_by_one_are_t_tests(linear):
    table = hypothesis(linear, "x = 0")
    row, name = table.iloc[0], "x"
    assert row["estimate"] == pytest.approx(linear.params[name]) and row["df"] == pytest.approx(linear.df_tests[name])
    assert row["p_value"] == pytest.approx(linear.pvalues[name])
    moved = hypothesis(linear, "2*x - variant[T.tuned]:x = 1e-3 - `x`").iloc[0]
    weights = pd.Series(0.0, linear.params.index)
    weights[["x", "variant[T.tuned]:x"]] = 3.0, -1.0
    assert moved["estimate"] == pytest.approx(weights @ linear.params - 1e-3)
    assert moved["std_error"] == pytest.approx(np.sqrt(weights @ linear.cov_params() @ weights))


def test_joint_hypotheses_are_the_tests_of_terms(linear):
    texts = ["variant[T.tuned]:task[T.math]:x = 0", "variant[T.tuned]:task[T.story]:x"]
    joint = hypothesis(linear, texts).iloc[-1]
    term = anova(linear).iloc[-1]
    assert joint["hypothesis"] == "joint" and joint["num_df"] == 2
    np.testing.assert_allclose(joint[["df", "statistic", "p_value"]].astype(float),
                               term[["den_df", "statistic", "p_value"]].astype(float), rtol=1e-6)
    pd.testing.assert_frame_equal(hypothesis(linear, ", ".join(texts)), hypothesis(linear, texts))


def test_hypotheses_are_those_of_statsmodels():
    """With next to no dispersion model the gaussian fit is a regression, whose z tests statsmodels makes too."""
    import statsmodels.formula.api as smf

    rng = np.random.default_rng(3)
    frame = pd.DataFrame({"x": rng.normal(size=80), "f": np.tile(list("abcd"), 20)})
    frame["y"] = frame["x"] + (frame["f"] == "b") + rng.normal(size=80)
    ours = hypothesis(glmm("y ~ x + f", frame, family="gaussian"), ["f[T.b] = f[T.c]", "x = 1"])
    theirs = smf.ols("y ~ x + f", frame).fit()
    single = theirs.t_test("f[T.b] = f[T.c], x = 1")
    ml = np.sqrt(theirs.df_resid / theirs.nobs)
    np.testing.assert_allclose(ours["estimate"][:2], single.effect - [0, 1], rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(ours["std_error"][:2], single.sd.ravel() * ml, rtol=1e-4)
    wald = theirs.wald_test("f[T.b] = f[T.c], x = 1", use_f=False, scalar=True)
    assert ours["statistic"][2] == pytest.approx(wald.statistic / ml**2, rel=1e-4) and np.isinf(ours["df"][2])


@pytest.mark.parametrize(("text", "message"), [
    ("z = 0", "z in 'z = 0' is no coefficient"), ("xx = 0", "Did you mean x?"), ("x*x = 1", "not linear"),
    ("x = x", "both sides are the same"), ("x = = 1", "Cannot read"), ("x < 1", "use names of coefficients"),
    ("x = 1 = 2", "write it as"), ("__import__('os')", "use names of coefficients|no coefficient"),
])
def test_hypotheses_that_cannot_be_read(linear, text, message):
    with pytest.raises(UserError, match=message):
        hypothesis(linear, text)


def test_hypotheses_about_aliased_coefficients(empty):
    with pytest.raises(UserError, match="has no estimate"):
        hypothesis(empty, "variant[T.tuned]:task[T.math] = 0")


def test_wrong_arguments_of_anova(linear):
    for arguments, message in (((linear, "x"), "not a str"), ((), "pass it a fit")):
        with pytest.raises(UserError, match=message):
            anova(*arguments)
    for options, message in (({"type": 1}, "choose 2 or 3"), ({"ddf": "kr"}, "choose one of satterthwaite")):
        with pytest.raises(UserError, match=message):
            anova(linear, **options)


def test_contrasts_of_a_balanced_design_are_those_of_sums_to_zero(data):
    """Where every cell has rows, type III is the test of sum-to-zero coefficients."""
    part = lmm("y ~ C(variant, contr.sum)*C(task, contr.sum) + (1 | item)", data).design.fixed
    for term in terms_of(part)[1:]:
        rows = type_three(part, data)[term.name]
        outside = np.delete(rows, term.columns, axis=1)
        assert np.abs(outside).max() < 1e-8 and independent_columns(rows.T).all()


@pytest.mark.slow
def test_comparisons_name_the_reason(data):
    base = glmm("latency ~ x + (1 | item)", data, family="gaussian")
    wide = "latency ~ x + task + (1 | item)"
    other = {
        "families": glmm("p ~ x + task + (1|item)", data.assign(p=1 / (1 + data["latency"])), family="beta"),
        "weights": glmm(wide, data, family="gaussian", weights=np.full(len(data), 2.0)),
        "offsets": glmm(wide, data, family="gaussian", offset="w"),
        "rows": glmm(wide, data.iloc[10:], family="gaussian"),
        "responses": glmm(wide, data.assign(latency=data["latency"].to_numpy()[::-1]), family="gaussian"),
        "fixed part": glmm("latency ~ task + variant + (1 | item)", data, family="gaussian"),
        "random effects": glmm("latency ~ x + task + (1 | model)", data, family="gaussian"),
    }
    for reason, fit in other.items():
        expected = "responses" if reason == "families" else reason
        with pytest.raises(UserError, match=expected):
            anova(base, fit)
    assert anova(base, glmm(wide, data, family="gaussian"))["p_value"].notna().sum() == 1


def test_other_families_of_the_same_response(data):
    share = data.assign(p=1 / (1 + data["latency"]))
    with pytest.raises(UserError, match="different families"):
        anova(glmm("p ~ x + (1|item)", share), lmm("p ~ x + task + (1|item)", share, reml=False))


def test_reparametrised_fixed_parts_are_nested(data):
    one = lmm("y ~ x + (1|item)", data, reml=False)
    two = lmm("y ~ poly(x, 2) + (1|item)", data, reml=False)
    assert 0 < anova(two, one)["p_value"].iloc[1] <= 1


def test_p_values_of_the_mean_degrees_of_freedom():
    from canopy_stats.mixed.inference.wald import joint_df

    assert joint_df(np.array([7.0, 7.0])) == 7.0 and joint_df(np.array([1.5, 9.0])) == 2.0
    assert joint_df(np.array([5.0, 20.0])) == pytest.approx(2 * (5 / 3 + 20 / 18) / (5 / 3 + 20 / 18 - 2))
    assert joint_df(np.array([np.inf, np.inf])) == np.inf and stats.f.sf(1, 2, 7.0) > 0


@pytest.fixture(scope="module")
def share(data):
    return glmm("p ~ variant * x + (1 + x | item) + (1 | model)", data.assign(p=1 / (1 + data["latency"])))


def test_marginal_means_average_over_the_random_effects(share, data):
    """E expit(eta + b) with the variance of b at the mean of x, by integration; without variance the usual mean."""
    x = data["x"].mean()
    rows = share.varcorr().set_index(["group", "term1", "term2"])["variance_or_cov"]
    weights = {"Intercept": 1.0, "x": x}
    variance = sum(value * weights[a] * (weights[a] if pd.isna(b) else 2 * weights[b])
                   for (_, a, b), value in rows.items())
    eta = means(share, "variant", scale="link")["estimate"][1]
    density = stats.norm(eta, np.sqrt(variance))
    expected = density.expect(expit)
    found = means(share, "variant", marginal=True)
    assert found["estimate"][1] == pytest.approx(expected, rel=1e-6)
    usual = means(share, "variant")
    assert abs(found["estimate"][1] - 0.5) < abs(usual["estimate"][1] - 0.5)
    difference = means(share, "variant", marginal=True, contrasts="reference").iloc[0]
    assert difference["estimate"] == pytest.approx(found["estimate"][1] - found["estimate"][0])


@pytest.mark.slow
def test_errors_of_marginal_means_are_those_of_draws_from_the_estimates(share):
    """The delta method against means at parameters drawn from their normal distribution."""
    from canopy_stats.mixed.effects.averages import expected_means
    from canopy_stats.mixed.effects.grid import reference_grid

    rng = np.random.default_rng(5)
    shrunk = share.full_covariance * 1e-2
    draws = rng.multivariate_normal(share.omega, shrunk, size=300)
    curve = expected_means(share, reference_grid(share, ["variant"]))
    values = [curve(draw) for draw in draws]
    errors = means(share, "variant", marginal=True)["std_error"]
    np.testing.assert_allclose(10 * np.std(values, axis=0), errors, rtol=0.15)


def test_marginal_means_of_a_linear_model_are_the_usual_ones(linear):
    pd.testing.assert_frame_equal(means(linear, "task", marginal=True), means(linear, "task"))
    with pytest.raises(UserError, match="leave scale='response'"):
        means(linear, "task", marginal=True, scale="link")


MODELS = {
    "binomial": ("correct ~ variant * task + x + (1 | item) + (1 | model)", {"family": "binomial"}),
    "probit": ("correct ~ variant * task + x + (1 | item)", {"family": "binomial", "link": "probit"}),
    "poisson": ("events ~ variant * task + x + offset(log(exposure)) + (1 | item)", {"family": "poisson"}),
}


@pytest.fixture(scope="module", params=MODELS)
def generalised(request, data, reference):
    formula, options = MODELS[request.param]
    return glmm(formula, data, **options), reference[request.param]


def test_terms_of_generalised_models_are_wald_tests(generalised):
    """emmeans' joint_tests gives F with the residual degrees of freedom of the fit, from which chi-square follows."""
    fit, theirs = generalised
    table = anova(fit).set_index("term")
    assert np.isinf(table["den_df"]).all()
    for row in theirs["tests"]:
        chi2 = row["df1"] * stats.f.isf(row["p.value"], row["df1"], row["df2"])
        assert table.loc[row["model.term"], "statistic"] == pytest.approx(chi2, rel=1e-3)
    one = hypothesis(fit, "x = 0").iloc[0]
    assert table.loc["x", "statistic"] == pytest.approx(one["statistic"] ** 2)


@pytest.mark.parametrize(("name", "arguments"), [
    ("link", {"factors": "variant", "by": "task", "scale": "link"}), ("response", {"factors": "variant", "by": "task"}),
    ("task", {"factors": "task"}), ("pairs", {"factors": "task", "contrasts": "pairwise"}),
    ("pairs_by", {"factors": "task", "by": "variant", "contrasts": "pairwise", "adjust": "holm"}),
    ("all_pairs", {"factors": ["variant", "task"], "contrasts": "pairwise"}),
])
def test_means_of_generalised_models_are_emmeans(generalised, name, arguments):
    fit, theirs = generalised
    table = means(fit, **arguments)
    rows = [{k: v for k, v in row.items() if k != "df"} for row in theirs[name]]
    same_rows(table.assign(df=np.nan), [{**dict(list(r.items())[:k]), "df": None, **dict(list(r.items())[k:])}
                                        for r in rows for k in [_after_error(r)]])
    if "contrast" in table:
        assert list(table["contrast"]) == [row["contrast"] for row in theirs[name]]


def _after_error(row):
    return list(row).index("SE") + 1


def test_marginal_accuracy_of_a_probit_model_has_a_closed_form(data):
    """E Phi(eta + b) = Phi(eta / sqrt(1 + var b))."""
    fit = glmm(MODELS["probit"][0], data, **MODELS["probit"][1])
    eta = means(fit, ["variant", "task"], scale="link")["estimate"].to_numpy()
    variance = fit.varcorr()["variance_or_cov"].sum()
    expected = stats.norm.cdf(eta / np.sqrt(1 + variance))
    np.testing.assert_allclose(means(fit, ["variant", "task"], marginal=True)["estimate"], expected, rtol=1e-8)


def test_marginal_counts_have_a_closed_form(data):
    """E exp(eta + b) = exp(eta + var b / 2), averaged over the grid after the transformation."""
    fit = glmm(MODELS["poisson"][0], data, **MODELS["poisson"][1])
    eta = means(fit, ["variant", "task"], scale="link")["estimate"].to_numpy().reshape(3, 2)
    expected = np.exp(eta + fit.varcorr()["variance_or_cov"].sum() / 2).mean(axis=0)
    np.testing.assert_allclose(means(fit, "variant", marginal=True)["estimate"], expected, rtol=1e-8)
