"""The paired bootstrap against direct calculations, scipy's bootstrap, and what it must not depend on."""

import warnings
from dataclasses import replace
from functools import cache

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import canopy_stats as cs
from canopy_stats.metrics import paired, pool
from canopy_stats.metrics.paired import MEASURES, paired_bootstrap
from canopy_stats.schema import UserError

KEYS = ["model_name", "task", "tuned_variant", "measure"]


def made_up(prompts=12, families=("alder",), tasks=("math",), variants=("base", "instruct"), seed=0, m=10):
    rng = np.random.default_rng(seed)
    index = pd.MultiIndex.from_product([tasks, range(prompts), families, variants],
                                       names=["task", "prompt_id", "model_name", "model_variant"])
    frame = index.to_frame(index=False).astype({"prompt_id": str})
    n = len(frame)
    prompt = frame["task"] + "/" + frame["prompt_id"]
    shared = prompt.map({uid: rng.gamma(5, 0.2) for uid in prompt.unique()}).to_numpy()
    length, cov = rng.uniform(20, 120, n), rng.normal(0.5, 1, n)
    rate = shared * np.where(frame["model_variant"] == "base", 1.2, 1.0) * rng.uniform(0.9, 1.1, n)
    rho = np.clip(rng.normal(0.2, 0.3, (3, n)), -0.95, 0.95)
    return frame.assign(prompt_uid=prompt, prompt_hash="h" + prompt, M=m, N_bar=length, R_bar=rate, cov_NR=cov,
                        CE=length * rate + cov, rho_pearson=rho[0], rho_spearman=rho[1], rho_kendall=rho[2])


def side(panel, variant):
    return panel[panel["model_variant"] == variant].sort_values("prompt_hash").reset_index(drop=True)


def row_of(table, measure):
    return table.set_index("measure").loc[measure]


def test_point_estimates_are_those_of_pool_on_the_pairs_of_the_demo_panel():
    panel = cs.load_demo_panel()
    table = paired_bootstrap(panel, replicates=100)
    assert len(table) == 12 * 7 and table["pairs"].eq(100).all() and table["unmatched"].eq(0).all()
    for (family, task), rows in table.groupby(["model_name", "task"]):
        own = panel[(panel["model_name"] == family) & (panel["task"] == task)]
        for column, variant in (("base", "base"), ("tuned", "instruct")):
            cell = own[own["model_variant"] == variant]
            pooled = pool(cell, cell["M"])
            np.testing.assert_allclose(rows[column], [pooled[name] for name in MEASURES], rtol=1e-12)
    np.testing.assert_allclose(table["estimate"], table["tuned"] - table["base"], atol=1e-14)


def test_prompts_without_a_correlation_are_left_out_of_it_alone_as_pool_does():
    panel = made_up()
    panel.loc[[0, 5, 6], ["rho_pearson", "rho_spearman", "rho_kendall"]] = np.nan  # two pairs: one in both sides' rows
    panel.loc[8, "M"] = 3  # weight zero in Fisher's z, not in Kendall's pairs
    table = paired_bootstrap(panel, replicates=100)
    for column, variant in (("base", "base"), ("tuned", "instruct")):
        cell = side(panel, variant)
        pooled = pool(cell, cell["M"])
        np.testing.assert_allclose(table[column], [pooled[name] for name in MEASURES], rtol=1e-12)
    assert dict(zip(table["measure"], table["left_out"], strict=True)) == {
        "GenPPL": 0, "BF": 0, "CE": 0, "cov_NR": 0, "rho_pearson": 4, "rho_spearman": 4, "rho_kendall": 3}


@cache
def changes(panel_seed, rows):
    """The change of every measure on some pairs of a made-up panel, by metrics.pool."""
    panel = made_up(prompts=15, seed=panel_seed)
    a, b = (side(panel, variant).iloc[list(rows)] for variant in ("base", "instruct"))
    before, after = pool(a, a["M"]), pool(b, b["M"])
    return {measure: after[measure] - before[measure] for measure in MEASURES}


