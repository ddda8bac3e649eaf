"""Measurement error of rate, length and diversity, which come from the same rollouts.

Regression calibration (Carroll et al., Measurement Error in Nonlinear Models, 2006, ch. 4) with moments from the
jackknife: log R and log N of a prompt, over all families and variants of its task, are replaced by their expectation
given what was observed; from logit D is taken the error that is expected with it. Variances of the truth are what is
left of the observed ones when the mean jackknife variance is taken off; a prompt's share across checkpoints is kept
apart. Logarithms, because a rate's error grows about in proportion to the rate: base and tuned are compared where
their rates overlap, at the upper end of one and the lower end of the other, and there one shrinkage for all rates alike
is wrong.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import expit, logit

from canopy_stats.slope.prepare import SQUEEZE

Array = np.ndarray
COLUMNS = ("se_R", "se_N", "cov_DR", "cov_DN", "cov_RN")
LEAST_RELIABILITY = 0.2
"""A cell's true variance is taken as at least this share of the observed one: below it the share is mostly noise."""
CELL = ["model_name", "model_variant"]
TABLE = ["task", *CELL, "reliability_R", "reliability_R_std_error", "reliability_N", "clamped"]


@dataclass(frozen=True)
class Calibrated:
    """``data`` with D_cal, log_R, R_cal (nats/token) and log_N.

    ``table``, a row for each task, family and variant: reliability_R and reliability_N of the logarithms,
    reliability_R_std_error, and whether the rate's is ``clamped`` (held at :data:`LEAST_RELIABILITY`).
    """

    data: pd.DataFrame
    table: pd.DataFrame


def can_correct(data: pd.DataFrame) -> bool:
    """Whether the jackknife columns are all there and finite."""
    return all(name in data and np.isfinite(data[name].to_numpy(dtype=float)).all() for name in COLUMNS)


def uncorrected(data: pd.DataFrame) -> Calibrated:
    """The observed values, under the names that the corrected ones have."""
    rate = data["R_bar"]
    added = data.assign(D_cal=_inside(data["D"], data["D"]), log_R=np.log(rate), R_cal=rate,
                        log_N=np.log(data["N_bar"]))
    return Calibrated(added, pd.DataFrame(columns=TABLE))


def calibrated(data: pd.DataFrame) -> Calibrated:
    """The panel with rate, length and diversity given what was observed; see the module."""
    w = np.log(data[["R_bar", "N_bar"]].to_numpy(dtype=float))
    out = np.empty((len(data), 4))
    tables = []
    for task, places in data.groupby("task", observed=True).indices.items():
        rows = data.iloc[places]
        out[places], table = _calibrate_task(rows, w[places])
        tables.append(table.assign(task=str(task)))
    log_r, log_n, d, rate = out.T
    added = data.assign(D_cal=_inside(expit(d), data["D"]), log_R=log_r, R_cal=rate, log_N=log_n)
    return Calibrated(added, pd.concat(tables, ignore_index=True)[TABLE])


def _inside(corrected: Array | pd.Series, observed: pd.Series) -> Array:
    """Diversity (n,) inside (0, 1), but 0 or 1 where that is what was observed: no error turns a number into these."""
    d = observed.to_numpy(dtype=float)
    inside = np.clip(np.asarray(corrected, dtype=float), SQUEEZE, 1 - SQUEEZE)
    return np.where(d <= SQUEEZE, 0.0, np.where(d >= 1 - SQUEEZE, 1.0, inside))


def _calibrate_task(rows: pd.DataFrame, w: Array) -> tuple[Array, pd.DataFrame]:
    """(n, 4): E log R, E log N, logit D without its expected error, E R; and the reliabilities by cell."""
    cell = rows.groupby(CELL, observed=True).ngroup().to_numpy()
    prompt = rows.groupby("prompt_uid", observed=True).ngroup().to_numpy()
    noise, with_d, own = _errors(rows, w, cell)
    w = w + np.einsum("nii->ni", noise) / 2  # the mean of a logarithm lies below the logarithm of the mean
    centre = np.stack([w[cell == c].mean(axis=0) for c in range(cell.max() + 1)])
    w, d = w - centre[cell], logit(np.clip(rows["D"].to_numpy(dtype=float), SQUEEZE, 1 - SQUEEZE))
    moments = _moments(w, noise, cell, prompt)
    out = np.empty((len(rows), 4))
    for at in np.split(np.argsort(prompt, kind="stable"), np.cumsum(np.bincount(prompt))[:-1]):
        truth, variance, error = _expected(w[at], noise[at], with_d[at], moments, cell[at])
        log_r, log_n = (truth + centre[cell[at]]).T
        out[at] = np.column_stack([log_r, log_n, d[at] - error, np.exp(log_r + variance / 2)])
    names = rows.groupby(CELL, observed=True).size().reset_index()[CELL].astype(str)
    error = np.array([_reliability_error(own[cell == c], w[cell == c, 0]) for c in range(cell.max() + 1)])
    return out, names.assign(reliability_R=moments.reliability[:, 0], reliability_N=moments.reliability[:, 1],
                             reliability_R_std_error=error, clamped=moments.clamped)


