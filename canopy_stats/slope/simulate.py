"""Panels from a stated law: what the slope estimators are tested, calibrated and planned with.

Each prompt has a true entropy rate, length and diversity. On the logit scale the true diversity is

    eta = intercept + task + family + prompt + reaction · tuned + curve(rate, length)
          + (slope_variant,family,task + reaction slope · tuned) · x + length_effect · z(1/N)

with x the true rate in standard deviations over the panel; D is beta with mean expit(eta). What is observed are means
over M rollouts, whose errors are correlated between D, rate and length, with the jackknife's estimate of their
covariance beside them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd
from scipy import stats
from scipy.special import expit

from canopy_stats.schema import UserError
from canopy_stats.seeds import generator

Array = np.ndarray
Curve = Literal["none", "log", "saturating", "root", "total entropy", "log total entropy", "rate by length"]

CURVES: dict[str, Callable[[Array, Array], Array]] = {
    "none": lambda rate, length: np.zeros_like(rate),
    "log": lambda rate, length: np.log(rate),
    "saturating": lambda rate, length: 2 * (1 - np.exp(-1.5 * rate)),
    "root": lambda rate, length: 2 * np.sqrt(rate),
    "total entropy": lambda rate, length: 1.2 * np.sqrt(rate * length / 100),
    "log total entropy": lambda rate, length: 1.2 * np.log1p(rate * length / 40),
    "rate by length": lambda rate, length: 0.45 * rate * np.log(length / 50),
}
"""What base and tuned may share, of the rate in nats per token and the length in tokens; the first ones, of the rate
alone, are concave."""
LOG_RATE = (-1.1, -0.7, 0.25, 0.45)
LOG_LENGTH = (5.5, 5.2, 5.8, 4.1)
EDGE = 1e-6


@dataclass(frozen=True, slots=True)
class Scenario:
    """The law of a panel: families × tasks × prompts, base and tuned.

    ``gap`` is how much lower the tuned log rates are, in within-task standard deviations (``sd_log_rate``). Slopes are
    per standard deviation of the true rate over the panel: ``base_slope`` and, for tuned, ``base_slope + difference``;
    ``family_sd`` and ``task_sd`` are standard deviations of the slope by family × variant and by task × variant.
    ``curve`` is a shape that both variants share, times ``curve_scale``. ``rollouts`` is M for both variants or by
    variant, None for a panel without measurement error; ``rate_cv``, ``length_cv`` and ``diversity_sd`` are one
    rollout's relative or absolute error, ``error_correlation`` that of rate and diversity. ``precision`` is phi;
    ``tied`` the share of the log rate's variance that a prompt keeps across families and variants. Tuned texts are
    ``length_ratio`` times as long, and within a task log lengths vary by ``sd_log_length``. ``reaction_sd`` and
    ``reaction_slope_sd`` are standard deviations of the level and slope by which a prompt reacts to tuning, alike in
    all families. Of the prompts with the lowest fifth of a task's rates, ``zeros`` have a diversity of exactly 0.
    """

    families: int = 3
    tasks: int = 4
    prompts: int = 100
    gap: float = 1.0
    sd_log_rate: float = 0.3
    base_slope: float = 0.3
    difference: float = 0.0
    curve: Curve = "none"
    curve_scale: float = 1.0
    family_sd: float = 0.0
    task_sd: float = 0.0
    rollouts: int | Mapping[str, int] | None = None
    rate_cv: float | Mapping[str, float] = 0.25
    length_cv: float = 0.5
    diversity_sd: float = 0.13
    error_correlation: float = 0.4
    length_effect: float = -0.1
    prompt_sd: float = 0.3
    precision: float = 33.0
    tied: float = 0.0
    length_ratio: float = float(np.exp(0.27))
    sd_log_length: float = 0.4
    reaction_sd: float = 0.0
    reaction_slope_sd: float = 0.0
    zeros: float = 0.0

    def __post_init__(self) -> None:
        if self.curve not in CURVES:
            raise UserError(f"curve is {self.curve!r}; choose one of {', '.join(CURVES)}.")
        if min(self.families, self.tasks) < 1 or self.prompts < 2:
            raise UserError("A panel needs at least one family, one task and two prompts of each task.")
        if self.rollouts is not None and min(_each(self.rollouts).values()) < 3:
            raise UserError("rollouts must be at least 3: the jackknife needs D without one of them.")
        if not 0 <= self.tied <= 1:
            raise UserError(f"tied is {self.tied}; it is a share of variance, from 0 to 1.")

    def but(self, **changes: object) -> Scenario:
        """The same law with some values changed."""
        return replace(self, **changes)  # type: ignore[arg-type]


VARIANTS = ("base", "tuned")


def _each(value: float | Mapping[str, float]) -> dict[str, float]:
    """A number for both variants, or one for each."""
    return dict(value) if isinstance(value, Mapping) else dict.fromkeys(VARIANTS, value)


def simulate_panel(scenario: Scenario, rng: np.random.Generator | int) -> pd.DataFrame:
    """One panel, by a generator or a seed, with the columns that the slope models read.

    ``attrs["truth"]`` holds the true base and tuned slope (averages over families and tasks, per standard deviation of
    the true rate) and their difference: the law's, without the drawn family and task deviations, which average to zero
    over panels.
    """
    rng = rng if isinstance(rng, np.random.Generator) else generator(rng)
    index = _index(scenario)
    rate, length = _rates_and_lengths(scenario, index, rng)
    eta = _linear_predictor(scenario, index, rate, length, rng)
    mu = expit(eta)
    true_d = rng.beta(mu * scenario.precision, (1 - mu) * scenario.precision)
    observed = _observe(scenario, index, np.clip(true_d, EDGE, 1 - EDGE), rate, length, rng)
    observed["D"] = np.where(_collapsed(scenario, index, rate, rng), 0.0, observed["D"])
    panel = pd.DataFrame({**_names(index), **observed})
    truth = {"base": scenario.base_slope, "tuned": scenario.base_slope + scenario.difference}
    panel.attrs["truth"] = {**truth, "difference": scenario.difference} if scenario.curve == "none" else {
        "difference": scenario.difference}
    return panel


Index = dict[str, Array]


def _index(scenario: Scenario) -> Index:
    """Codes (n,) of family, variant, task and prompt within its task, in the panel's order of rows."""
    shape = (scenario.families, len(VARIANTS), scenario.tasks, scenario.prompts)
    codes = np.indices(shape).reshape(4, -1)
    return dict(zip(("family", "variant", "task", "prompt"), codes, strict=True))


