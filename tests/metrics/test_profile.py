"""The position profile: equal to least squares with dummy columns, blind to who goes on for long, cross-fitted."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from canopy_stats.metrics.profile import PromptSteps, folds_of, position_profile, residual_rates
from canopy_stats.schema import UserError


def draw(length, seed=0):
    """Steps with unrelated entropies."""
    return PromptSteps.of(np.random.default_rng(seed).gamma(2, 0.5, int(np.sum(length))), length)


def least_squares(steps, weights):
    """Rollout effects (M,) and position effects (T,), the first of which is 0, by dummy columns."""
    m, t = steps.entropy.shape
    row, step = np.nonzero(steps.alive * (weights > 0)[:, None])
    x = np.zeros((len(row), m + t))
    x[np.arange(len(row)), row] = x[np.arange(len(row)), m + step] = 1
    root = np.sqrt(weights[row])
    found = np.linalg.lstsq(x * root[:, None], steps.entropy[row, step] * root, rcond=None)[0]
    return found[:m] + found[m], found[m:] - found[m]


LENGTHS = st.lists(st.integers(1, 12), min_size=2, max_size=9)


@settings(deadline=None, max_examples=60)
@given(LENGTHS, st.integers(0, 99))
def test_profile_is_that_of_least_squares(length, seed):
    steps = draw(length, seed)
    weights = np.random.default_rng(seed).integers(1, 4, (3, len(length))).astype(float)
    profile, reach = position_profile(steps, weights)
    for b in range(3):
        np.testing.assert_allclose(profile[b], least_squares(steps, weights[b])[1], atol=1e-10)
    assert (reach == max(length)).all()


@settings(deadline=None, max_examples=40)
@given(LENGTHS, st.integers(0, 99))
def test_without_cross_fitting_the_residual_is_the_rollout_effect(length, seed):
    steps = draw(length, seed)
    weights = np.arange(1.0, len(length) + 1)
    residual = residual_rates(steps, folds_of(len(length), 1), weights)[0]
    np.testing.assert_allclose(residual, least_squares(steps, weights)[0], atol=1e-10)


def test_a_rollout_of_weight_zero_is_not_there():
    steps = draw([3, 9, 5, 7])
    profile, reach = position_profile(steps, [1, 0, 1, 1])
    alone, _ = position_profile(PromptSteps(steps.entropy[[0, 2, 3]], steps.length[[0, 2, 3]]))
    np.testing.assert_allclose(profile[0, :7], alone[0, :7], atol=1e-12)
    assert reach == [7] and (profile[0, 7:] == 0).all()


def test_the_profile_does_not_mistake_long_rollouts_for_late_positions():
    """Without noise it is exact, though the long rollouts are the richer ones; the survivors' mean is far off."""
    rng = np.random.default_rng(3)
    length = rng.geometric(0.05, 60)
    truth = 1 + np.exp(-np.arange(length.max()) / 10)
    effect = 0.3 * np.log(length)
    steps = PromptSteps.of(np.concatenate([truth[:n] + e for n, e in zip(length, effect, strict=True)]), length)
    profile, _ = position_profile(steps)
    np.testing.assert_allclose(profile[0], truth - truth[0], atol=1e-10)
    for folds in (1, 5):
        residual = residual_rates(steps, folds_of(60, folds))[0]
        np.testing.assert_allclose(residual - residual[0], effect - effect[0], atol=1e-9)
    survivors = steps.entropy.sum(0) / steps.alive.sum(0)
    assert np.ptp(survivors - truth) > 0.5


def test_cross_fitting_by_hand():
    """A fold's residuals are means over the positions that the others reach, at the level of the whole profile."""
    steps = draw([4, 9, 2, 6, 6, 3, 8], seed=5)
    fold, weights = folds_of(7, 3), np.array([1.0, 2, 0, 1, 1, 3, 1])
    residual = residual_rates(steps, fold, weights)[0]
    whole, alive = least_squares(steps, weights)[1], steps.alive
    for i in range(7):
        others = weights * (fold != fold[i])
        reach = steps.length[others > 0].max()
        profile = least_squares(steps, others)[1][:reach]
        profile += np.average(whole[:reach] - profile, weights=(weights @ alive)[:reach])
        used = min(steps.length[i], reach)
        assert residual[i] == pytest.approx(np.mean(steps.entropy[i, :used] - profile[:used]), abs=1e-10)


def test_own_entropies_do_not_shape_the_own_profile():
    """Raising the end of one rollout moves its own residual as if the profile stood still, up to one level per fold."""
    steps = draw([6, 6, 6, 6], seed=1)
    moved = steps.entropy.copy()
    moved[0, 3:] += 1.0
    fold = folds_of(4, 4)
    before, after = residual_rates(steps, fold)[0], residual_rates(PromptSteps(moved, steps.length), fold)[0]
    whole_level = after[0] - before[0]
    plain = residual_rates(PromptSteps(moved, steps.length), folds_of(4, 1)) - residual_rates(steps, folds_of(4, 1))
    np.testing.assert_allclose(plain[0] - plain[0, 1], [0.5, 0, 0, 0], atol=1e-12)
    assert whole_level != pytest.approx(0)


def test_few_rollouts():
    assert np.isfinite(residual_rates(draw([5, 3]), folds_of(2))).all()
    assert np.isfinite(residual_rates(draw([5]), folds_of(1))).all()
    only_first = residual_rates(draw([5, 3, 4]), folds_of(3), [3, 0, 0])
    assert np.isfinite(only_first).all()


def test_counted_from_the_end():
    steps = PromptSteps.of([1, 2, 3, 4, 5], [3, 2])
    np.testing.assert_array_equal(steps.reversed().entropy, [[3, 2, 1], [5, 4, 0]])
    np.testing.assert_allclose(steps.reversed().rate, steps.rate)


@pytest.mark.parametrize(("entropy", "length", "message"), [
    ([1, 2, 3], [1, 1], "every step's entropy"),
    ([1, 2], [2, 0], "at least 1"),
    ([1, np.nan], [1, 1], "1 step\\(s\\) have no finite entropy"),
])
def test_bad_steps_are_named(entropy, length, message):
    with pytest.raises(UserError, match=message):
        PromptSteps.of(entropy, length)


@pytest.mark.parametrize("folds", [0, -1, 2.5])
def test_bad_folds(folds):
    with pytest.raises(UserError, match="whole number"):
        folds_of(10, folds)
