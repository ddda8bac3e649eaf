"""What a pilot panel says of the law behind it: what a study is planned with.

The law: within a task and variant, true log rates and log lengths are normal around their family's mean, a part of
their variance shared by all of a prompt's rows. Diversity is beta around expit(eta),

    eta = task × variant + curve(rate) + length + difference · rate of tuned rows + family + prompt + slope deviations,

the deviations of the base slope and of the difference normal by task and by family. Observed are means over M rollouts;
their error covariance is the jackknife's, averaged by task and variant, times the pilot's M over the new one.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import pandas as pd

from canopy_stats.mixed import Fit, glmm
from canopy_stats.schema import UserError
from canopy_stats.slope.prepare import SQUEEZE, PreparedPanel, prepare

Array = np.ndarray
JACKKNIFE = ("se_D", "se_R", "se_N", "cov_DR", "cov_DN", "cov_RN")
LEAST = 0.1
"""Share of an observed variance that is left to the truth at least, however large the error."""
CURVE = "ns(R_sc, 4)"


@dataclass(frozen=True)
class Pilot:
    """A law estimated from a panel with T tasks, F families and the variants base, tuned.

    ``reactions`` (T,) is what tuning does to each task's level of eta, less what it does to all. ``centre`` (T, F, 2,
    2) are mean true log rates and log lengths by task, family and variant; ``shared`` (T, 2, 2)
    and ``own`` (T, 2, 2, 2) their covariances: a prompt's, and by variant a row's. ``error`` (T, 2, 3, 3) is the
    covariance of one rollout's error in logit D, log rate and log length; None where the panel has no jackknife
    columns. ``spread`` are standard deviations: prompt, family, and of slopes task_base, task_difference, family_base,
    family_difference. ``rate`` is the pilot's mean rate and its standard deviation, the unit of slopes; ``tokens``
    (T, 2) mean lengths.
    """

    tasks: tuple[str, ...]
    tuned: str
    reactions: Array
    centre: Array
    shared: Array
    own: Array
    error: Array | None
    spread: dict[str, float]
    rate: tuple[float, float]
    log_length: tuple[float, float]
    rollouts: float
    tokens: Array
    difference: float
    fit: Fit
    notes: tuple[str, ...]


def estimate_pilot(panel: pd.DataFrame) -> Pilot:
    """The law of a panel. Its rates must be positive; see the module."""
    prepared = prepare(panel)
    data = _positive_rates(prepared)
    _refuse_one_variant(data)
    tasks = tuple(sorted(data["task"].astype(str).unique()))
    codes = _codes(data, tasks)
    error = _errors(data, codes, len(tasks)) if _has_jackknife(data) else None
    fit = _fit_law(data)
    w = np.log(data[["R_bar", "N_bar"]].to_numpy(dtype=float))
    centre, shared, own = _moments(w, codes, data, error)
    rate, length = data["R_bar"], np.log(data["N_bar"])
    tokens = data.groupby(["task", "tun"], observed=True)["N_bar"].mean().to_numpy().reshape(len(tasks), 2)
    return Pilot(tasks, prepared.tuned, _reactions(fit, tasks), centre, shared, own, error, _spread(fit),
                 (rate.mean(), rate.std()), (length.mean(), length.std()), float(_rollouts(data).mean()), tokens,
                 float(fit.params["R_tuned"]), fit, _notes(prepared, fit, error))


def _positive_rates(prepared: PreparedPanel) -> pd.DataFrame:
    data = prepared.data
    if (data["R_bar"] <= 0).any():
        raise UserError(f"{int((data['R_bar'] <= 0).sum())} rows have an entropy rate of zero, whose logarithm the "
                        "law needs; leave these prompts out by name.")
    return data


def _refuse_one_variant(data: pd.DataFrame) -> None:
    """A cell with one variant has no usual rate in the other, of which new panels are drawn."""
    variants = data.groupby(["task", "model_name"], observed=True)["tun"].nunique()
    cells = data.groupby(["task", "model_name"], observed=True).ngroups
    single = [f"{task} / {family}" for task, family in variants.index[variants < 2]]
    if cells < data["task"].nunique() * data["model_name"].nunique():
        raise UserError("Some families lack some of the pilot's tasks: a law needs every family in every task. Select "
                        "the families or tasks that are complete.")
    if single:
        raise UserError(f"The pilot has one variant only in {', '.join(single)}; leave that family or task out by "
                        "name.")


def _codes(data: pd.DataFrame, tasks: tuple[str, ...]) -> tuple[Array, Array, Array]:
    """Codes (n,) of task, family and variant."""
    task = pd.Categorical(data["task"].astype(str), categories=list(tasks)).codes
    return np.asarray(task, int), pd.factorize(data["model_name"])[0], data["tun"].to_numpy(int)


def _rollouts(data: pd.DataFrame) -> Array:
    return data["M"].to_numpy(dtype=float) if "M" in data else np.ones(len(data))


def _has_jackknife(data: pd.DataFrame) -> bool:
    return "M" in data and all(n in data and np.isfinite(data[n].to_numpy(dtype=float)).all() for n in JACKKNIFE)


def _errors(data: pd.DataFrame, codes: tuple[Array, Array, Array], tasks: int) -> Array:
    """Error covariance (T, 2, 3, 3) of one rollout, relative to D(1 - D), rate and length (root mean squares)."""
    sd, sr, sn, dr, dn, rn = (data[name].to_numpy(dtype=float) for name in JACKKNIFE)
    one = np.stack([sd**2, dr, dn, dr, sr**2, rn, dn, rn, sn**2], axis=1).reshape(-1, 3, 3)
    one = one * _rollouts(data)[:, None, None]
    d = data["D"].to_numpy(dtype=float).clip(SQUEEZE, 1 - SQUEEZE)
    size = np.column_stack([d * (1 - d), data["R_bar"], data["N_bar"]])
    out = np.empty((tasks, 2, 3, 3))
    for t in range(tasks):
        for v in (0, 1):
            rows = (codes[0] == t) & (codes[2] == v)
            unit = np.sqrt((size[rows] ** 2).mean(axis=0))
            out[t, v] = one[rows].mean(axis=0) / np.outer(unit, unit)
    return out


def _fit_law(data: pd.DataFrame) -> Fit:
    """The beta mixed model of the law; what has one level only is left out.

    What tuning does to a task's level is a random effect. Were it free, levels would take up whatever the estimated
    difference of slopes is off by, and a law with another difference would keep that: predicted power then hung on the
    pilot's luck (0.51 to 0.98 over six pilots of one law, now 0.71 to 0.87, where studies had 0.87).
    """
    tasks, families = (data[name].nunique() > 1 for name in ("task", "model_name"))
    mean = ["tun", "R_tuned", CURVE, "logN_sc", "(1|prompt_uid)", *["task", "(0 + tun | task)"] * tasks]
    for name in ["task"] * tasks + ["model_name"] * families:
        mean.append(f"(0 + R_sc + R_tuned || {name})")
    mean += ["(1|model_name)"] * families
    dispersion = f"~ {'tun*task' if tasks else 'tun'} + R_sc"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return glmm(f"D ~ {' + '.join(mean)}", data, dispersion=dispersion, squeeze=SQUEEZE)


def _reactions(fit: Fit, tasks: tuple[str, ...]) -> Array:
    """What tuning does to each task's level (T,), beyond what it does to all."""
    if len(tasks) == 1:
        return np.zeros(1)
    return fit.ranef()["task"]["tun"].reindex(list(tasks)).to_numpy(dtype=float)


