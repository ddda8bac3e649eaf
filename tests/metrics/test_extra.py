"""Measures on request against loops over every order, scipy, and the definitions written out here."""

from itertools import combinations, permutations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markov_runs import store_run
from scipy import stats

import canopy_stats as cs
from canopy_stats.metrics.diversity import dispersion, dispersion_by_length, dispersion_of_each, vendi_of_order
from canopy_stats.metrics.extra import Judged, OnePrompt, asked_for
from canopy_stats.metrics.likelihood import weighted_semantic_entropy
from canopy_stats.metrics.novelty import distinct_k, utility_k
from canopy_stats.schema import UserError

CLUSTERS, REWARDS = [0, 0, 1, 2, 0, 1], np.array([1.0, 2.0, -0.5, 4.0, 0.25, 3.0])


def unit(m, d=5, seed=0):
    rows = np.random.default_rng(seed).normal(size=(m, d)) + 0.5
    return rows / np.linalg.norm(rows, axis=1)[:, None]


# --- novelty ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 2, 4, 6])
def test_distinct_k_is_the_mean_over_all_choices_of_k(k):
    expected = np.mean([len({CLUSTERS[i] for i in chosen}) for chosen in combinations(range(6), k)])
    assert distinct_k(CLUSTERS, k) == pytest.approx(expected)


@pytest.mark.parametrize("k", [1, 3, 6])
def test_utility_k_is_the_mean_over_all_orders(k):
    patience = 0.7
    totals = []
    for order in permutations(range(6)):
        seen, total = set(), 0.0
        for place, i in enumerate(order[:k]):
            total += patience**place * REWARDS[i] * (CLUSTERS[i] not in seen)
            seen.add(CLUSTERS[i])
        totals.append(total * (1 - patience) / (1 - patience**k))
    assert utility_k(CLUSTERS, REWARDS, k, patience) == pytest.approx(np.mean(totals))


@given(st.lists(st.integers(0, 4), min_size=2, max_size=9), st.floats(0.5, 5))
def test_where_all_differ_or_are_alike_novelty_is_known(codes, worth):
    m = len(codes)
    assert distinct_k(list(range(m)), m) == pytest.approx(m) and distinct_k([0] * m, m) == pytest.approx(1)
    assert utility_k(list(range(m)), [worth] * m, m) == pytest.approx(worth)
    assert 1 - 1e-12 <= distinct_k(codes, 2) <= 2 + 1e-12


def test_what_k_cannot_be_is_refused():
    with pytest.raises(UserError, match="k is 7; it is a whole number from 1 to the 6"):
        distinct_k(CLUSTERS, 7)
    with pytest.raises(UserError, match="rewards have shape"):
        utility_k(CLUSTERS, [1.0, np.nan], 2)


# --- likelihoods ------------------------------------------------------------------------------------------------


def test_weighted_entropy_counts_a_sequence_once_and_weights_by_likelihood():
    p = np.array([0.3, 0.3, 0.1, 0.2])  # the first two are the same sequence
    found = weighted_semantic_entropy([0, 0, 0, 1], np.log(p), ["a", "a", "b", "c"])
    assert found == pytest.approx(stats.entropy([0.3 + 0.1, 0.2]))


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(-3000, 0.1), st.integers(0, 4)), min_size=1, max_size=8))
def test_weighted_entropy_stays_between_zero_and_log_of_the_clusters(rows):
    code, log, sequence = zip(*rows, strict=True)
    found = weighted_semantic_entropy(code, log, sequence)
    assert 0 <= found <= np.log(len(set(code))) + 1e-9


def test_likelihoods_of_another_law_are_refused():
    with pytest.raises(UserError, match="another law"):
        weighted_semantic_entropy([0, 1], [-np.inf, -np.inf], "ab")


# --- Vendi ------------------------------------------------------------------------------------------------------


def test_vendi_of_order_two_is_one_over_the_mean_squared_cosine():
    rows = unit(7)
    assert vendi_of_order(rows, 2) == pytest.approx(1 / np.mean((rows @ rows.T) ** 2))
    largest = np.linalg.eigvalsh(rows @ rows.T / 7).max()
    assert vendi_of_order(rows, np.inf) == pytest.approx(1 / largest)
    assert vendi_of_order(rows, 0) == pytest.approx(5)  # the rank: five dimensions
    assert vendi_of_order(rows, 1) == pytest.approx(vendi_of_order(rows, 1 + 1e-6), rel=1e-4)
    orders = [vendi_of_order(rows, q) for q in (0, 0.5, 1, 2, 5, np.inf)]
    assert orders == sorted(orders, reverse=True)


# --- length and diversity ---------------------------------------------------------------------------------------


@settings(max_examples=25)
@given(st.integers(2, 12), st.integers(0, 99))
def test_a_rollouts_own_diversity_is_its_mean_distance_to_the_others(m, seed):
    rows = unit(m, seed=seed)
    cosine = rows @ rows.T
    expected = [1 - np.mean([cosine[i, j] for j in range(m) if j != i]) for i in range(m)]
    assert dispersion_of_each(rows) == pytest.approx(expected)
    assert np.mean(expected) == pytest.approx(dispersion(rows))


