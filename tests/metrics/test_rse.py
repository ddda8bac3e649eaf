"""Semantic entropy against closed forms, exact fractions, and what it must not depend on."""

from fractions import Fraction
from math import log

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import entropy

from canopy_stats.metrics.rse import asymmetric_share, chao_shen, clusters, semantic_entropy, share_entropy
from canopy_stats.schema import UserError

UNTIMED = settings(deadline=None)
COUNTS = st.lists(st.integers(1, 12), min_size=1, max_size=10)


def blocks(*sizes):
    """Verdicts of texts that fall into clusters of these sizes."""
    label = np.repeat(np.arange(len(sizes)), sizes)
    return label[:, None] == label[None, :]


def fractions_chao_shen(counts):
    """The estimator with exact fractions up to its logarithms."""
    n, f1 = sum(counts), counts.count(1)
    coverage = 1 - Fraction(n - 1 if f1 == n else f1, n)
    adjusted = [coverage * Fraction(y, n) for y in counts]
    return -sum(float(q / (1 - (1 - q) ** n)) * log(q) for q in adjusted)


# ------------------------------------------------------------------------------------------------------ closed forms


def test_one_cluster_and_all_apart():
    one, apart = semantic_entropy(blocks(20)), semantic_entropy(blocks(*[1] * 20))
    assert (one["RSE"], one["RSE_cs"], one["clusters"]) == (0, 0, 1)
    assert apart["RSE"] == pytest.approx(log(20)) and apart["clusters"] == 20
    assert one["rse_m"] == apart["rse_m"] == 20
    assert one["asymmetric_share"] == apart["asymmetric_share"] == 0


@pytest.mark.parametrize("sizes", [(3, 2), (10, 5, 5), (1, 1, 2), (7,)])
def test_entropy_of_the_shares_agrees_with_scipy(sizes):
    assert semantic_entropy(blocks(*sizes))["RSE"] == pytest.approx(entropy(sizes))


def test_chao_shen_by_hand():
    """Counts 2 and 1: C = 2/3, q = 4/9 and 2/9, 1 − (5/9)³ = 604/729 and 1 − (7/9)³ = 386/729."""
    assert chao_shen([2, 1]) == pytest.approx(324 / 604 * log(9 / 4) + 162 / 386 * log(9 / 2), rel=1e-14)


def test_chao_shen_of_singletons_takes_one_as_repeated():
    """n = 3 singletons: f1 = 2, C = 1/3, q = 1/9, 1 − (8/9)³ = 217/729; above log 3, as most was not seen."""
    assert chao_shen([1, 1, 1]) == pytest.approx(3 * 81 / 217 * log(9), rel=1e-14)
    assert chao_shen([1, 1, 1]) > log(3)


@pytest.mark.parametrize("counts, value", [([1], 0.0), ([9], 0.0), ([5, 5], None), ([4, 2, 3, 2, 4, 2, 1, 1], None)])
def test_chao_shen_at_its_edges(counts, value):
    assert chao_shen(counts) == pytest.approx(fractions_chao_shen(counts) if value is None else value, abs=1e-14)


@UNTIMED
@given(COUNTS)
def test_chao_shen_equals_exact_fractions(counts):
    assert chao_shen(counts) == pytest.approx(fractions_chao_shen(counts), rel=1e-10, abs=1e-12)


def test_chao_shen_is_nearer_to_the_truth_than_the_plug_in():
    rng = np.random.default_rng(0)
    law = rng.dirichlet(np.ones(30))
    drawn = [np.unique(rng.choice(30, 20, p=law), return_counts=True)[1] for _ in range(400)]
    plug_in, adjusted = (np.mean([f(y) for y in drawn]) for f in (share_entropy, chao_shen))
    assert abs(adjusted - entropy(law)) < 0.3 * abs(plug_in - entropy(law))


# ---------------------------------------------------------------------------------------------------------- clusters


def test_both_orders_must_agree():
    verdicts = np.zeros((4, 4), bool)
    verdicts[0, 1] = verdicts[1, 0] = True  # mutual
    verdicts[2, 3] = True  # only when 2 comes first
    out = semantic_entropy(verdicts)
    assert clusters(verdicts).tolist() == [0, 0, 1, 2]
    assert out["clusters"] == 3 and out["asymmetric_share"] == pytest.approx(1 / 6)
    assert out["RSE"] == pytest.approx(entropy([2, 1, 1]))


def test_a_chain_of_agreements_is_one_cluster():
    chain = np.eye(6, k=1, dtype=bool) | np.eye(6, k=-1, dtype=bool)
    assert clusters(chain).tolist() == [0] * 6


def test_the_diagonal_is_not_read():
    verdicts = np.random.default_rng(3).random((7, 7)) < 0.4
    other = verdicts ^ np.eye(7, dtype=bool)
    assert semantic_entropy(verdicts) == semantic_entropy(other)


@UNTIMED
@given(st.integers(2, 9), st.integers(0, 2**32 - 1))
def test_the_order_of_the_texts_does_not_matter(m, seed):
    rng = np.random.default_rng(seed)
    verdicts, order = rng.random((m, m)) < rng.random(), rng.permutation(m)
    assert semantic_entropy(verdicts[np.ix_(order, order)]) == pytest.approx(semantic_entropy(verdicts))
    assert semantic_entropy(verdicts.T) == pytest.approx(semantic_entropy(verdicts))


@UNTIMED
@given(COUNTS, st.data())
def test_splitting_a_cluster_raises_the_entropy(counts, data):
    large = [i for i, y in enumerate(counts) if y > 1]
    if not large:
        return
    i = data.draw(st.sampled_from(large))
    part = data.draw(st.integers(1, counts[i] - 1))
    finer = [*counts[:i], part, counts[i] - part, *counts[i + 1:]]
    assert share_entropy(finer) > share_entropy(counts)


@UNTIMED
@given(st.integers(2, 8), st.integers(0, 2**32 - 1))
def test_one_more_agreement_never_raises_the_entropy(m, seed):
    rng = np.random.default_rng(seed)
    verdicts = rng.random((m, m)) < 0.3
    i, j = rng.choice(m, 2, replace=False)
    more = verdicts.copy()
    more[i, j] = more[j, i] = True
    assert semantic_entropy(more)["RSE"] <= semantic_entropy(verdicts)["RSE"] + 1e-12


# ----------------------------------------------------------------------------------------------------------- refused


@pytest.mark.parametrize("verdicts", [np.ones(3, bool), np.ones((2, 3), bool), np.eye(3), np.ones((0, 0), bool),
                                      [[True, None], [True, True]]])
def test_verdicts_are_a_square_of_booleans(verdicts):
    with pytest.raises(UserError, match=r"square matrix \(m, m\) of booleans"):
        clusters(verdicts)


@pytest.mark.parametrize("counts", [[], [0, 1], [1.5], [[1, 2]], [np.nan]])
def test_sizes_are_whole_and_positive(counts):
    with pytest.raises(UserError, match="leave empty clusters out"):
        chao_shen(counts)


def test_a_single_text_has_no_pairs():
    out = semantic_entropy(np.ones((1, 1), bool))
    assert out["RSE"] == out["RSE_cs"] == 0 and np.isnan(out["asymmetric_share"])
    assert np.isnan(asymmetric_share(np.ones((1, 1), bool)))
