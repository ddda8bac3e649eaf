"""Bounds of an entropy from some of its probabilities: laws that attain both, and random ones that lie within."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import entropy

from canopy_stats.doors.bounds import entropy_bounds, step_bounds
from canopy_stats.metrics.bounded import bounded_metrics
from canopy_stats.schema import UserError


def law_of(seed, size, sharpness):
    return np.sort(np.random.default_rng(seed).dirichlet(np.full(size, sharpness)))[::-1]


@given(st.integers(0, 10**6), st.integers(21, 400), st.sampled_from([0.05, 0.3, 1.0, 10.0]))
@settings(max_examples=150, deadline=None)
def test_the_true_entropy_lies_within(seed, size, sharpness):
    law = law_of(seed, size, sharpness)
    low, high = entropy_bounds(law[:20], law[19], size)
    assert low <= entropy(law) + 1e-12 and entropy(law) <= high + 1e-12


@pytest.mark.parametrize(("rest", "full"), [(0.5, 5), (0.47, 4), (0.03, 0)], ids=["whole", "with a rest", "one token"])
def test_the_least_entropy_is_that_of_as_few_tokens_as_the_twentieth_allows(rest, full):
    known = np.full(20, 0.1)
    known[:] = (1 - rest) / 20 if rest < 0.1 else 0.1
    known = np.array([1 - rest - 19 * 0.1 / 19, *np.full(19, 0.1 / 19)]) if full == 0 else known
    known = np.array([1 - rest - 4 * 0.1, *np.full(4, 0.1)]) if full else known
    cap = float(known.min())
    fewest = [cap] * int(rest / cap + 1e-9)
    attained = np.array([*known, *fewest, rest - sum(fewest)])
    assert attained.sum() == pytest.approx(1) and attained[len(known):].max() <= cap + 1e-12
    assert entropy_bounds(known, cap, 1000)[0] == pytest.approx(entropy(attained), abs=1e-12)


def test_the_largest_entropy_is_that_of_an_even_rest():
    known = np.array([0.4, 0.2, 0.1])
    attained = np.array([*known, *np.full(97, 0.3 / 97)])
    assert entropy_bounds(known, 0.1, 100)[1] == pytest.approx(entropy(attained), abs=1e-12)


def test_a_law_that_is_known_as_a_whole_has_one_entropy():
    law = law_of(1, 12, 0.5)
    assert entropy_bounds(law, law[-1], 12) == pytest.approx((entropy(law), entropy(law)), abs=1e-9)


def test_without_a_limit_the_rest_may_be_one_token():
    low, high = entropy_bounds(np.array([0.25]), 1.0, 50)
    assert low == pytest.approx(entropy([0.25, 0.75])) and high == pytest.approx(entropy([0.25, *[0.75 / 49] * 49]))


def test_steps_of_a_log():
    laws = [law_of(s, 60, 0.4) for s in range(30)]
    tops = [np.log(law[:20]).tolist() for law in laws]
    low, high = step_bounds([t[3] for t in tops], tops, 60, "here")
    true = np.array([entropy(law) for law in laws])
    assert (low <= true + 1e-6).all() and (true <= high + 1e-6).all() and (high - low).max() < 1.5


def test_a_drawn_token_below_the_likeliest_is_known_and_bounds_no_other():
    law = law_of(4, 60, 0.4)
    top, rare = np.log(law[:5]).tolist(), float(np.log(law[40]))
    beside = step_bounds([rare, top[0]], [top, top], 60, "here")
    among = step_bounds([rare, top[0]], [[*top, rare], top], 60, "here")
    expected = entropy_bounds(np.array([*law[:5], law[40]]), float(law[4]), 60)
    for low, high in (beside, among):
        assert (low[0], high[0]) == pytest.approx(expected, abs=1e-4)
        assert low[0] <= entropy(law) <= high[0]


def test_a_drawn_token_that_was_rounded_otherwise_counts_once():
    law = np.array([0.6, 0.25, 0.1, 0.05])
    top = np.log(law[:3]).tolist()
    found = step_bounds([float(np.float32(top[2])) - 1e-7], [top], 4, "here")
    assert np.ravel(found) == pytest.approx([entropy(law), entropy(law)], abs=1e-4)


def test_steps_with_unequal_lists_are_each_bounded_by_their_own():
    """From none to all of a law's tokens, the drawn one among them or not."""
    laws = [law_of(s, 30, 0.4) for s in range(31)]
    tops = [np.log(law[:k]).tolist() for k, law in enumerate(laws)]
    drawn = [float(np.log(law[0])) for law in laws]
    low, high = step_bounds(drawn, tops, 30, "here")
    for k, law in enumerate(laws):
        expected = entropy_bounds(law[: max(k, 1)], float(law[k - 1]) if k else 1.0, 30)
        if k != 1:  # there the drawn token is the list, as a server writes one that it adds
            assert (low[k], high[k]) == pytest.approx(expected, abs=2e-4), k
        assert low[k] - 1e-6 <= entropy(law) <= high[k] + 1e-6


@pytest.mark.parametrize(("drawn", "tops", "vocabulary", "message"), [
    ([-0.1], [[-0.1, -0.2, -0.3]], 100, "add up to 2.46"), ([-3.0], [[-1.5, -2.0, -3.0]], 2, "for a vocabulary of 2")])
def test_logs_that_are_no_law_are_refused(drawn, tops, vocabulary, message):
    with pytest.raises(UserError, match=message):
        step_bounds(drawn, tops, vocabulary, "here")


@given(st.integers(0, 10**6), st.integers(2, 12))
@settings(max_examples=100, deadline=None)
def test_bounds_of_a_prompt_hold_and_are_attained(seed, m):
    rng = np.random.default_rng(seed)
    length = rng.integers(1, 60, m).astype(float)
    low = length * rng.random(m)
    high = low + length * rng.random(m)
    found = bounded_metrics(length, low, high)
    inside = low + (high - low) * rng.random(m)
    covariance = np.cov(length, inside / length, bias=True)[0, 1]
    assert found["CE_low"] <= inside.mean() <= found["CE_high"]
    assert found["cov_NR_low"] - 1e-9 <= covariance <= found["cov_NR_high"] + 1e-9
    least = np.where(length > length.mean(), low, high)
    assert found["cov_NR_low"] == pytest.approx(np.cov(length, least / length, bias=True)[0, 1], abs=1e-9)
    assert found["BF_high"] == pytest.approx(np.exp((high / length).mean()))
