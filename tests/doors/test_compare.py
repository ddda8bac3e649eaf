"""Models compared on the same items: scipy's paired t, clustered errors, and the mixed model beside them."""

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from scipy import stats

import canopy_stats as cs
from canopy_stats.schema import UserError


def answers(n=150, effects=(0.0, 0.7, 0.7), seed=0, epochs=1):
    rng = np.random.default_rng(seed)
    difficulty = rng.normal(0, 1.5, n)
    rows = [(m, f"i{i}", e, int(rng.random() < 1 / (1 + np.exp(-(a + difficulty[i])))))
            for m, a in zip("abc", effects, strict=False) for i in range(n) for e in range(epochs)]
    return pd.DataFrame(rows, columns=["model", "item", "epoch", "score"])


@pytest.fixture(scope="module")
def scores():
    return answers()


@pytest.fixture(scope="module")
def compared(scores):
    return cs.compare(scores)


def test_the_paired_difference_is_the_t_test(scores):
    found = cs.compare(scores, adjust="none")
    wide = scores.pivot(index="item", columns="model", values="score")
    for contrast, (a, b) in {"b - a": ("b", "a"), "c - b": ("c", "b")}.items():
        row = found.table.set_index("contrast").loc[contrast]
        test = stats.ttest_rel(wide[a], wide[b])
        interval = test.confidence_interval(0.95)
        assert row[["statistic", "p_value", "df"]].tolist() == pytest.approx([test.statistic, test.pvalue, test.df])
        assert row[["conf_low", "conf_high"]].tolist() == pytest.approx([interval.low, interval.high])


