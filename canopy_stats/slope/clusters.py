"""Prompts as clusters: how far slopes of different families err together because their prompts do.

Prompts whose reaction to tuning is alike in all families shift all these families' slopes at once, which a random
intercept for each prompt does not say. A prompt's influence on the slopes is the slopes' Jacobian times the
coefficients' covariance times the prompt's score; the sum of its products over prompts is the sandwich covariance
(Liang & Zeger 1986). Of that only two numbers are taken, by how much it exceeds the model's variances on average, and
the mean correlation of two families' slopes within a task: many prompts, cells and pairs of cells show these well even
where the whole sandwich is too rough to weigh cells by.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from canopy_stats.mixed import Fit
from canopy_stats.slope.coefficients import covariance, scores

Array = np.ndarray
MOST = 0.95
OWN = 3
"""Coefficients that a cell has for itself, by which its prompts' scores are smaller than their errors."""


@dataclass(frozen=True)
class Influence:
    """``of_prompts`` (P, 2K): what each prompt adds to the errors of 2K slopes; ``task`` (K,) of the cells."""

    of_prompts: Array
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
        moved = self.of_prompts @ rows.T
        prompts = (moved != 0).sum(axis=0)
        shown = (moved**2).sum(axis=0) * prompts / np.maximum(prompts - OWN, 1)
        return float(np.mean(shown / np.diag(model)))

    def correlation(self, rows: Array) -> float:
        """Mean correlation over prompts of two cells of one task; zero where no task has two."""
        moved = self.of_prompts @ rows.T
        return _mean_correlation(moved.T @ moved, self._pairs)

    @property
    def _pairs(self) -> Array:
        """Whether two cells (K, K) are different ones of one task."""
        pairs: Array = np.equal.outer(self.task, self.task) & ~np.eye(len(self.task), dtype=bool)
        return pairs


def influence(fit: Fit, jacobian: Array, task: Array) -> Influence:
    """Of each prompt on quantities with this Jacobian (2K, p) in the mean's coefficients."""
    by_row = scores(fit)[:, None] * fit.design.fixed.matrix
    codes, names = pd.factorize(fit.design.data["prompt_uid"])
    by_prompt = np.zeros((len(names), by_row.shape[1]))
    np.add.at(by_prompt, codes, by_row)
    return Influence(by_prompt @ covariance(fit) @ jacobian.T, task)


def _mean_correlation(matrix: Array, pairs: Array) -> float:
    if not pairs.any():
        return 0.0
    sd = np.sqrt(np.diag(matrix))
    return float(matrix[pairs].sum() / np.outer(sd, sd)[pairs].sum())


def _nearest(matrix: Array) -> Array:
    """The matrix with eigenvalues of at least a thousandth of their mean."""
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    return np.asarray((vectors * np.maximum(values, 1e-3 * values.mean())) @ vectors.T)