@pytest.mark.slow
@pytest.mark.parametrize("measure", MEASURES)
def test_bca_intervals_equal_scipys_from_the_same_replicates(measure):
    panel = made_up(prompts=15, seed=3)
    table = paired_bootstrap(panel, replicates=200, seed=5, level=0.9)
    shares = paired.resampled_shares(15, 200, 5)
    rows = [np.repeat(np.arange(15), np.rint(15 * s).astype(int)) for s in shares]
    draws = np.array([changes(3, tuple(chosen))[measure] for chosen in rows])

    def statistic(which, other, axis=-1):  # scipy gives indices of pairs, one vector or (n - 1) per left-out pair
        which = np.atleast_2d(which).astype(int)
        return np.squeeze([changes(3, tuple(chosen))[measure] for chosen in which])

    ask = {"paired": True, "vectorized": True, "confidence_level": 0.9}
    start = stats.bootstrap((np.arange(15),) * 2, statistic, n_resamples=2, method="percentile", rng=0, **ask)
    theirs = stats.bootstrap((np.arange(15),) * 2, statistic, n_resamples=0, method="BCa", **ask,
                             bootstrap_result=replace(start, bootstrap_distribution=draws))
    row = row_of(table, measure)
    np.testing.assert_allclose([row["bca_low"], row["bca_high"]], theirs.confidence_interval, rtol=1e-9)
    np.testing.assert_allclose([row["percentile_low"], row["percentile_high"]], np.quantile(draws, [0.05, 0.95]),
                               rtol=1e-9)


def test_percent_changes_have_bca_intervals_of_their_own():
    panel = made_up(seed=4)
    row = row_of(paired_bootstrap(panel, replicates=300, seed=1), "CE")
    base, tuned = side(panel, "base")["CE"].to_numpy(), side(panel, "instruct")["CE"].to_numpy()
    share = paired.resampled_shares(12, 300, 1)
    draws = 100 * (share @ tuned / (share @ base) - 1)
    without = np.array([100 * (np.delete(tuned, i).mean() / np.delete(base, i).mean() - 1) for i in range(12)])
    estimate = 100 * (tuned.mean() / base.mean() - 1)
    assert row["percent"] == pytest.approx(estimate)
    expected = paired.bca_interval(draws[:, None], np.array([estimate]), without[:, None], 0.95)[0]
    assert (row["percent_low"], row["percent_high"]) == pytest.approx(tuple(expected))


def test_percent_of_what_may_be_zero_is_not_given():
    panel = made_up()
    panel["cov_NR"] = np.where(panel["model_variant"] == "base", np.tile([-1.0, -1.0, 1.1, 1.1], 6), 2.0)
    row = row_of(paired_bootstrap(panel, replicates=200), "cov_NR")
    assert row[["percent", "percent_low", "percent_high"]].isna().all() and np.isfinite(row["bca_low"])


def test_p_values_are_those_of_paired_t_tests_where_the_measure_is_a_plain_mean(monkeypatch):
    monkeypatch.setattr(paired, "skewness", lambda jackknifed: np.zeros(jackknifed.shape[1]))
    panel = made_up(seed=6)
    table = paired_bootstrap(panel, replicates=100)
    base, tuned = side(panel, "base"), side(panel, "instruct")
    for measure, column in (("CE", "CE"), ("BF", "R_bar"), ("cov_NR", "cov_NR")):
        expected = stats.ttest_rel(tuned[column], base[column]).pvalue
        assert row_of(table, measure)["p_value"] == pytest.approx(expected, rel=1e-9)
    change, row = (tuned["CE"] - base["CE"]).to_numpy(), row_of(table, "CE")
    expected = stats.ttest_1samp(change, 0)
    assert (row["statistic"], row["df"]) == pytest.approx((expected.statistic, expected.df))
    assert (row["conf_low"], row["conf_high"]) == pytest.approx(tuple(expected.confidence_interval(0.95)))
    assert row["std_error"] == pytest.approx(stats.sem(change))
    # equal M: Fisher's z and tau have equal weights, so these are means as well
    assert row_of(table, "rho_kendall")["p_value"] == pytest.approx(
        stats.ttest_rel(tuned["rho_kendall"], base["rho_kendall"]).pvalue, rel=1e-9)
    assert row_of(table, "rho_pearson")["p_value"] == pytest.approx(
        stats.ttest_rel(np.arctanh(tuned["rho_pearson"]), np.arctanh(base["rho_pearson"])).pvalue, rel=1e-9)


def test_q_values_are_benjamini_and_hochbergs_over_the_whole_table():
    from statsmodels.stats.multitest import multipletests

    table = paired_bootstrap(made_up(families=("alder", "birch"), tasks=("math", "stories")), replicates=100)
    np.testing.assert_allclose(table["q_value"], multipletests(table["p_value"], method="fdr_bh")[1], rtol=1e-12)
    assert "28 tests" in table.attrs["notes"][0]


@pytest.mark.slow
@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.permutations(["alder", "birch"]))
def test_order_of_rows_and_other_families_change_nothing(seed, families):
    panel = made_up(prompts=6, families=families, seed=1)
    whole = paired_bootstrap(panel, replicates=100)
    shuffled = paired_bootstrap(panel.sample(frac=1, random_state=seed), replicates=100)
    pd.testing.assert_frame_equal(shuffled, whole)
    alone = paired_bootstrap(panel[panel["model_name"] == "birch"], replicates=100)
    own = whole[whole["model_name"] == "birch"].reset_index(drop=True)
    pd.testing.assert_frame_equal(alone.drop(columns="q_value"), own.drop(columns="q_value"))


