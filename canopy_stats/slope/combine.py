"""Slopes of family × task cells to one: a random-effects mean whose uncertainty counts that families and tasks are few.

The cells' estimates have a known sampling covariance S. Around their mean, families, tasks and cells vary with
variances estimated by restricted maximum likelihood. Intervals are Student's with Satterthwaite's degrees of freedom,
but no fewer than the smaller number of families or tasks minus one: what remains if that factor alone varied.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize

Array = np.ndarray


@dataclass(frozen=True)
class CellGrid:
    """The family and the task of each of K cells, and the covariances (K, K) that sources of variation add."""

    family: Array
    task: Array

    @property
    def sources(self) -> dict[str, Array]:
        """Covariance patterns by name: families and tasks where there are several of both, and single cells."""
        counts = {"family": len(np.unique(self.family)), "task": len(np.unique(self.task))}
        codes = {"family": self.family, "task": self.task}
        crossed = all(count > 1 for count in counts.values())
        return {name: np.equal.outer(c, c).astype(float) for name, c in codes.items() if crossed} | {
            "cell": np.eye(len(self.family))}

    @property
    def least_df(self) -> float:
        """Smallest number of levels of what has several, minus one; at least one."""
        counts = [len(np.unique(codes)) for codes in (self.family, self.task)]
        return float(max(1, min((count for count in counts if count > 1), default=2) - 1))


@dataclass(frozen=True)
class Combined:
    """A weighted mean of cells: value, standard error, degrees of freedom, weights (K,), spread by source (SD)."""

    value: float
    se: float
    df: float
    weights: Array
    spread: dict[str, float]


def combine(values: Array, sampling: Array, grid: CellGrid, weights: Array | None = None,
            sampling_df: Callable[[Array], float] | None = None) -> Combined:
    """Mean of cell estimates (K,) with sampling covariance (K, K); ``weights`` (K,) None: generalised least squares.

    ``sampling_df`` gives the degrees of freedom of the sampling variance of a mean with weights (K,); None: infinitely
    many.
    """
    patterns = list(grid.sources.values())
    variances = _reml(values, sampling, patterns)
    total = _total(sampling, patterns, variances)
    inverse = np.linalg.inv(total)
    if weights is None:
        weights = inverse.sum(axis=0) / inverse.sum()
    variance = float(weights @ total @ weights)
    known = np.inf if sampling_df is None else sampling_df(weights)
    df = max(_satterthwaite(weights, total, patterns, sampling, known), grid.least_df)
    spread = dict(zip(grid.sources, map(float, np.sqrt(variances)), strict=True))
    return Combined(float(weights @ values), float(np.sqrt(variance)), df, weights, spread)


def average(values: Array, sampling: Array, sampling_df: Callable[[Array], float]) -> Combined:
    """Plain mean of these cells, which are all that is spoken of: only their sampling covariance makes it uncertain."""
    weights = np.full(len(values), 1 / len(values))
    se = float(np.sqrt(weights @ sampling @ weights))
    return Combined(float(weights @ values), se, sampling_df(weights), weights, {})


def _total(sampling: Array, patterns: Sequence[Array], variances: Array) -> Array:
    return np.asarray(sampling + sum(v * p for v, p in zip(variances, patterns, strict=True)))


def _reml(values: Array, sampling: Array, patterns: Sequence[Array]) -> Array:
    """Variances (m,) that minimise the restricted deviance, none below zero."""
    if len(values) < 2:
        return np.zeros(len(patterns))
    precision = 1 / np.diag(sampling)
    centred = values - np.average(values, weights=precision)
    unit = float(max(1 / precision.mean(), np.average(centred**2, weights=precision)))
    y, s = values / np.sqrt(unit), sampling / unit

    def deviance(v: Array) -> tuple[float, Array]:
        total = _total(s, patterns, v)
        project, logdet = _projector(total)
        py = project @ y
        gradient = np.array([np.sum(project * p) - py @ p @ py for p in patterns])
        return float(logdet + y @ py), gradient

    start = np.full(len(patterns), 0.1)
    found = minimize(deviance, start, jac=True, bounds=[(0, None)] * len(patterns), method="L-BFGS-B",
                     options={"ftol": 1e-13, "gtol": 1e-8})
    return np.asarray(found.x * unit)


def _projector(total: Array) -> tuple[Array, float]:
    """P = V^-1 - V^-1 1 1' V^-1 / 1' V^-1 1, and log|V| + log 1' V^-1 1."""
    inverse = np.linalg.inv(total)
    column = inverse.sum(axis=1)
    weight = float(column.sum())
    return inverse - np.outer(column, column) / weight, float(np.linalg.slogdet(total)[1] + np.log(weight))


def _satterthwaite(weights: Array, total: Array, patterns: Sequence[Array], sampling: Array, known: float) -> float:
    """2 Var^2 / Var(Var), with the expected information of the variances, and ``known`` degrees of freedom of the
    sampling variance."""
    if len(weights) < 2:
        return 0.0
    project, _ = _projector(total)
    moved = [project @ p for p in patterns]
    information = 0.5 * np.array([[np.sum(a * b.T) for b in moved] for a in moved])
    gradient = np.array([weights @ p @ weights for p in patterns])
    variance, own = float(weights @ total @ weights), float(weights @ sampling @ weights)
    spread = float(gradient @ np.linalg.pinv(information) @ gradient) + 2 * own**2 / known
    return 2 * variance**2 / max(spread, 1e-300)