def _names(index: Index) -> dict[str, Array]:
    task = np.array([f"task{t}" for t in index["task"]])
    prompt = np.array([f"{p:03d}" for p in index["prompt"]])
    return {"task": task, "prompt_id": prompt, "prompt_uid": np.char.add(np.char.add(task, "/"), prompt),
            "model_name": np.array([f"family{f}" for f in index["family"]]),
            "model_variant": np.array(VARIANTS)[index["variant"]]}


def _rates_and_lengths(scenario: Scenario, index: Index, rng: np.random.Generator) -> tuple[Array, Array]:
    """True rates (n,) in nats per token and lengths (n,) in tokens, both lognormal within a task."""
    n, tuned = len(index["task"]), index["variant"]
    shared = rng.standard_normal((scenario.tasks, scenario.prompts))[index["task"], index["prompt"]]
    z = np.sqrt(scenario.tied) * shared + np.sqrt(1 - scenario.tied) * rng.standard_normal(n)
    by_task = np.resize(LOG_RATE, scenario.tasks)[index["task"]]
    rate = np.exp(by_task + scenario.sd_log_rate * (z - scenario.gap * tuned))
    log_length = np.resize(LOG_LENGTH, scenario.tasks)[index["task"]] + np.log(scenario.length_ratio) * tuned
    return rate, np.exp(log_length + scenario.sd_log_length * rng.standard_normal(n))


def _linear_predictor(scenario: Scenario, index: Index, rate: Array, length: Array,
                      rng: np.random.Generator) -> Array:
    """eta (n,) as the module's docstring has it."""
    tuned = index["variant"]
    x = (rate - rate.mean()) / rate.std()
    inverse = 1 / length
    slope = scenario.base_slope + scenario.difference * tuned
    slope = slope + scenario.family_sd * rng.standard_normal((scenario.families, 2))[index["family"], tuned]
    slope = slope + scenario.task_sd * rng.standard_normal((scenario.tasks, 2))[index["task"], tuned]
    if scenario.curve != "none":
        slope = slope - scenario.base_slope  # the curve takes the shared slope's place
    prompt = scenario.prompt_sd * rng.standard_normal((scenario.tasks, scenario.prompts))
    task = 0.3 * rng.standard_normal(scenario.tasks)[index["task"]]
    family = 0.1 * rng.standard_normal(scenario.families)[index["family"]]
    shape = scenario.curve_scale * CURVES[scenario.curve](rate, length)
    shape = shape - shape.mean()
    effect = scenario.length_effect * (inverse - inverse.mean()) / inverse.std()
    eta = -1.0 + task + family + prompt[index["task"], index["prompt"]] + shape + slope * x + effect
    total: Array = eta + _reactions(scenario, index, x, rng)
    return total


