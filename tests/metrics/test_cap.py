"""A smaller length cap: cut terms equal those of rollouts drawn under it, and the martingales keep their mean."""

import numpy as np
import pytest
from markov_runs import draw, rollouts_of, store_run, table

from canopy_stats.metrics import cap_curve, measure, pool, three_level, tree_metrics
from canopy_stats.metrics.cap import halvings
from canopy_stats.metrics.rollouts import StepTerms, stored_terms
from canopy_stats.schema import UserError


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return store_run(tmp_path_factory.mktemp("cap") / "run", prompts=5, m=40, cap=60, seed=3)


@pytest.fixture(scope="module")
def cut_by_hand(run):
    """Sums of the first ``cap`` steps, rollout by rollout, from the stored step table."""
    steps = run.steps().to_pandas()
    groups = [g for _, g in steps.groupby(["prompt_id", "rollout"], sort=True)]

    def cut(cap):
        parts = [g.iloc[:cap] for g in groups]
        return {"length": [len(g) for g in parts], "entropy_sum": [g["entropy"].astype(float).sum() for g in parts],
                "surprisal_sum": [-g["logprob"].astype(float).sum() for g in parts],
                "stop_hazard_sum": [g["stop_probability"].astype(float).sum() for g in parts]}

    return cut


@pytest.mark.parametrize("cap", [1, 7, 60])
def test_cut_terms_are_the_first_steps(run, cut_by_hand, cap):
    terms = StepTerms.of(run).cut(cap)
    for name, expected in cut_by_hand(cap).items():
        np.testing.assert_allclose(getattr(terms, name), expected, rtol=1e-12)
    whole = stored_terms(run)
    np.testing.assert_array_equal(terms.stopped, whole.stopped & (whole.length <= cap))


def test_the_run_s_own_cap_changes_nothing(run):
    whole, cut = stored_terms(run), StepTerms.of(run).cut(60)
    np.testing.assert_allclose(cut.entropy_sum, whole.entropy_sum, rtol=1e-13)
    np.testing.assert_array_equal(cut.stopped, whole.stopped)
    a, b = measure(run), measure(run, cap=60)
    np.testing.assert_allclose(a[["CE", "N_bar", "R_bar", "CE_cv"]], b[["CE", "N_bar", "R_bar", "CE_cv"]], rtol=1e-9)


def test_curve_equals_recomputation(run, cut_by_hand):
    curve = cap_curve(run, [3, 10, 60]).set_index("cap")
    for cap in curve.index:
        cut = cut_by_hand(cap)
        length, entropy = np.array(cut["length"]), np.array(cut["entropy_sum"])
        prompts = [tree_metrics(length[i:i + 40], entropy[i:i + 40]) for i in range(0, 200, 40)]
        expected = {**pool(prompts, [40] * 5), "cov_between": three_level(prompts)["cov_between"]}
        assert dict(curve.loc[cap].drop("truncation_rate")) == pytest.approx(expected, rel=1e-9, nan_ok=True)
    rows = run.rollouts().to_pandas()
    assert curve.loc[10, "truncation_rate"] == pytest.approx(
        1 - np.mean((rows["finish_reason"] == "stop") & (rows["length"] <= 10)))
    assert curve["CE"].is_monotonic_increasing and curve["truncation_rate"].is_monotonic_decreasing


def test_measured_under_a_cap(run):
    frame = measure(run, cap=10, embedder="tfidf")
    assert frame["law"].eq("T=1 cap=10").all()
    assert frame["N_bar"].max() <= 10
    assert frame[["D", "VS", "se_D", "embed_truncated_share"]].isna().all(axis=None)


@pytest.mark.parametrize("cap", [1, 5, 30, 400])
def test_martingales_cut_at_a_cap_keep_a_mean_of_zero(cap):
    drawn = draw([table(0.02, 0.1)], 4000, 400, np.random.default_rng(cap))
    z = np.column_stack([(-drawn.logprob - drawn.entropy)[:, :cap].sum(1),
                         (drawn.stopped & (drawn.length <= cap)) - drawn.hazard[:, :cap].sum(1)])
    scores = z.mean(0) / (z.std(0, ddof=1) / len(z) ** 0.5)
    assert np.abs(scores).max() < 4


def test_cut_martingales_of_a_run_are_those_of_the_definition(run):
    terms = StepTerms.of(run).cut(5)
    np.testing.assert_allclose(terms.martingales[:, 0], terms.surprisal_sum - terms.entropy_sum)
    np.testing.assert_allclose(terms.martingales[:, 1], terms.stopped.astype(float) - terms.stop_hazard_sum)


def test_default_caps_halve_the_run_s_own():
    assert halvings(60) == [7, 15, 30, 60]
    assert halvings(4000)[0] == 7 and halvings(3) == [3]


@pytest.mark.parametrize("cap, message", [(0, "at least 1"), (2.5, "whole number"), (61, "drawn with a cap of 60")])
def test_bad_caps_are_named(run, cap, message):
    with pytest.raises(UserError, match=message):
        measure(run, cap=cap)


def test_bad_curves_are_named(run):
    with pytest.raises(UserError, match="none above 60"):
        cap_curve(run, [10, 100])
    with pytest.raises(UserError, match="at least one"):
        cap_curve(run, [])


def test_reembedding_cuts_the_texts(run):
    from markov_runs import decode

    with_texts = measure(run, cap=2, reembed=True, embedder="tfidf", decode=decode)
    rows = run.rollouts().to_pandas()
    texts = [decode(ids[:2]) for ids in rows["token_ids"]]
    from canopy_stats.metrics import diversity_metrics
    from canopy_stats.metrics.hashed import encode

    for i, value in enumerate(with_texts["D"]):
        assert value == pytest.approx(diversity_metrics(encode(texts[40 * i:40 * i + 40]))["D"], abs=1e-7)


def test_helper_stores_what_it_draws():
    drawn = draw([table(0.1, 0.5)] * 2, 3, 20, np.random.default_rng(0))
    first = next(iter(rollouts_of(drawn, 3)))
    assert len(first.token_ids) == drawn.length[0]


def test_texts_of_a_run_without_a_tokenizer_are_its_ids(run):
    from dataclasses import replace

    from canopy_stats.metrics.measures import cut_texts

    plain = replace(run, config=replace(run.config, model={"tokenizer": None, "end_token_ids": [6]}))
    rows = run.rollouts().to_pandas()
    cut = cut_texts(plain, 2)
    assert cut[0] == " ".join(map(str, rows["token_ids"][0][:2])) or rows["length"][0] <= 2
    assert [t for t, n in zip(cut, rows["length"], strict=True) if n <= 2] == rows["text"][rows["length"] <= 2].tolist()
