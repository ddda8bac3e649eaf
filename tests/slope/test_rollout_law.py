"""Simulated rollouts follow the law that was stated."""

import numpy as np
import pandas as pd
import pytest

from canopy_stats.schema import UserError
from canopy_stats.slope import rollout_law as laws

MANY = 40_000


@pytest.mark.parametrize(("law", "mean", "variance"), [
    (laws.geometric(20), 20, 20 * 19),
    (laws.negative_binomial(21, 4), 21, 20 + 20**2 / 4),
    (laws.from_hazard([0, 0, 0.05]), 22, 20 * 19),
], ids=["geometric", "negative binomial", "hazard"])
def test_length_laws_have_their_moments(law, mean, variance):
    n = law(MANY, np.random.default_rng(0))
    assert n.min() >= 1 and n.mean() == pytest.approx(mean, abs=5 * np.sqrt(variance / MANY))
    assert n.var() == pytest.approx(variance, rel=0.1)


def test_hazards_are_the_chance_of_ending_there():
    n = laws.from_hazard([0.2, 0.0, 0.5, 0.25])(MANY, np.random.default_rng(1))
    for position, hazard in enumerate([0.2, 0.0, 0.5, 0.25, 0.25], start=1):
        assert np.mean(n[n >= position] == position) == pytest.approx(hazard, abs=0.02)


def test_columns_agree_and_the_cap_ends_rollouts():
    law = laws.RolloutLaw(laws.geometric(30), laws.front_loaded(), cap=40)
    drawn = laws.simulate_rollouts(law, 5, 60, np.random.default_rng(2))
    frame, steps = drawn.rollouts, drawn.steps
    summed = steps.groupby(["prompt_id", "rollout"])["entropy"].agg(["sum", "size"]).reset_index()
    np.testing.assert_allclose(summed["sum"], frame["entropy_sum"])
    np.testing.assert_array_equal(summed["size"], frame["length"])
    np.testing.assert_allclose(frame["entropy_rate"], frame["entropy_sum"] / frame["length"])
    assert frame["length"].max() == 40 and set(frame["finish_reason"]) == {"stop", "length"}
    assert (frame.loc[frame["finish_reason"] == "length", "length"] == 40).all()
    assert (steps["entropy"] >= 0).all() and drawn.raised < 0.001
    again = laws.simulate_rollouts(law, 5, 60, np.random.default_rng(2))
    pd.testing.assert_frame_equal(again.steps, steps)


@pytest.mark.parametrize("correlation", [0.0, 0.7, -0.5])
def test_effects_have_their_size_and_correlation_with_the_log_length(correlation):
    law = laws.RolloutLaw(laws.negative_binomial(60, 3), [1.0], cap=10_000, rollout_sd=0.2,
                          length_correlation=correlation, noise=laws.normal_noise(0.0))
    frame = laws.simulate_rollouts(law, 40, 100, np.random.default_rng(3)).rollouts
    assert frame["effect"].std() == pytest.approx(0.2, rel=0.05)
    assert np.corrcoef(frame["effect"], np.log(frame["length"]))[0, 1] == pytest.approx(correlation, abs=0.05)


def test_entropies_average_to_profile_and_effects():
    law = laws.RolloutLaw(laws.geometric(25), laws.boilerplate(1.5, 0.3, 5), prompt_sd=0.1, rollout_sd=0.05)
    frame = laws.simulate_rollouts(law, 300, 20, np.random.default_rng(4)).rollouts
    left = frame["entropy_rate"] - frame["profile_rate"] - frame["effect"]
    assert left.mean() == pytest.approx(0, abs=4 * left.std() / np.sqrt(len(frame)))
    by_hand = [np.where(np.arange(n) < 5, 0.3, 1.5).mean() for n in frame["length"]]
    np.testing.assert_allclose(frame["profile_rate"], by_hand)
    assert frame.groupby("prompt_id")["effect"].mean().std() == pytest.approx(0.1, rel=0.2)


def test_persistent_noise_is_correlated_from_step_to_step_and_stationary():
    noise = laws.normal_noise(0.5, persistence=0.6)(np.zeros((MANY // 10, 30)), np.random.default_rng(5))
    np.testing.assert_allclose(noise.std(axis=0), 0.5, rtol=0.07)
    assert np.corrcoef(noise[:, 10], noise[:, 11])[0, 1] == pytest.approx(0.6, abs=0.05)


def test_a_listed_profile_goes_on_with_its_last_value():
    law = laws.RolloutLaw(laws.from_hazard([0, 0, 0, 1]), [3.0, 1.0], rollout_sd=0, noise=laws.normal_noise(0.0))
    assert laws.simulate_rollouts(law, 1, 2, np.random.default_rng(6)).steps["entropy"].tolist() == [3, 1, 1, 1] * 2


def test_negative_entropies_are_raised_and_counted_or_kept():
    deep = laws.RolloutLaw(laws.geometric(10), laws.flat(0.1), noise=laws.normal_noise(1.0))
    drawn = laws.simulate_rollouts(deep, 2, 50, np.random.default_rng(7))
    assert 0.4 < drawn.raised < 0.5 and drawn.steps["entropy"].min() == 0
    kept = laws.RolloutLaw(laws.geometric(10), laws.flat(0.1), noise=laws.normal_noise(1.0), allow_negative=True)
    drawn = laws.simulate_rollouts(kept, 2, 50, np.random.default_rng(7))
    assert drawn.raised == 0 and drawn.steps["entropy"].min() < 0


@pytest.mark.parametrize(("change", "message"), [
    ({"length_correlation": 1.5}, "length_correlation is 1.5"), ({"rollout_sd": -1.0}, "no negative"),
    ({"cap": 0}, "the cap 0"),
])
def test_impossible_laws_are_named(change, message):
    law = laws.RolloutLaw(laws.geometric(10), laws.flat(), **change)
    with pytest.raises(UserError, match=message):
        laws.simulate_rollouts(law, 2, 2, np.random.default_rng(0))


@pytest.mark.parametrize("hazard", [[], [0.5, 1.2], [0.5, 0.0]])
def test_impossible_hazards(hazard):
    with pytest.raises(UserError, match="hazard must be"):
        laws.from_hazard(hazard)
