"""Panels of a planned study: new prompts, families and rollouts from the law of a pilot (see ``slope.pilot``)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import betaincinv, expit, logit

from canopy_stats.mixed.formulas.fixed import encode_fixed
from canopy_stats.slope.columns import BASE
from canopy_stats.slope.pilot import JACKKNIFE, LEAST, Pilot
from canopy_stats.slope.prepare import SQUEEZE

Array = np.ndarray
Index = dict[str, Array]
"""Codes (n,) of task, prompt, family and variant."""


@dataclass(frozen=True, slots=True)
class StudySize:
    """Size of a study: prompts of each task, rollouts of each prompt, families."""

    prompts: int
    rollouts: int
    families: int


@dataclass(frozen=True)
class Truth:
    """The true rates and lengths (n,) of one study, what the law makes of them without random effects (``eta``), and
    ``x`` (n,), the rate in the pilot's standard deviations from its mean: what slopes and their deviations multiply."""

    size: StudySize
    index: Index
    frame: pd.DataFrame
    rate: Array
    length: Array
    eta: Array
    x: Array


def draw_panel(pilot: Pilot, size: StudySize, effect: float, rng: np.random.Generator) -> pd.DataFrame:
    """One panel of a study of this size whose true difference of slopes is ``effect`` (logit per SD of the rate).

    New families have the rates and lengths of families drawn from the pilot's. With the same stream, panels of
    different effects differ in nothing else.
    """
    truth = draw_truth(pilot, size, effect, rng)
    mu = expit(truth.eta + _random_part(pilot, truth, rng))
    phi = np.maximum(mu * (1 - mu) / true_variance(pilot, truth, mu) - 1, 1e-2)
    # By inversion: one uniform number a row, whatever mu is.
    d = np.clip(betaincinv(mu * phi, (1 - mu) * phi, rng.uniform(1e-9, 1 - 1e-9, len(mu))), SQUEEZE, 1 - SQUEEZE)
    return observe(pilot, truth, d, draw_errors(pilot, truth, rng), rng)


def draw_truth(pilot: Pilot, size: StudySize, effect: float, rng: np.random.Generator) -> Truth:
    """Rates and lengths of a study, and eta, in which tuned rows have ``effect`` · rate for the pilot's difference."""
    index = _index(pilot, size)
    rate, length = _true_rates(pilot, size, index, rng)
    sc = (rate - pilot.rate[0]) / pilot.rate[1]
    frame = _names(pilot, index).assign(
        R_sc=sc, R_tuned=sc * index["variant"], tun=index["variant"].astype(float),
        logN_sc=(np.log(length) - pilot.log_length[0]) / pilot.log_length[1])
    eta = encode_fixed(pilot.fit.design.fixed, frame) @ pilot.fit.beta
    moved = pilot.reactions[index["task"]] + (effect - pilot.difference) * sc
    return Truth(size, index, frame, rate, length, eta + moved * index["variant"], sc)


def _index(pilot: Pilot, size: StudySize) -> Index:
    shape = (len(pilot.tasks), size.prompts, size.families, 2)
    return dict(zip(("task", "prompt", "family", "variant"), np.indices(shape).reshape(4, -1), strict=True))


def _names(pilot: Pilot, index: Index) -> pd.DataFrame:
    task = np.array(pilot.tasks)[index["task"]]
    return pd.DataFrame({
        "task": task, "prompt_uid": [f"{t}/{p:04d}" for t, p in zip(task, index["prompt"], strict=True)],
        "model_name": [f"family{f:02d}" for f in index["family"]],
        "model_variant": np.array([BASE, pilot.tuned])[index["variant"]]})