def test_thirds_are_of_a_prompts_own_rollouts_by_rank():
    rows, length = unit(8), np.array([5, 1, 9, 5, 2, 7, 7, 3])
    order = sorted(range(8), key=lambda i: (length[i], i))
    groups = [[i for place, i in enumerate(order) if place * 3 // 8 == g] for g in range(3)]
    expected = [1 - np.mean([rows[i] @ rows[j] for i, j in combinations(own, 2)]) for own in groups]
    assert dispersion_by_length(length, rows) == pytest.approx(expected)


# --- columns of measure() ---------------------------------------------------------------------------------------

M = 12


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return store_run(tmp_path_factory.mktemp("extra") / "run", prompts=3, m=M, cap=8, seed=3)


def same_first_word(first, second, prompt):
    return [a.split()[0] == b.split()[0] for a, b in zip(first, second, strict=True)]


NAMES = ["vendi_2", "length_diversity", "length_thirds", "semantic_entropy", "distinct_3", "utility_3"]


@pytest.fixture(scope="module")
def rewards(run):
    table = run.rollouts(["prompt_id", "rollout"]).to_pandas()
    return table.assign(reward=np.random.default_rng(0).normal(size=len(table)))


def test_columns_on_request_are_those_of_each_prompts_rollouts(run, rewards):
    frame = cs.measure(run, embedder="tfidf", extra=NAMES, judge=same_first_word, reward=rewards)
    plain = cs.measure(run, embedder="tfidf")
    pd.testing.assert_frame_equal(frame[list(plain)], plain)
    rollouts, vectors = run.rollouts().to_pandas(), np.asarray(cs.embed(run, "tfidf"), np.float64)
    for row, (_, own) in zip(frame.itertuples(), rollouts.groupby("prompt_id"), strict=True):
        rows = vectors[own.index]
        assert row.VS_q2 == pytest.approx(1 / np.mean((rows @ rows.T) ** 2), rel=1e-5)
        each = dispersion_of_each(rows)
        assert row.rho_ND_spearman == pytest.approx(stats.spearmanr(own["length"], each).statistic)
        assert row.rho_ND_kendall == pytest.approx(stats.kendalltau(own["length"], each).statistic)
        assert row.cov_ND == pytest.approx(np.cov(own["length"], each, ddof=0)[0, 1])
        # m is min(20, M): all rollouts were judged
        words = own["text"].str.split().str[0].fillna("").tolist()
        code = pd.factorize(np.array(words))[0]
        assert row.distinct_3 == pytest.approx(distinct_k(code, 3))
        log = -own["surprisal_sum"].to_numpy()
        tokens = [tuple(ids) for ids in own["token_ids"]]
        assert row.SE_weighted == pytest.approx(weighted_semantic_entropy(code, log, tokens))
        worth = rewards["reward"].to_numpy()[own.index]
        assert row.utility_3 == pytest.approx(utility_k(code, worth, 3))
        without = [utility_k(np.delete(code, i), np.delete(worth, i), 3) for i in range(M)]
        assert row.se_utility_3 == pytest.approx(np.sqrt((M - 1) * np.var(without)))


def test_the_jackknife_finds_clusters_again_without_each_rollout():
    """A rollout that joins two others: without it they are two clusters."""
    same = np.array([[1, 1, 0], [1, 1, 1], [0, 1, 1]], bool)
    judged = Judged(same, np.log([0.2, 0.1, 0.4]), np.ones(3), [(1,), (2,), (3,)])
    found = asked_for(["distinct_2"], {"judge": 1})[0].of(OnePrompt(np.ones(3), judged=judged))
    assert found["distinct_2"] == 1
    assert found["se_distinct_2"] == pytest.approx(np.sqrt(2 / 3 * ((1 - 4 / 3) ** 2 * 2 + (2 - 4 / 3) ** 2)))


def test_a_failed_verdict_leaves_no_number():
    judged = Judged(np.eye(3, dtype=bool), np.zeros(3), np.ones(3), [(1,), (2,), (3,)], whole=False)
    found = asked_for(["distinct_2"], {"judge": 1})[0].of(OnePrompt(np.ones(3), judged=judged))
    assert all(np.isnan(v) for v in found.values())


@pytest.mark.parametrize(("options", "message"), [
    ({"extra": ["vendi_2"]}, "vendi_2 needs embedder: give embedder="),
    ({"extra": ["utility_2"], "judge": same_first_word}, "utility_2 needs reward"),
    ({"extra": ["novelty"]}, "no measure 'novelty' on request; there are vendi_2, length_diversity"),
    ({"extra": "vendi_2"}, "give a list of names"),
    ({"extra": ["distinct_2"], "judge": same_first_word, "cap": 4}, "go without cap= and rollouts="),
    ({"extra": ["vendi_2"], "embedder": "tfidf", "cap": 4}, "reembed=True")])
def test_what_is_lacking_is_named(run, options, message):
    with pytest.raises(UserError, match=message):
        cs.measure(run, **options)