def _spread(fit: Fit) -> dict[str, float]:
    names = {("prompt_uid", "Intercept"): "prompt", ("model_name", "Intercept"): "family",
             ("task", "R_sc"): "task_base", ("task", "R_tuned"): "task_difference",
             ("model_name", "R_sc"): "family_base", ("model_name", "R_tuned"): "family_difference"}
    found = {names[group, term]: sd for group, term, other, _, sd in fit.variance_rows()
             if other is None and (group, term) in names}
    return {name: float(found.get(name, 0.0)) for name in names.values()}


def _moments(w: Array, codes: tuple[Array, Array, Array], data: pd.DataFrame, error: Array | None
             ) -> tuple[Array, Array, Array]:
    """Centres (T, F, 2, 2) and covariances of the truth, shared (T, 2, 2) and own (T, 2, 2, 2), from w (n, 2)."""
    task, family, variant = codes
    shape = (task.max() + 1, family.max() + 1, 2)
    cell = np.ravel_multi_index((task, family, variant), shape)
    count = np.maximum(np.bincount(cell, minlength=int(np.prod(shape))), 1)
    sums = np.stack([np.bincount(cell, w[:, k], int(np.prod(shape))) for k in range(2)], axis=1)
    centre = sums / count[:, None]
    rest = w - centre[cell]
    prompt = pd.factorize(data["prompt_uid"])[0]
    one = np.zeros((shape[0], 2, 3, 3)) if error is None else error
    noise = one[task, variant][:, 1:, 1:] / _rollouts(data)[:, None, None]
    shared, own = np.zeros((shape[0], 2, 2)), np.zeros((shape[0], 2, 2, 2))
    for t in range(shape[0]):
        here = task == t
        shared[t] = _positive(_pairs(rest[here], prompt[here]))
        for v in (0, 1):
            rows = here & (variant == v)
            observed = np.cov(rest[rows].T)
            truth = _at_least(observed - noise[rows].mean(axis=0), LEAST * np.diag(observed))
            own[t, v] = _at_least(truth - shared[t], LEAST * np.diag(truth))
    return centre.reshape(*shape, 2), shared, own


def _pairs(rest: Array, prompt: Array) -> Array:
    """Mean product (2, 2) of two different rows of one prompt: what its rows share."""
    codes = np.unique(prompt, return_inverse=True)[1]
    sums = np.stack([np.bincount(codes, rest[:, k]) for k in range(2)], axis=1)
    counts = np.bincount(codes)
    number = float((counts * (counts - 1)).sum())
    return (sums.T @ sums - rest.T @ rest) / number if number else np.zeros((2, 2))


def _positive(matrix: Array) -> Array:
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    return np.asarray((vectors * np.maximum(values, 0.0)) @ vectors.T)


def _at_least(matrix: Array, floor: Array) -> Array:
    """Nearest covariance with variances of at least ``floor``."""
    raised = _positive(matrix)
    return raised + np.diag(np.maximum(floor - np.diag(raised), 0.0))


def _notes(prepared: PreparedPanel, fit: Fit, error: Array | None) -> tuple[str, ...]:
    notes = [f"slopes are taken not to vary by {name}: the pilot has one." for name in sorted(prepared.single)]
    if error is None:
        notes.append("the pilot has no jackknife columns: the number of rollouts stays as it was.")
    if not fit.converged:
        notes.append(f"the law's fit is not certified: {str(fit.certificate).splitlines()[0]}")
    return tuple(notes)