def _collapsed(scenario: Scenario, index: Index, rate: Array, rng: np.random.Generator) -> Array:
    """Whether all of a row's rollouts say the same (n,)."""
    if not scenario.zeros:
        return np.zeros(len(rate), dtype=bool)
    low = np.array([np.quantile(rate[index["task"] == t], 0.2) for t in range(scenario.tasks)])[index["task"]]
    return np.asarray((rate < low) & (rng.random(len(rate)) < scenario.zeros))


def _reactions(scenario: Scenario, index: Index, x: Array, rng: np.random.Generator) -> Array:
    """What tuning does to a prompt (n,) in all families alike: a level, and a slope around the task's mean rate."""
    if not scenario.reaction_sd and not scenario.reaction_slope_sd:
        return np.zeros(len(x))
    level, slope = rng.standard_normal((2, scenario.tasks, scenario.prompts))[:, index["task"], index["prompt"]]
    mean = np.bincount(index["task"], x) / np.bincount(index["task"])
    moved = scenario.reaction_sd * level + scenario.reaction_slope_sd * slope * (x - mean[index["task"]])
    return np.asarray(moved * index["variant"])


def _observe(scenario: Scenario, index: Index, d: Array, rate: Array, length: Array,
             rng: np.random.Generator) -> dict[str, Array]:
    """D, rate and length as means over rollouts, with the jackknife columns; the truth itself without rollouts."""
    if scenario.rollouts is None:
        return {"D": d, "R_bar": rate, "N_bar": length, "M": np.full(len(d), 1_000_000)}
    m = np.array([_each(scenario.rollouts)[v] for v in VARIANTS], dtype=int)[index["variant"]]
    cv = np.array([_each(scenario.rate_cv)[v] for v in VARIANTS])[index["variant"]]
    scale = np.column_stack([np.full(len(d), scenario.diversity_sd), cv * rate, scenario.length_cv * length])
    error, covariance = _rollout_errors(scenario.error_correlation, scale, m, rng)
    floor = 0.05
    return {
        "D": _within_bounds(d, error[:, 0], scale[:, 0] / np.sqrt(m)),
        "R_bar": np.maximum(rate + error[:, 1], floor * rate),
        "N_bar": np.maximum(length + error[:, 2], floor * length), "M": m,
        "se_D": np.sqrt(covariance[:, 0, 0]), "se_R": np.sqrt(covariance[:, 1, 1]),
        "se_N": np.sqrt(covariance[:, 2, 2]), "cov_DR": covariance[:, 0, 1], "cov_DN": covariance[:, 0, 2],
        "cov_RN": covariance[:, 1, 2],
    }


def _within_bounds(d: Array, error: Array, sd: Array) -> Array:
    """D with its errors (n,): beta with mean D and standard deviation sd, at the quantiles of the normal errors.

    Like the mean of pairwise distances it is unbiased and lies within (0, 1); errors keep their correlations.
    """
    spread = d * (1 - d)
    size = spread / np.minimum(sd**2, 0.5 * spread) - 1
    drawn: Array = np.clip(stats.beta.ppf(stats.norm.cdf(error / sd), d * size, (1 - d) * size), EDGE, 1 - EDGE)
    return drawn


def _rollout_errors(correlation: float, scale: Array, m: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """Errors (n, 3) of the means over m rollouts, and the covariances (n, 3, 3) that the rollouts show of them."""
    root = np.linalg.cholesky(np.array([[1, correlation, 0], [correlation, 1, 0], [0, 0, 1.0]]))
    error, covariance = np.empty(scale.shape), np.empty((*scale.shape, 3))
    for count in np.unique(m):
        rows = m == count
        draws = rng.standard_normal((int(rows.sum()), count, 3)) @ root.T * scale[rows, None, :]
        error[rows] = draws.mean(axis=1)
        centred = draws - error[rows, None, :]
        covariance[rows] = np.einsum("nij,nik->njk", centred, centred) / (count * (count - 1))
    return error, covariance