def _reliability_error(error: Array, deviation: Array) -> float:
    """Standard error of 1 - mean error variance / observed variance, from each row's error variance (n,) and deviation
    from the cell's mean (n,), by the delta method."""
    observed, mean = deviation**2, error.mean()
    moved = -(error - mean) / observed.mean() + mean / observed.mean() ** 2 * (observed - observed.mean())
    return float(np.sqrt(np.mean(moved**2) / max(len(moved) - 1, 1)))


def _errors(rows: pd.DataFrame, w: Array, cell: Array) -> tuple[Array, Array, Array]:
    """Error covariances (n, 2, 2) of (log R, log N), and (n, 2) with logit D: a cell's mean for one rollout, over M;
    and each row's own error variance (n,) of log R.

    On the logit scale, where D is modelled, an error of D counts 1 / D(1 - D): by the mean of D(1 - D) in the cell.
    """
    (rate, length), d = np.exp(w).T, rows["D"].to_numpy(dtype=float)
    spread = d * (1 - d) + (rows["se_D"].to_numpy(dtype=float) ** 2 if "se_D" in rows else 0.0)
    cells = range(cell.max() + 1)
    spread = np.array([max(spread[cell == c].mean(), SQUEEZE) for c in cells])[cell]
    m = rows["M"].to_numpy(dtype=float) if "M" in rows else np.ones(len(rows))
    one = np.column_stack([rows["se_R"] ** 2 / rate**2, rows["cov_RN"] / (rate * length), rows["se_N"] ** 2 / length**2,
                           rows["cov_DR"] / (rate * spread), rows["cov_DN"] / (length * spread)]) * m[:, None]
    mean = np.stack([one[cell == c].mean(axis=0) for c in cells])[cell] / m[:, None]
    return mean[:, [0, 1, 1, 2]].reshape(-1, 2, 2), mean[:, 3:], one[:, 0] / m


@dataclass(frozen=True)
class Moments:
    """Covariance of the truth: ``shared`` (2, 2) of a prompt's part in all cells, ``own`` (C, 2, 2) of a cell's;
    ``reliability`` (C, 2), and whether that of the rate is ``clamped`` (C,)."""

    shared: Array
    own: Array
    reliability: Array
    clamped: Array


def _moments(w: Array, noise: Array, cell: Array, prompt: Array) -> Moments:
    """Moment estimates from centred observations w (n, 2)."""
    cells = range(cell.max() + 1)
    observed = np.stack([np.atleast_2d(np.cov(w[cell == c].T)) for c in cells])
    error = np.stack([noise[cell == c].mean(axis=0) for c in cells])
    shared = _shared_part(w, prompt)
    least = LEAST_RELIABILITY * np.einsum("cii->ci", observed)
    total = np.stack([_positive(o - e, floor) for o, e, floor in zip(observed, error, least, strict=True)])
    shared = _positive(shared, np.zeros(2))
    # A prompt's part cannot vary more than a cell's whole truth.
    share = min(1.0, float(np.min(np.einsum("cii->ci", total) / np.maximum(np.diag(shared), 1e-300))))
    own = np.stack([_positive(t - share * shared, 1e-9 * np.diag(t)) for t in total])
    clamped = observed[:, 0, 0] - error[:, 0, 0] < least[:, 0]
    return Moments(share * shared, own, np.einsum("cii->ci", total) / np.einsum("cii->ci", observed), clamped)


def _shared_part(w: Array, prompt: Array) -> Array:
    """Mean product (2, 2) of two different cells' observations of one prompt, over all pairs."""
    counts = np.bincount(prompt)
    sums = np.stack([np.bincount(prompt, w[:, k]) for k in range(2)], axis=1)
    pairs = np.einsum("pi,pj->ij", sums, sums) - np.einsum("ni,nj->ij", w, w)
    number = float((counts * (counts - 1)).sum())
    return pairs / number if number > 0 else np.zeros((2, 2))


def _positive(matrix: Array, floor: Array) -> Array:
    """Nearest covariance whose variances are at least ``floor`` (2,)."""
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    raised = (vectors * np.maximum(values, 0.0)) @ vectors.T
    positive: Array = raised + np.diag(np.maximum(floor - np.diag(raised), 0.0))
    return positive


def _expected(w: Array, noise: Array, with_d: Array, moments: Moments, cell: Array) -> tuple[Array, Array, Array]:
    """Of one prompt's k centred observations w (k, 2): the expected truth (k, 2), the variance (k,) of its log R, and
    the expected error of logit D (k,)."""
    k = len(w)
    truth = np.tile(moments.shared, (k, k))
    errors, joint = np.zeros((2 * k, 2 * k)), np.zeros((k, 2 * k))
    for i in range(k):
        part = slice(2 * i, 2 * i + 2)
        truth[part, part] += moments.own[cell[i]]
        errors[part, part], joint[i, part] = noise[i], with_d[i]
    solved = np.linalg.solve(truth + errors, np.column_stack([w.ravel(), truth]))
    left = truth - truth @ solved[:, 1:]
    return (truth @ solved[:, 0]).reshape(k, 2), np.diag(left)[::2], joint @ solved[:, 0]
