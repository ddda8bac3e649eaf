"""Raw, null, excess and adjusted coefficients of one prompt: against scipy and against all sign patterns."""

from itertools import product

import numpy as np
import pytest
from scipy import stats

from canopy_stats.metrics.excess import coefficients


def scipy_three(x, y):
    return [stats.pearsonr(x, y).statistic, stats.spearmanr(x, y).statistic, stats.kendalltau(x, y).statistic]


@pytest.fixture
def prompt():
    rng = np.random.default_rng(4)
    n = rng.integers(3, 9, 12).astype(float)  # with ties
    return n, 1 + 0.1 * n + rng.normal(0, 0.3, 12), rng.normal(0, 0.3, 12)


def test_raw_and_adjusted_are_scipys_on_the_repeated_rows(prompt):
    n, r, b = prompt
    weights = np.random.default_rng(1).multinomial(12, np.full(12, 1 / 12), size=6)
    found = coefficients(n, r, np.tile(b, (6, 1)), weights.astype(float))
    assert len(found) == 6
    for k, w in enumerate(weights):
        rows = np.repeat(np.arange(12), w)
        np.testing.assert_allclose(found.raw[k], scipy_three(n[rows], r[rows]), atol=1e-12)
        np.testing.assert_allclose(found.adjusted[k], scipy_three(n[rows], b[rows]), atol=1e-12)


@pytest.mark.slow
def test_rank_null_is_the_mean_over_all_signs(prompt):
    n, r, b = (x[:9] for x in prompt)
    centred = b - b.mean()
    null = [scipy_three(n, r - centred + np.array(s) * centred) for s in product([-1, 1], repeat=9)]
    found = coefficients(n, r, b[None], np.ones((1, 9)))
    np.testing.assert_allclose((found.raw - found.excess)[0, 1:], np.mean(null, axis=0)[1:], atol=1e-12)


def test_pearson_excess_is_the_covariance_on_the_raw_scale_less_its_bias_under_signs():
    rng = np.random.default_rng(2)
    plain, bias, found = [], [], []
    for _ in range(40):
        n, noise = rng.geometric(0.05, 16).astype(float), rng.normal(0, 1, 16)
        b = 0.4 * (noise - noise.mean())
        r = b + 2 / np.sqrt(n)
        signs = rng.choice([-1, 1], (4000, 16)) * b
        scaled = [(s * (n - n.mean())).mean(-1) / n.std() / (r - b + s).std(-1) for s in (b, signs)]
        plain.append(scaled[0])
        bias.append(scaled[1].mean())
        found.append(coefficients(n, r, b[None], np.ones((1, 16))).excess[0, 0])
    removed = np.array(plain) - found
    assert np.mean(bias) > 0.01
    assert abs(np.mean(removed - bias)) < 0.25 * np.mean(bias)


def test_all_residual_or_none():
    """Without a profile the excess is the raw coefficient; without a residual it is nothing."""
    rng = np.random.default_rng(3)
    n, r = rng.integers(1, 50, 20).astype(float), rng.gamma(3, 1, 20)
    flat = coefficients(n, r, (r - 0.7)[None], np.ones((1, 20)))
    np.testing.assert_allclose(flat.excess, flat.raw, atol=1e-12)
    np.testing.assert_allclose(flat.adjusted, flat.raw, atol=1e-12)
    exact = coefficients(n, r, np.full((1, 20), 3.0) + 1e-13 * rng.normal(size=20), np.ones((1, 20)))
    np.testing.assert_allclose(exact.excess, 0, atol=1e-12)
    assert np.isfinite(exact.raw).all() and np.isnan(exact.adjusted).all()


def test_without_variance_all_are_missing():
    n, r = np.array([4.0, 4, 4, 9]), np.array([1.0, 2, 3, 5])
    found = coefficients(n, r, np.tile(r, (2, 1)), np.array([[1.0, 1, 1, 0], [1, 1, 1, 1]]))
    assert np.isnan(found.raw[0]).all() and np.isnan(found.excess[0]).all() and np.isnan(found.adjusted[0]).all()
    assert np.isfinite(found.raw[1]).all()


def test_many_resamples_are_cut_into_chunks(prompt, monkeypatch):
    n, r, b = prompt
    weights = np.random.default_rng(5).integers(0, 3, (50, 12)).astype(float)
    whole = coefficients(n, r, np.tile(b, (50, 1)), weights)
    monkeypatch.setattr("canopy_stats.metrics.excess._PAIRS_AT_ONCE", 7 * 144)
    cut = coefficients(n, r, np.tile(b, (50, 1)), weights)
    np.testing.assert_allclose(cut.excess, whole.excess, atol=1e-12)