def test_swapping_base_and_tuned_turns_every_sign():
    panel = made_up(seed=8)
    swapped = panel.assign(model_variant=panel["model_variant"].map({"base": "instruct", "instruct": "base"}))
    there, back = (paired_bootstrap(frame, replicates=200) for frame in (panel, swapped))
    np.testing.assert_allclose(back["estimate"], -there["estimate"])
    np.testing.assert_allclose(back["p_value"], there["p_value"], rtol=1e-9)
    np.testing.assert_allclose(back["conf_low"], -there["conf_high"])
    np.testing.assert_allclose(back["percentile_low"], -there["percentile_high"])


def test_a_seed_gives_the_same_table_and_another_one_other_intervals():
    panel = made_up()
    first, second, other = (paired_bootstrap(panel, replicates=100, seed=seed) for seed in (1, 1, 2))
    pd.testing.assert_frame_equal(first, second)
    assert (first["bca_low"] != other["bca_low"]).all() and first["p_value"].equals(other["p_value"])


def test_every_tuned_variant_is_compared_with_the_same_base():
    panel = made_up(variants=("base", "sft", "dpo", "rl"))
    table = paired_bootstrap(panel, replicates=100)
    assert list(table["tuned_variant"].unique()) == ["dpo", "rl", "sft"]
    assert table.groupby("measure")["base"].nunique().eq(1).all()


def test_unmatched_prompts_are_counted_and_told():
    panel = made_up()
    gone = panel[~((panel["prompt_id"].isin(["0", "1"]) & (panel["model_variant"] == "base")) |
                   ((panel["prompt_id"] == "5") & (panel["model_variant"] == "instruct")))]
    table = paired_bootstrap(gone, replicates=100)
    assert table["pairs"].eq(9).all() and table["unmatched"].eq(3).all()
    assert any("3 prompt(s) have no partner" in note for note in table.attrs["notes"])
    kept = panel[~panel["prompt_id"].isin(["0", "1", "5"])]
    pd.testing.assert_frame_equal(table.drop(columns="unmatched"),
                                  paired_bootstrap(kept, replicates=100).drop(columns="unmatched"))


def test_pairs_share_the_prompts_hash_and_its_name_only_where_there_is_none():
    panel = made_up()
    names = panel["prompt_uid"].where(panel["model_variant"] == "base", "x/" + panel["prompt_id"])
    renamed = panel.assign(prompt_uid=names)
    expected = paired_bootstrap(panel, replicates=100)
    pd.testing.assert_frame_equal(paired_bootstrap(renamed, replicates=100), expected)
    by_name = paired_bootstrap(panel.drop(columns="prompt_hash"), replicates=100)
    pd.testing.assert_frame_equal(by_name, expected)


