"""Measurement error of rate, length and diversity, which come from the same rollouts.

Regression calibration (Carroll et al., Measurement Error in Nonlinear Models, 2006, ch. 4) with moments from the
jackknife: R and log N of a prompt, over all families and variants of its task, are replaced by their best linear
prediction from what was observed; from D is taken the error that is expected with it. Variances of the truth are what
is left of the observed ones when the mean jackknife variance is taken off; a prompt's share across checkpoints is kept
apart. A linear prediction of R itself has slope one on the truth whatever the distributions are, and the difference of
the slopes is linear in R; on the logarithm it would not be.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from canopy_stats.slope.prepare import SQUEEZE

Array = np.ndarray
COLUMNS = ("se_R", "se_N", "cov_DR", "cov_DN", "cov_RN")
LEAST_RELIABILITY = 0.2
"""A cell's true variance is taken as at least this share of the observed one: below it the share is mostly noise."""
LEAST_RATE = 1e-3
"""Predicted rates are at least this share of their median: the shared curve needs their logarithm."""
CELL = ["model_name", "model_variant"]


@dataclass(frozen=True)
class Calibrated:
    """``data`` with D_cal, R_cal (nats/token), log_R and log_N; ``table``: reliability of R and of log N by cell."""

    data: pd.DataFrame
    table: pd.DataFrame


def can_correct(data: pd.DataFrame) -> bool:
    """Whether the jackknife columns are all there and finite."""
    return all(name in data and np.isfinite(data[name].to_numpy(dtype=float)).all() for name in COLUMNS)


def uncorrected(data: pd.DataFrame) -> Calibrated:
    """The observed values, under the names that the corrected ones have."""
    rate = data["R_bar"]
    added = data.assign(D_cal=data["D"], log_R=np.log(rate), R_cal=rate, log_N=np.log(data["N_bar"]))
    return Calibrated(added, pd.DataFrame(columns=["task", *CELL, "reliability_R", "reliability_N"]))


def calibrated(data: pd.DataFrame) -> Calibrated:
    """The panel with rate, length and diversity given what was observed; see the module."""
    w = np.column_stack([data["R_bar"], np.log(data["N_bar"])])
    out = np.empty((len(data), 3))
    tables = []
    for task, places in data.groupby("task", observed=True).indices.items():
        rows = data.iloc[places]
        out[places], table = _calibrate_task(rows, w[places])
        tables.append(table.assign(task=str(task)))
    rate, log_n, d = out.T
    rate = np.maximum(rate, LEAST_RATE * np.median(rate))
    added = data.assign(D_cal=np.clip(d, SQUEEZE, 1 - SQUEEZE), log_R=np.log(rate), R_cal=rate, log_N=log_n)
    table = pd.concat(tables, ignore_index=True)
    return Calibrated(added, table[["task", *CELL, "reliability_R", "reliability_N"]])


def _calibrate_task(rows: pd.DataFrame, w: Array) -> tuple[Array, pd.DataFrame]:
    """(n, 3): R and log N as predicted, and D without its expected error; and the reliabilities by cell."""
    cell = rows.groupby(CELL, observed=True).ngroup().to_numpy()
    prompt = rows.groupby("prompt_uid", observed=True).ngroup().to_numpy()
    noise, with_d = _errors(rows, cell)
    centre = np.stack([w[cell == c].mean(axis=0) for c in range(cell.max() + 1)])
    w, d = w - centre[cell], rows["D"].to_numpy(dtype=float)
    moments = _moments(w, noise, cell, prompt)
    out = np.empty((len(rows), 3))
    for at in np.split(np.argsort(prompt, kind="stable"), np.cumsum(np.bincount(prompt))[:-1]):
        truth, error = _expected(w[at], noise[at], with_d[at], moments, cell[at])
        out[at] = np.column_stack([truth + centre[cell[at]], d[at] - error])
    names = rows.groupby(CELL, observed=True).size().reset_index()[CELL].astype(str)
    return out, names.assign(reliability_R=moments.reliability[:, 0], reliability_N=moments.reliability[:, 1])


def _errors(rows: pd.DataFrame, cell: Array) -> tuple[Array, Array]:
    """Error covariances (n, 2, 2) of (R, log N), and (n, 2) with D: a cell's mean for one rollout, over M."""
    length = rows["N_bar"]
    m = rows["M"].to_numpy(dtype=float) if "M" in rows else np.ones(len(rows))
    one = np.column_stack([rows["se_R"] ** 2, rows["cov_RN"] / length, rows["se_N"] ** 2 / length**2,
                           rows["cov_DR"], rows["cov_DN"] / length]) * m[:, None]
    mean = np.stack([one[cell == c].mean(axis=0) for c in range(cell.max() + 1)])[cell] / m[:, None]
    return mean[:, [0, 1, 1, 2]].reshape(-1, 2, 2), mean[:, 3:]


@dataclass(frozen=True)
class Moments:
    """Covariance of the truth: ``shared`` (2, 2) of a prompt's part in all cells, ``own`` (C, 2, 2) of a cell's."""

    shared: Array
    own: Array
    reliability: Array  # (C, 2)


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
    return Moments(share * shared, own, np.einsum("cii->ci", total) / np.einsum("cii->ci", observed))


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
    return raised + np.diag(np.maximum(floor - np.diag(raised), 0.0))


def _expected(w: Array, noise: Array, with_d: Array, moments: Moments, cell: Array) -> tuple[Array, Array]:
    """Of one prompt's k centred observations w (k, 2): the predicted truth (k, 2) and error of D (k,)."""
    k = len(w)
    truth = np.tile(moments.shared, (k, k))
    errors, joint = np.zeros((2 * k, 2 * k)), np.zeros((k, 2 * k))
    for i in range(k):
        part = slice(2 * i, 2 * i + 2)
        truth[part, part] += moments.own[cell[i]]
        errors[part, part], joint[i, part] = noise[i], with_d[i]
    solved = np.linalg.solve(truth + errors, w.ravel())
    return (truth @ solved).reshape(k, 2), joint @ solved
