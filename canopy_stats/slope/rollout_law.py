"""Rollouts and their step entropies, drawn from a stated law: what the metrics of one run should find in them.

Entropy at position t of rollout i of prompt p is noise around profile(t) + prompt effect + rollout effect. The length
law does not look at the entropies; a rollout's effect may be correlated with the logarithm of its length.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from canopy_stats.schema import LENGTH, STOP, UserError

Floats = NDArray[np.float64]
LengthLaw = Callable[[int, np.random.Generator], NDArray[np.int64]]
"""(n, rng) -> n lengths of at least 1, before the cap."""
Noise = Callable[[Floats, np.random.Generator], Floats]
"""(mean entropies (R, T), rng) -> entropies (R, T) with these means."""
Profile = Callable[[NDArray[np.int64]], Floats] | Sequence[float] | Floats
"""Mean entropy in nats at positions 0, 1, ...: a function of positions, or values of which the last goes on."""


def geometric(mean: float) -> LengthLaw:
    """One chance of ending for all steps: lengths 1, 2, ... with this mean."""
    return lambda n, rng: rng.geometric(1 / mean, n)


def negative_binomial(mean: float, shape: float) -> LengthLaw:
    """1 + a Poisson count whose own mean is gamma distributed with this shape."""
    return lambda n, rng: 1 + rng.poisson(rng.gamma(shape, (mean - 1) / shape, n))


def from_hazard(hazard: ArrayLike) -> LengthLaw:
    """The chance of ending at each position, given that the rollout reaches it; the last value goes on for ever."""
    h = np.asarray(hazard, np.float64)
    if h.ndim != 1 or not len(h) or not ((h >= 0) & (h <= 1)).all() or h[-1] == 0:
        raise UserError("hazard must be a list of probabilities, and its last one above 0, or rollouts never end.")
    ended = 1 - np.cumprod(1 - h)

    def draw(n: int, rng: np.random.Generator) -> NDArray[np.int64]:
        length = 1 + np.searchsorted(ended, rng.random(n), side="right")
        late = length > len(h)
        length[late] = len(h) + rng.geometric(h[-1], int(late.sum()))
        return length

    return draw


def flat(level: float = 1.2) -> Profile:
    return lambda t: np.full(len(t), float(level))


def front_loaded(level: float = 0.8, extra: float = 1.6, tokens: float = 25.0) -> Profile:
    """High at first, falling to ``level`` over about ``tokens`` steps: longer rollouts have lower rates."""
    return lambda t: level + extra * np.exp(-np.asarray(t) / tokens)


def boilerplate(level: float = 1.6, low: float = 0.15, tokens: int = 12) -> Profile:
    """A formula of so many tokens with little entropy, then ``level``: longer rollouts have higher rates."""
    return lambda t: np.where(np.asarray(t) < tokens, low, level)


def gamma_noise(spread: float = 0.8) -> Noise:
    """Skewed and positive, like entropies: the standard deviation is this share of the mean."""
    return lambda mean, rng: mean * rng.gamma(spread**-2, spread**2, mean.shape)


def normal_noise(sd: float = 0.8, persistence: float = 0.0) -> Noise:
    """Symmetric, with this standard deviation in nats and this correlation of neighbouring steps."""
    return partial(_normal, sd, persistence)


def _normal(sd: float, persistence: float, mean: Floats, rng: np.random.Generator) -> Floats:
    from scipy.signal import lfilter

    draws = rng.standard_normal(mean.shape)
    draws[:, 1:] *= np.sqrt(1 - persistence**2)
    path: Floats = mean + sd * lfilter([1.0], [1.0, -persistence], draws, axis=1)
    return path


@dataclass(frozen=True, slots=True)
class RolloutLaw:
    """What rollouts are drawn from.

    ``rollout_sd`` (nats) is the standard deviation of the rollouts' effects and ``length_correlation`` their
    correlation with the log of the length before the cap; ``prompt_sd`` (nats) that of the prompts' effects.
    ``allow_negative`` keeps entropies below zero, so that means stay exactly additive; else they are raised to zero.
    """

    lengths: LengthLaw
    profile: Profile
    cap: int = 400
    rollout_sd: float = 0.15
    length_correlation: float = 0.0
    prompt_sd: float = 0.0
    noise: Noise = gamma_noise()
    allow_negative: bool = False


@dataclass(frozen=True, slots=True)
class SimulatedRollouts:
    """Frames with the stored columns, and the truth.

    ``rollouts``: prompt_id, prompt_uid, rollout, length, finish_reason, entropy_sum, entropy_rate, and the truth:
    ``profile_rate`` (the profile's mean over the rollout's positions) and ``effect`` (prompt and rollout).
    ``steps``: prompt_id, rollout, step, entropy. ``raised`` is the share of steps raised to zero.
    """

    rollouts: pd.DataFrame
    steps: pd.DataFrame
    raised: float


def simulate_rollouts(law: RolloutLaw, prompts: int, n_rollouts: int, rng: np.random.Generator,
                      task: str = "simulated") -> SimulatedRollouts:
    """Draw ``n_rollouts`` rollouts of each prompt."""
    _check(law, prompts, n_rollouts)
    uncapped = law.lengths(prompts * n_rollouts, rng)
    length = np.minimum(uncapped, law.cap)
    effect = _effects(law, uncapped, prompts, rng)
    alive = np.arange(length.max()) < length[:, None]
    mean = _profile_values(law.profile, int(length.max()))
    entropy = law.noise(mean + effect[:, None], rng)
    negative = (entropy < 0) & alive
    if not law.allow_negative:
        entropy = np.maximum(entropy, 0.0)
    sums = np.where(alive, entropy, 0.0).sum(axis=1)
    prompt, rollout = np.divmod(np.arange(len(length)), n_rollouts)
    ids = np.array([f"{p:04d}" for p in range(prompts)])[prompt]
    frame = pd.DataFrame({
        "prompt_id": ids, "prompt_uid": [f"{task}/{i}" for i in ids], "rollout": rollout, "length": length,
        "finish_reason": np.where(uncapped <= law.cap, STOP, LENGTH), "entropy_sum": sums,
        "entropy_rate": sums / length, "profile_rate": np.cumsum(mean)[length - 1] / length, "effect": effect})
    row, step = np.nonzero(alive)
    steps = pd.DataFrame({"prompt_id": ids[row], "rollout": rollout[row], "step": step, "entropy": entropy[alive]})
    return SimulatedRollouts(frame, steps, 0.0 if law.allow_negative else float(negative.sum() / alive.sum()))


def _effects(law: RolloutLaw, uncapped: NDArray[np.int64], prompts: int, rng: np.random.Generator) -> Floats:
    """Prompt and rollout effects (R,); log lengths are standardised over all rollouts, which share one length law."""
    z = np.log(uncapped)
    z = (z - z.mean()) / (z.std() or 1.0)
    own = rng.standard_normal(len(z))
    rollout = law.length_correlation * z + np.sqrt(1 - law.length_correlation**2) * own
    prompt = np.repeat(law.prompt_sd * rng.standard_normal(prompts), len(z) // prompts)
    effects: Floats = prompt + law.rollout_sd * rollout
    return effects


def _profile_values(profile: Profile, positions: int) -> Floats:
    """The profile at the first positions (positions,)."""
    if callable(profile):
        return np.asarray(profile(np.arange(positions)), np.float64)
    values = np.asarray(profile, np.float64)
    return values[np.minimum(np.arange(positions), len(values) - 1)]


def _check(law: RolloutLaw, prompts: int, n_rollouts: int) -> None:
    if prompts < 1 or n_rollouts < 1 or law.cap < 1:
        raise UserError(f"prompts is {prompts}, n_rollouts {n_rollouts} and the cap {law.cap}; each must be 1 or more.")
    if not -1 <= law.length_correlation <= 1 or min(law.rollout_sd, law.prompt_sd) < 0:
        raise UserError(f"length_correlation is {law.length_correlation} and the standard deviations {law.rollout_sd}, "
                        f"{law.prompt_sd}; give a correlation, and no negative standard deviation.")