def _true_rates(pilot: Pilot, size: StudySize, index: Index, rng: np.random.Generator) -> tuple[Array, Array]:
    """True rates and lengths (n,) in nats per token and tokens."""
    task, variant = index["task"], index["variant"]
    pool = pilot.centre.shape[1]
    # Each pilot family as often as possible before one comes twice more than another.
    like = np.concatenate([rng.permutation(pool) for _ in range(-(-size.families // pool))])[: size.families]
    roots = np.stack([_root(s) for s in pilot.shared])
    prompt = rng.standard_normal((len(pilot.tasks), size.prompts, 2))[task, index["prompt"]]
    own = np.stack([[_root(c) for c in by_variant] for by_variant in pilot.own])
    w = pilot.centre[task, like[index["family"]], variant]
    w = w + np.einsum("nij,nj->ni", roots[task], prompt)
    w = w + np.einsum("nij,nj->ni", own[task, variant], rng.standard_normal((len(task), 2)))
    rate, length = np.exp(w).T
    return rate, np.maximum(length, 1.0)


def _root(covariance: Array) -> Array:
    values, vectors = np.linalg.eigh(covariance)
    return np.asarray(vectors * np.sqrt(np.maximum(values, 0.0)))


def loadings(pilot: Pilot, truth: Truth) -> list[tuple[Array, Array]]:
    """Random effects of eta: for each kind its groups' codes (n,) and the columns (n,) its standard normals have."""
    i, s = truth.index, pilot.spread
    prompt, moved = i["task"] * truth.size.prompts + i["prompt"], truth.x * i["variant"]
    ones = np.ones(len(truth.x))
    return [(prompt, s["prompt"] * ones), (i["family"], s["family"] * ones),
            (i["task"], s["task_base"] * truth.x), (i["task"], s["task_difference"] * moved),
            (i["family"], s["family_base"] * truth.x), (i["family"], s["family_difference"] * moved)]


def _random_part(pilot: Pilot, truth: Truth, rng: np.random.Generator) -> Array:
    parts = [column * rng.standard_normal(codes.max() + 1)[codes] for codes, column in loadings(pilot, truth)]
    return np.asarray(np.sum(parts, axis=0))


def true_variance(pilot: Pilot, truth: Truth, mu: Array) -> Array:
    """Variance (n,) of the true D around mu: the fitted one, less the error of the pilot's rollouts."""
    assert pilot.fit.dispersion is not None
    total = mu * (1 - mu) / (1 + np.exp(encode_fixed(pilot.fit.dispersion, truth.frame) @ pilot.fit.delta))
    if pilot.error is None:
        return np.asarray(total)
    error = error_of(pilot, truth)[:, 0, 0] * truth.size.rollouts / pilot.rollouts * squared_slope(mu, total)
    variance: Array = np.maximum(total - error, LEAST * total)
    return variance


def squared_slope(mu: Array, variance: Array) -> Array:
    """Mean (n,) of (D(1 - D))^2, what turns a variance of logit D into one of D, to second order in D around mu."""
    squared: Array = (mu * (1 - mu) - variance) ** 2 + (1 - 2 * mu) ** 2 * variance
    return squared


def error_of(pilot: Pilot, truth: Truth) -> Array:
    """Covariance (n, 3, 3) of the observed means' errors in logit D, log rate and log length."""
    if pilot.error is None:
        return np.zeros((len(truth.x), 3, 3))
    return pilot.error[truth.index["task"], truth.index["variant"]] / truth.size.rollouts


def draw_errors(pilot: Pilot, truth: Truth, rng: np.random.Generator) -> Array:
    """Errors (n, 3) of logit D, rate and length, the latter two relative."""
    if pilot.error is None:
        return np.zeros((len(truth.x), 3))
    roots = np.stack([[_root(c) for c in v] for v in pilot.error])[truth.index["task"], truth.index["variant"]]
    one: Array = np.einsum("nij,nj->ni", roots, rng.standard_normal((len(truth.x), 3)))
    return np.asarray(one / np.sqrt(truth.size.rollouts))


def observe(pilot: Pilot, truth: Truth, d: Array, error: Array, rng: np.random.Generator) -> pd.DataFrame:
    """The panel: diversity, rate and length as means over rollouts, and the jackknife columns."""
    names = ["D", "R_bar", "N_bar"]
    keys = truth.frame[["task", "prompt_uid", "model_name", "model_variant"]]
    seen = np.column_stack([d, truth.rate, truth.length]) * np.maximum(1 + error, 0.05)
    seen[:, 0] = expit(logit(d) + error[:, 0]).clip(SQUEEZE, 1 - SQUEEZE)
    out = keys.assign(**dict(zip(names, seen.T, strict=True)))
    if pilot.error is None:
        return out.assign(M=round(pilot.rollouts))
    size = np.column_stack([seen[:, 0] * (1 - seen[:, 0]), seen[:, 1:]])
    shown = _wishart(error_of(pilot, truth), truth.size.rollouts - 1, rng) * size[:, :, None] * size[:, None, :]
    columns = [np.sqrt(shown[:, k, k]) for k in range(3)] + [shown[:, 0, 1], shown[:, 0, 2], shown[:, 1, 2]]
    return out.assign(M=truth.size.rollouts, **dict(zip(JACKKNIFE, columns, strict=True)))


def _wishart(covariance: Array, df: int, rng: np.random.Generator) -> Array:
    """Estimates (n, 3, 3) of the covariances from df + 1 draws each: Wishart over df, by Bartlett's decomposition."""
    n = len(covariance)
    factor = np.zeros((n, 3, 3))
    for i in range(3):
        factor[:, i, i] = np.sqrt(rng.chisquare(max(df - i, 1), n))
        factor[:, i, :i] = rng.standard_normal((n, i))
    drawn = np.linalg.cholesky(covariance + 1e-300 * np.eye(3)) @ factor
    return drawn @ drawn.transpose(0, 2, 1) / df