def test_nothing_that_varies_has_neither_interval_nor_p():
    panel = made_up()
    panel["cov_NR"] = np.where(panel["model_variant"] == "base", 1.0, 3.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        row = row_of(paired_bootstrap(panel, replicates=100), "cov_NR")
    assert row["estimate"] == pytest.approx(2.0) and row["percentile_low"] == pytest.approx(2.0)
    assert row[["bca_low", "bca_high", "conf_low", "conf_high", "p_value", "q_value"]].isna().all()


def test_a_correlation_that_few_prompts_have_gets_no_interval_and_that_is_said():
    panel = made_up()
    panel.loc[2:, ["rho_pearson", "rho_spearman", "rho_kendall"]] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = paired_bootstrap(panel, replicates=200)
    row = row_of(table, "rho_pearson")
    assert np.isfinite(row["estimate"]) and row[["bca_low", "conf_low", "percentile_low", "p_value"]].isna().all()
    assert any("not defined" in note for note in table.attrs["notes"])


@pytest.mark.slow
def test_labels_swapped_at_random_are_rejected_about_one_time_in_twenty():
    """2,100 null comparisons: cells of 20 demo prompts with base and tuned swapped by coin. The measures of a cell go
    together, so the bounds are those of about 300 independent tests: 5% ± 3 standard errors of 1.3%."""
    rng = np.random.default_rng(0)
    panel = cs.load_demo_panel().query("task != 'coding'")
    p = []
    for _ in range(33):
        chosen = rng.choice(panel["prompt_hash"].unique(), 60, replace=False)
        rows = panel[panel["prompt_hash"].isin(chosen)]
        swap = rows["prompt_hash"].map(dict(zip(chosen, rng.random(60) < 0.5, strict=True)))
        other = rows["model_variant"].map({"base": "instruct", "instruct": "base"})
        p.append(paired_bootstrap(rows.assign(model_variant=rows["model_variant"].where(~swap, other)),
                                  replicates=100)["p_value"])
    assert 0.01 < (pd.concat(p) < 0.05).mean() < 0.09


@pytest.mark.parametrize(("spoil", "message"), [
    (lambda p: p[p["model_variant"] == "base"], "variants are base: .*at least one tuned"),
    (lambda p: p[p["prompt_id"] == "0"], r"Fewer than two prompts.*alder/math/instruct \(1\)"),
    (lambda p: p.assign(prompt_hash=p["prompt_hash"] + p["model_variant"]), r"Fewer than two prompts.*\(0\)"),
    (lambda p: p.drop(columns=["rho_kendall", "M"]), "columns M, rho_kendall"),
    (lambda p: p.drop(columns=["prompt_hash", "prompt_uid"]), "columns prompt_hash"),
    (lambda p: pd.concat([p, p.iloc[:1]]), "1 prompt.s. appear twice in alder/math/base"),
    (lambda p: p.assign(CE=p["CE"].where(p.index != 3)), r"1 row.s. have NaN in CE.*row 3")])
def test_what_cannot_be_compared_is_refused_with_its_reason(spoil, message):
    with pytest.raises(UserError, match=message):
        paired_bootstrap(spoil(made_up()))


def test_too_few_replicates_are_refused():
    with pytest.raises(UserError, match="replicates is 10"):
        paired_bootstrap(made_up(), replicates=10)


def test_a_family_with_its_base_alone_is_named():
    panel = made_up(families=("alder", "birch"))
    table = paired_bootstrap(panel[(panel["model_name"] == "alder") | (panel["model_variant"] == "base")],
                             replicates=100)
    assert set(table["model_name"]) == {"alder"} and "birch/math" in table.attrs["notes"][-1]


# --- skewed differences -----------------------------------------------------------------------------------------


def without_each_of(values):
    return ((values.sum() - values) / (len(values) - 1))[:, None]


def test_skewness_is_that_of_the_differences_and_its_transformation_can_be_undone():
    values = np.random.default_rng(0).lognormal(size=30)
    skew = paired.skewness(without_each_of(values))
    assert skew[0] == pytest.approx(stats.skew(values), rel=1e-9)
    for z in (-3.0, -0.2, 0.0, 2.5):
        there = paired.with_skewness(np.array([z]), skew, 30)
        assert paired.without_skewness(there, skew, 30)[0] == pytest.approx(z, abs=1e-9)
    assert paired.with_skewness(np.array([1.5]), np.zeros(1), 30)[0] == 1.5


def test_p_is_below_the_level_exactly_where_the_interval_leaves_zero_out():
    rng = np.random.default_rng(1)
    for shift in np.linspace(-2.5, 1.0, 60):
        values = rng.lognormal(size=9) + shift
        estimate, left = np.array([values.mean()]), without_each_of(values)
        (low, high), p = paired.t_interval(estimate, left, 0.95)[0], paired.t_test(estimate, left)[1][0]
        assert (p < 0.05) == (low > 0 or high < 0)
        plain = stats.ttest_1samp(values, 0)
        ends = plain.confidence_interval(0.95)
        assert p >= plain.pvalue - 1e-12 and low <= ends.low + 1e-12 and high >= ends.high - 1e-12


@pytest.mark.slow
def test_levels_with_skewed_differences_are_nearer_to_five_per_cent_than_students():
    """4,000 samples of 20 lognormal differences around zero: Student's t rejects in 13%, with the skewness off 7%."""
    values = np.random.default_rng(2).lognormal(size=(4000, 20)) - np.exp(0.5)
    left = (values.sum(axis=1, keepdims=True) - values) / 19
    p = paired.t_test(values.mean(axis=1), left.T)[1]
    plain = stats.ttest_1samp(values, 0, axis=1).pvalue
    assert (p < 0.05).mean() < 0.105 and (plain < 0.05).mean() > 0.115
    normal = np.random.default_rng(3).standard_normal((4000, 8))
    left = (normal.sum(axis=1, keepdims=True) - normal) / 7
    assert 0.03 < (paired.t_test(normal.mean(axis=1), left.T)[1] < 0.05).mean() < 0.06


def test_strong_skewness_is_named():
    panel = made_up(prompts=10)
    tuned = panel["model_variant"] == "instruct"
    spiky = panel.assign(cov_NR=np.where(tuned & (panel["prompt_id"] == "3"), 40.0, panel["cov_NR"]))
    notes = paired_bootstrap(spiky, replicates=100).attrs["notes"]
    assert any("strongly skewed" in note and "alder/math, cov_NR" in note for note in notes)