@pytest.mark.slow
def test_clusters_are_statsmodels_clusters():
    """The error is that of an intercept with errors by cluster (CR1 without its k), on unequal clusters."""
    data = answers(60)
    data["passage"] = "p" + (data["item"].str[1:].astype(int) ** 2 // 300).astype(str)
    found = cs.compare(data, cluster="passage", reference="a").table.set_index("contrast").loc["b - a"]
    wide = data.pivot(index=["passage", "item"], columns="model", values="score")
    d = (wide["b"] - wide["a"]).rename("d").reset_index()
    groups = d["passage"].astype("category").cat.codes
    clusters = groups.nunique()
    fit = smf.ols("d ~ 1", d).fit(cov_type="cluster", cov_kwds={"groups": groups, "use_correction": False})
    assert found["std_error"] == pytest.approx(fit.bse["Intercept"] * np.sqrt(clusters / (clusters - 1)))
    assert found["df"] == clusters - 1 and clusters > 5


@pytest.mark.slow
def test_the_model_is_the_crossed_glmm(scores, compared):
    """Differences of marginal means of the binomial model, and Holm's adjustment by hand."""
    found = compared
    fit = cs.glmm("score ~ model + (1|item)", scores, family="binomial")
    mean = cs.means(fit, "model", marginal=True).set_index("model")["estimate"]
    table = found.table.set_index("contrast")
    assert found.family == "binomial"
    assert table.loc["b - a", "model_estimate"] == pytest.approx(mean["b"] - mean["a"], abs=1e-6)
    p = np.sort(table["p_value"])
    assert np.sort(table["p_adjusted"])[0] == pytest.approx(min(1, 3 * p[0]))
    assert found.means.set_index("model")["estimate"].to_dict() == pytest.approx(mean.to_dict(), abs=1e-6)


@pytest.mark.slow
def test_the_power_line(scores, compared):
    """Items for 2 points: the textbook formula with the differences' standard deviation."""
    row = compared.table.set_index("contrast").loc["b - a"]
    wide = scores.pivot(index="item", columns="model", values="score")
    z = stats.norm.ppf(0.975) + stats.norm.ppf(0.8)
    assert row["items_for_2_points"] == np.ceil((z * (wide["b"] - wide["a"]).std() / 0.02) ** 2)


@pytest.mark.slow
@pytest.mark.parametrize(("values", "family"), [
    (lambda rng, n: rng.integers(0, 2, n), "binomial"), (lambda rng, n: rng.integers(1, 6, n), "cumulative"),
    (lambda rng, n: rng.uniform(0.05, 0.95, n), "beta"), (lambda rng, n: rng.choice([0, 0.3, 0.6, 1], n), "ordbeta"),
    (lambda rng, n: rng.normal(size=n), "gaussian")])
def test_the_family_follows_the_scores(values, family):
    data = answers(40)
    data["score"] = values(np.random.default_rng(1), len(data))
    found = cs.compare(data, reference="a")
    assert found.family == family and list(found.table["contrast"]) == ["b - a", "c - a"]
    close = (found.table["estimate"] - found.table["model_estimate"]).abs()
    assert (close < 2.5 * found.table["std_error"]).all()


@pytest.mark.slow
def test_tasks_make_items_distinct_and_epochs_are_averaged():
    data = pd.concat([answers(30, seed=s, epochs=3).assign(task=t) for s, t in ((1, "x"), (2, "y"))])
    compared = cs.compare(data, reference="a")
    found = compared.table.set_index("contrast").loc["b - a"]
    wide = data.pivot_table(index=["task", "item"], columns="model", values="score")
    assert found["items"] == 60 and found["estimate"] == pytest.approx((wide["b"] - wide["a"]).mean())
    fit = compared.fit
    assert "item:level" in fit.ngroups or any("level" in str(g) for g in fit.ngroups)


@pytest.mark.slow
def test_disagreement_is_said():
    """Unequal items: the model borrows from items that only one level answered; a verdict must not hide a split."""
    table = cs.compare(answers(12, effects=(0, 1.2, 0))).table
    first, second = table["p_adjusted"] < 0.05, table["model_p_adjusted"] < 0.05
    same = np.sign(table["estimate"]) == np.sign(table["model_estimate"])
    assert (table["agree"] == ((first == second) & (same | ~first))).all()


@pytest.mark.slow
def test_level_under_no_effect():
    """Simulated: both analyses keep 5%, up to chance (30 data sets; the binomial's 99.9% bound is 6)."""
    found = [cs.compare(answers(40, effects=(0.3, 0.3), seed=s), adjust="none").table.iloc[0] for s in range(30)]
    assert sum(row["p_value"] < 0.05 for row in found) <= 6
    assert sum(row["model_p_adjusted"] < 0.05 for row in found) <= 6


@pytest.mark.parametrize(("change", "says"), [
    (lambda d: d.drop(columns="item"), "no column 'item'"),
    (lambda d: d.assign(score=np.where(d.index == 3, np.nan, d.score)), "1 rows have no score"),
    (lambda d: d.assign(score="C"), "'C' is no number"),
    (lambda d: d[d.model == "a"], "one level, a"),
    (lambda d: d.assign(item=d.model + d.item), "0 items in common"),
    (lambda d: d.assign(metric=np.where(d.index % 2 == 0, "acc", "f1")), "several metrics"),
    (lambda d: d.iloc[:0], "no level"),
    (lambda d: d.assign(score=np.inf), "The score inf is no number"),
    (lambda d: d.assign(score=d.score + 1j), "of the type complex128; give real numbers"),
    (lambda d: d.assign(score=pd.Timestamp("2026-01-01") + pd.to_timedelta(d.index, unit="s")), "give real numbers"),
])
def test_what_is_refused(scores, change, says):
    with pytest.raises(UserError, match=says):
        cs.compare(change(scores))


def test_choices_are_checked(scores):
    with pytest.raises(UserError, match="the levels of model are a, b, c"):
        cs.compare(scores, reference="d")
    with pytest.raises(UserError, match="choose 'holm'"):
        cs.compare(scores, adjust="tukey")
    for level in (0, 2, "a", True):
        with pytest.raises(UserError, match="level is .*; it must be between 0 and 1"):
            cs.compare(scores, level=level)


@pytest.mark.slow
def test_polars_and_dicts():
    pl, scores = pytest.importorskip("polars"), answers(12)
    expected = cs.compare(scores, reference="a").table["estimate"].tolist()
    assert cs.compare(pl.DataFrame(scores), reference="a").table["estimate"].tolist() == pytest.approx(expected)
    assert cs.compare(scores.to_dict("list"), reference="a").table["estimate"].tolist() == pytest.approx(expected)
