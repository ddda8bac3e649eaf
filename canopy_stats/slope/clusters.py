"""Prompts as clusters: how far slopes of different families err together because their prompts do.

Prompts whose reaction to tuning is alike in all families shift all these families' slopes at once, which a random
intercept for each prompt does not say. A prompt's influence on the slopes is the slopes' Jacobian times the
coefficients' covariance times the prompt's score; the sum of its products over prompts is the sandwich covariance
(Liang & Zeger 1986), here with one factor as if the prompt were left out, which takes off the bias of few prompts
(Kauermann & Carroll 2001): those with rates far from the others pull the slope to themselves. Of that only two numbers
are taken, by how much it exceeds the model's variances on average, and the mean correlation of two families' slopes
within a task: many prompts, cells and pairs of cells show these well even where the whole sandwich is too rough to
weigh cells by.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from canopy_stats.mixed import Fit
from canopy_stats.slope.coefficients import covariance, scores, weights

Array = np.ndarray
MOST = 0.95


@dataclass(frozen=True)
class Influence:
    """``of_prompts`` (P, 2K): what each prompt adds to the errors of 2K slopes; ``left_out`` (P, 2K): the same had the
    prompt not helped to fit the model; ``task`` (K,) of the cells."""

    of_prompts: Array
    left_out: Array
    task: Array

    def clustered(self, rows: Array, model: Array) -> Array:
        """The model's covariance (K, K) of ``rows`` (K, 2K) of the slopes, with its variances and the correlation of
        cells of one task raised by what prompts show beyond them; never lowered."""
        scaled = model * max(1.0, self.inflation(rows, model))
        extra = max(0.0, self.correlation(rows) - _mean_correlation(model, self._pairs))
        if extra == 0.0:
            return scaled
        sd = np.sqrt(np.diag(scaled))
        return _nearest(scaled + min(extra, MOST) * np.outer(sd, sd) * self._pairs)

    def inflation(self, rows: Array, model: Array) -> float:
        """Mean ratio over cells of the variance that prompts show to the model's."""
        return float(np.mean(np.diag(self._shown(rows)) / np.diag(model)))

    def correlation(self, rows: Array) -> float:
        """Mean correlation over prompts of two cells of one task; zero where no task has two."""
        return _mean_correlation(self._shown(rows), self._pairs)

    def _shown(self, rows: Array) -> Array:
        """Covariance (K, K) that prompts show, without bias where the model holds."""
        found = (self.of_prompts @ rows.T).T @ (self.left_out @ rows.T)
        return np.asarray(found + found.T) / 2

    @property
    def _pairs(self) -> Array:
        """Whether two cells (K, K) are different ones of one task."""
        pairs: Array = np.equal.outer(self.task, self.task) & ~np.eye(len(self.task), dtype=bool)
        return pairs


def influence(fit: Fit, jacobian: Array, task: Array) -> Influence:
    """Of each prompt on quantities with this Jacobian (2K, p) in the mean's coefficients."""
    x = fit.design.fixed.matrix
    codes, names = pd.factorize(fit.design.data["prompt_uid"])
    by_prompt = np.zeros((len(names), x.shape[1]))
    np.add.at(by_prompt, codes, scores(fit)[:, None] * x)
    moves = covariance(fit) @ jacobian.T
    return Influence(by_prompt @ moves, _left_out(by_prompt, _information(fit, x, codes)) @ moves, task)


def _information(fit: Fit, x: Array, codes: Array) -> Array:
    """Information (P, p, p) of each prompt on the coefficients, its random intercept integrated out."""
    weight = weights(fit)
    order = np.argsort(codes, kind="stable")
    at = np.searchsorted(codes[order], np.arange(codes.max() + 1))
    variance = float(sum(sd**2 for group, _, other, _, sd in fit.variance_rows()
                         if group == "prompt_uid" and other is None))
    weighted = weight[:, None] * x
    rows = zip(np.split(x[order], at[1:]), np.split(weighted[order], at[1:]), strict=True)
    inside = np.stack([own.T @ w for own, w in rows])
    sums = np.add.reduceat(weighted[order], at)
    shrunk = variance / (1 + variance * np.add.reduceat(weight[order], at))
    return np.asarray(inside - shrunk[:, None, None] * sums[:, :, None] * sums[:, None, :])


def _left_out(by_prompt: Array, information: Array) -> Array:
    """Scores (P, p) as they were if the prompt had not helped to fit the model: (I - A_i A^-1)^-1 s_i."""
    share = information @ np.linalg.pinv(information.sum(axis=0))
    return np.linalg.solve(np.eye(share.shape[1]) - share, by_prompt[:, :, None])[:, :, 0]


def _mean_correlation(matrix: Array, pairs: Array) -> float:
    if not pairs.any():
        return 0.0
    sd = np.sqrt(np.maximum(np.diag(matrix), 1e-300))
    return float(matrix[pairs].sum() / np.outer(sd, sd)[pairs].sum())


def _nearest(matrix: Array) -> Array:
    """The matrix with eigenvalues of at least a thousandth of their mean."""
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    return np.asarray((vectors * np.maximum(values, 1e-3 * values.mean())) @ vectors.T)
