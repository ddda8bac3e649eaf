"""Control variates: unbiased, sharper where they can be, harmless where they cannot, and equal to brute force."""

import numpy as np
import pytest
from markov_runs import STATES, draw, expectation, table

from canopy_stats.metrics import adjust
from canopy_stats.schema import UserError

CAP = 1500


def simulate(tables, m, seed, cap=CAP):
    drawn = draw(tables, m, cap, np.random.default_rng(seed))
    h = drawn.sums[0]
    values = np.column_stack([h, drawn.length, h / drawn.length])
    exact = np.array([expectation(t, p % STATES, cap) for p, t in enumerate(tables)])
    return drawn, values, exact


def z_scores(adjusted, exact):
    return (adjusted.mean[:, :2] - exact) / adjusted.se[:, :2]


@pytest.mark.parametrize("cap", [40, CAP])
def test_means_of_a_chain_with_state_dependent_hazards_become_sharper_and_stay_right(cap):
    drawn, values, exact = simulate([table()] * 12, 24, seed=1, cap=cap)
    out = adjust(values, drawn.martingales, drawn.prompt, drawn.length)
    if cap == CAP:
        assert (out.se[:, :2] <= 0.5 * out.se_raw[:, :2]).all()
    z = z_scores(out, exact)
    assert np.abs(z).max() < 4.5 and np.sqrt((z**2).mean()) < 1.6
    assert np.abs(out.mean - exact_or_raw(out, exact)).mean() < np.abs(out.mean_raw - exact_or_raw(out, exact)).mean()


def exact_or_raw(out, exact):
    return np.column_stack([exact, out.mean_raw[:, 2]])


@pytest.mark.slow
def test_prompts_of_very_different_length_all_profit():
    """One coefficient for all prompts suits few of them; scaled by each prompt's other rollouts it suits all."""
    multipliers = np.tile(np.geomspace(0.2, 8, 6), 4)
    tables = [table(multiplier=x) for x in multipliers]
    drawn, values, exact = simulate(tables, 40, seed=2, cap=3000)
    scaled = adjust(values, drawn.martingales, drawn.prompt, drawn.length)
    single = adjust(values, drawn.martingales, drawn.prompt)
    ratio = scaled.se[:, :2] / scaled.se_raw[:, :2]
    assert ratio.max() < 1 and np.median(ratio) < 0.4
    assert np.mean(ratio**2) < 0.5 * np.mean((single.se[:, :2] / single.se_raw[:, :2]) ** 2)
    error, raw = (np.sqrt(np.mean(((x[:, :2] - exact) / exact) ** 2)) for x in (scaled.mean, scaled.mean_raw))
    assert error < 0.4 * raw
    assert np.abs(z_scores(scaled, exact)).max() < 4.5


def brute_force(y, z, n, code, p):
    """The estimate for prompt p and its error, from pairwise sums and an ordinary weighted regression."""
    blocks = []
    for q in np.unique(code):
        rows = np.flatnonzero(code == q)
        blocks.append((y[rows], np.column_stack([z[rows], pseudo_values(z[rows], n[rows])])))
    out = []
    for k in range(y.shape[1]):
        others = [(v[:, k], c) for q, (v, c) in enumerate(blocks) if q != p]
        v = np.concatenate([(v - v.mean()) / v.mean() for v, c in others])
        c = np.concatenate([(c - c.mean(0)) / v.mean() for v, c in others])
        b = np.linalg.lstsq(c, v, rcond=None)[0]
        freedom = sum(len(v) - 1 for v, _ in others) - c.shape[1]
        f = (np.sum((c @ b) ** 2) / c.shape[1]) / (np.sum((v - c @ b) ** 2) / freedom)
        b = b * max(0, 1 - 1 / f)
        own_v, own_c = blocks[p][0][:, k], blocks[p][1]
        residual = own_v - own_c @ b
        out.append((residual.mean(), residual.std(ddof=1) / len(residual) ** 0.5))
    return np.array(out).T


def pseudo_values(z, n):
    def u(keep):
        pairs = [z[i] * n[j] for i in keep for j in keep if i != j]
        return np.sum(pairs, axis=0) / len(pairs)

    m = len(n)
    return np.array([m * u(range(m)) - (m - 1) * u([j for j in range(m) if j != i]) for i in range(m)])


