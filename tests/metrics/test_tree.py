"""Canopy entropy and its parts: closed forms, the identity, invariants, scipy's coefficients."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from canopy_stats.metrics import tree_metrics
from canopy_stats.metrics.association import correlations, kendall, pearson, spearman
from canopy_stats.schema import UserError

RHOS = ("rho_pearson", "rho_spearman", "rho_kendall")


@st.composite
def rollouts(draw, smallest=2):
    m = draw(st.integers(smallest, 40))
    length = draw(arrays(np.int64, m, elements=st.integers(1, 5000)))
    rate = draw(arrays(np.float64, m, elements=st.floats(0, 11)))
    return length, rate * length


@given(rollouts(smallest=1))
def test_identity_holds_to_rounding(case):
    out = tree_metrics(*case)
    assert out["CE"] == pytest.approx(out["mean_length"] * out["mean_rate"] + out["cov_NR"], rel=1e-11, abs=1e-9)


@given(rollouts(), st.randoms(use_true_random=False))
def test_order_of_rollouts_does_not_matter(case, random):
    length, entropy = case
    order = list(range(len(length)))
    random.shuffle(order)
    assert tree_metrics(length[order], entropy[order]) == pytest.approx(tree_metrics(length, entropy), rel=1e-9,
                                                                       abs=1e-9, nan_ok=True)


@given(rollouts())
def test_duplicating_every_rollout_changes_nothing(case):
    twice = tree_metrics(*(np.tile(x, 2) for x in case))
    assert twice == pytest.approx(tree_metrics(*case), rel=1e-9, abs=1e-9, nan_ok=True)


def test_values_by_hand():
    out = tree_metrics([1, 2, 3], [2.0, 2.0, 9.0])  # rates 2, 1, 3
    assert out["CE"] == pytest.approx(13 / 3)
    assert out["mean_rate"] == pytest.approx(2.0)
    assert out["cov_NR"] == pytest.approx(13 / 3 - 4)
    assert out["BF"] == pytest.approx(np.exp(2))
    assert out["GenPPL"] == pytest.approx(np.exp(13 / 6))
    assert (out["rho_pearson"], out["rho_spearman"], out["rho_kendall"]) == pytest.approx((0.5, 0.5, 1 / 3))


def test_single_precision_is_summed_in_double():
    out = tree_metrics(np.float32([2**20, 2**20]), np.float32([2**24, 1]))
    assert out["CE"] == (2**24 + 1) / 2


@pytest.mark.parametrize("m", [5, 60, 700])
def test_coefficients_agree_with_scipy_also_with_ties(m):
    rng = np.random.default_rng(m)
    x, y = rng.integers(0, 8, m).astype(float), rng.integers(0, 8, m).astype(float)
    assert pearson(x, y) == pytest.approx(stats.pearsonr(x, y).statistic, abs=1e-12)
    assert spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)
    assert kendall(x, y) == pytest.approx(stats.kendalltau(x, y).statistic, abs=1e-12)


@given(rollouts())
def test_rank_correlations_ignore_monotone_maps(case):
    length, entropy = case
    rate = np.round(entropy / length, 6)
    before, after = correlations(length, rate), correlations(np.log(length) + 3, rate)
    for name in ("rho_spearman", "rho_kendall"):
        assert after[name] == pytest.approx(before[name], nan_ok=True, abs=1e-9)


@pytest.mark.parametrize("length, entropy", [([4, 4, 4], [1.0, 2, 3]), ([1, 2, 3], [0.7 * 1, 0.7 * 2, 0.7 * 3]),
                                             ([5, 6], [0.0, 0.0]), ([7], [3.0])])
def test_without_variance_all_three_correlations_are_nan(length, entropy):
    out = tree_metrics(length, entropy)
    assert all(np.isnan(out[name]) for name in RHOS)
    assert out["cov_NR"] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("length, entropy, message", [
    ([1, 2], [1.0], r"^length has shape \(2,\) and entropy_sum \(1,\); give two arrays of one shape \(M,\), one value "
                    r"per rollout of a single prompt\.$"),
    ([], [], "one value per rollout"),
    ([[1, 2]], [[1.0, 2.0]], "one value per rollout"),
    ([1, *7 * [0]], [1.0] * 8, r"^length cannot be used at 7 rollout\(s\), position 1, 2, 3, 4, 5: each rollout draws "
                               r"at least one token\. Look for failed or unfinished rollouts there\.$"),
    ([1, 2], [np.nan, 1.0], r"^entropy_sum cannot be used at 1 rollout\(s\), position 0: entropy sums are finite"),
    ([np.inf, 2], [1.0, 1.0], r"length cannot be used .* position 0"),
    ([1, 2], [-1.0, 1.0], "finite and not negative"),
])
def test_bad_input_is_named(length, entropy, message):
    with pytest.raises(UserError, match=message):
        tree_metrics(length, entropy)
