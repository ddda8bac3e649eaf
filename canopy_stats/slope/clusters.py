"""Prompts as clusters: how far slopes of different families err together because their prompts do.

Prompts whose reaction to tuning is alike in all families shift all these families' slopes at once, which a random
intercept for each prompt does not say. A prompt's influence on the slopes is the slopes' Jacobian times the
coefficients' covariance times the prompt's score; the sum of its products over prompts is the sandwich covariance
(Liang & Zeger 1986), here CR3, the jackknife over prompts: prompts with rates far from the others pull the slope to
themselves, and where prompts react CR2 is still a fifth too small (analysis/rival_study.py). Of that only two numbers
are taken, by how much it exceeds the model's variances on average, and the mean correlation of two families' slopes
within a task: many prompts, cells and pairs of cells show these well even where the whole sandwich is too rough to
weigh cells by. The degrees of freedom count the prompts that decide.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from canopy_stats.mixed import Fit
from canopy_stats.mixed.algebra.blocks import templates
from canopy_stats.mixed.fitting.sandwich import CR, adjust, rows_of_clusters, working_model
from canopy_stats.slope.coefficients import covariance, row_derivatives

Array = np.ndarray
MOST = 0.95


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
        return float(np.mean(np.diag(self._shown(rows)) / np.diag(model)))

    def correlation(self, rows: Array) -> float:
        """Mean correlation over prompts of two cells of one task; zero where no task has two."""
        return _mean_correlation(self._shown(rows), self._pairs)

    def sampling_df(self, rows: Array) -> Callable[[Array], float]:
        """Degrees of freedom, given weights (K,), of the variance of a mean of ``rows`` (K, 2K) of the slopes."""
        moved = self.of_prompts @ rows.T
        return lambda weights: cluster_df(moved @ weights)

    def _shown(self, rows: Array) -> Array:
        """Covariance (K, K) that prompts show."""
        moved = self.of_prompts @ rows.T
        return np.asarray(moved.T @ moved)

    @property
    def _pairs(self) -> Array:
        """Whether two cells (K, K) are different ones of one task."""
        pairs: Array = np.equal.outer(self.task, self.task) & ~np.eye(len(self.task), dtype=bool)
        return pairs


def cluster_df(parts: Array) -> float:
    """Degrees of freedom of a sum of squares of independent parts (P,): (sum v)^2 / sum v^2, the fourth powers taken as
    3 v^2, those of normal parts; few where a few prompts decide, at most P - 1."""
    squares = parts**2
    return float(np.clip(3 * squares.sum() ** 2 / max(float((squares**2).sum()), 1e-300), 1, max(len(parts) - 1, 1)))


def influence(fit: Fit, kind: CR = "CR3") -> Array:
    """Of each prompt on the mean's coefficients (P, p), its score adjusted as this kind of sandwich has it.

    At the conditional modes a row's derivative is the working model's Phi^-1 e, residuals over their covariance.
    """
    frame, found = fit.frame, row_derivatives(fit)
    prompts = rows_of_clusters(pd.factorize(fit.design.data["prompt_uid"])[0], frame.factors, "prompt_uid")
    working = working_model(frame.design.fixed.matrix, 1 / np.maximum(found.fisher, 1e-12), frame.factors,
                            templates(frame.factors, fit.theta), prompts)
    adjusted = adjust(working, [working.covariance(rows) @ found.d1[rows] for rows in prompts], kind)
    scores = np.linalg.solve(adjusted.back.T, adjusted.scores.T).T
    return np.asarray(scores @ covariance(fit))


def _mean_correlation(matrix: Array, pairs: Array) -> float:
    if not pairs.any():
        return 0.0
    sd = np.sqrt(np.diag(matrix))
    return float(matrix[pairs].sum() / np.outer(sd, sd)[pairs].sum())


def _nearest(matrix: Array) -> Array:
    """The matrix with eigenvalues of at least a thousandth of their mean."""
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    return np.asarray((vectors * np.maximum(values, 1e-3 * values.mean())) @ vectors.T)