def test_equal_to_brute_force_and_blind_to_row_order():
    drawn, values, _ = simulate([table(0.05, 0.3, multiplier=x) for x in (0.5, 1, 2)], 9, seed=3)
    out = adjust(values, drawn.martingales, drawn.prompt, drawn.length)
    for p in range(3):
        mean, se = brute_force(values, drawn.martingales, drawn.length, drawn.prompt, p)
        np.testing.assert_allclose(out.mean[p], mean, rtol=1e-8)
        np.testing.assert_allclose(out.se[p], se, rtol=1e-8)
    order = np.random.default_rng(0).permutation(len(values))
    mixed = adjust(values[order], drawn.martingales[order], drawn.prompt[order], drawn.length[order])
    np.testing.assert_allclose(mixed.mean, out.mean, rtol=1e-10)


def test_units_do_not_matter():
    drawn, values, _ = simulate([table(0.05, 0.3)] * 4, 12, seed=4)
    bits = np.array([np.log2(np.e), 1, np.log2(np.e)])
    out = adjust(values, drawn.martingales, drawn.prompt, drawn.length)
    scaled = adjust(values * bits, drawn.martingales * [bits[0], 1], drawn.prompt, drawn.length)
    np.testing.assert_allclose(scaled.mean, out.mean * bits, rtol=1e-9)
    np.testing.assert_allclose(scaled.se, out.se * bits, rtol=1e-9)


def test_own_rollouts_do_not_choose_the_coefficients():
    """Adding a multiple of a prompt's own martingale to its values moves its estimate by that mean, no less."""
    drawn, values, _ = simulate([table(0.05, 0.3)] * 5, 15, seed=5)
    out = adjust(values, drawn.martingales, drawn.prompt, drawn.length)
    own = (drawn.prompt == 2)[:, None]
    moved = adjust(values + own * 7 * drawn.martingales[:, :1], drawn.martingales, drawn.prompt, drawn.length)
    expected = out.mean[2] + 7 * drawn.martingales[drawn.prompt == 2, 0].mean()
    np.testing.assert_allclose(moved.mean[2], expected, rtol=1e-9)


def test_useless_controls_cost_next_to_nothing():
    rng = np.random.default_rng(6)
    y, z, code = rng.exponential(size=4000), rng.standard_normal((4000, 2)), np.repeat(np.arange(100), 40)
    out = adjust(y, z, code)
    assert np.mean(out.se**2) < 1.002 * np.mean(out.se_raw**2)


def test_without_martingale_variance_the_raw_mean_stays():
    y, code = np.random.default_rng(7).uniform(size=60), np.repeat(np.arange(3), 20)
    out = adjust(y, np.zeros((60, 2)), code, np.ones(60))
    np.testing.assert_allclose(out.mean, out.mean_raw, rtol=1e-14)
    np.testing.assert_allclose(out.se, out.se_raw, rtol=1e-14)


@pytest.mark.parametrize("prompts, m", [(1, 50), (5, 2), (2, 4)])
def test_nan_where_coefficients_cannot_be_estimated(prompts, m):
    drawn, values, _ = simulate([table(0.05, 0.3)] * prompts, m, seed=8)
    out = adjust(values, drawn.martingales, drawn.prompt, drawn.length)
    assert np.isnan(out.mean).all() and np.isnan(out.se).all()
    np.testing.assert_allclose(out.mean_raw[0], values[:m].mean(0))
    np.testing.assert_allclose(out.se_raw[0], values[:m].std(0, ddof=1) / m**0.5)


@pytest.mark.parametrize("values, martingales, prompt, message", [
    (np.ones(3), np.ones((2, 2)), [0, 0, 0], "do not belong together"),
    (np.ones(3), np.ones((3, 2)), [0, 0, 2], "without gaps"),
    (np.array([1, np.nan]), np.ones((2, 2)), [0, 0], "NaN or infinity"),
])
def test_bad_input_is_named(values, martingales, prompt, message):
    with pytest.raises(UserError, match=message):
        adjust(values, martingales, prompt)
