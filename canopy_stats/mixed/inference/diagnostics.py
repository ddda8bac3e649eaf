"""Simulated quantile residuals: uniformity, dispersion and outliers, with reference values that know the groups."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from canopy_stats.figure_style import BLACK, BLUE, GREY, PAGE, styled
from canopy_stats.mixed.algebra.blocks import Array
from canopy_stats.mixed.fit import Fit
from canopy_stats.mixed.results.predict import expected
from canopy_stats.mixed.results.simulation import simulate
from canopy_stats.notebook import table_html
from canopy_stats.schema import UserError
from canopy_stats.seeds import generator

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class QuantileResiduals:
    """Residuals (rows,) between 0 and 1, uniform under the model, the population means, and the table of tests.

    ``tests`` has the columns test, effect, expected, p_value: 'uniformity' (largest distance of the distribution
    function from the diagonal), 'dispersion' (variance around the simulated mean over the simulated variance),
    'outliers' (share of rows outside all simulations), and 'quartiles' along the fitted mean and along each column that
    was named: the largest departure, in ten bins, of the shares below .25, .5 and .75, in binomial standard errors. A
    bent fit can have uniform residuals as a whole; it does not have level quartiles.
    """

    residuals: Array
    fitted: Array
    tests: pd.DataFrame

    def _repr_html_(self) -> str:
        """The table of tests."""
        return f"<p>{len(self.residuals)} simulated quantile residuals</p>" + table_html(self.tests)

    def plot(self) -> Figure:
        """Quantile plot beside residuals against fitted means."""
        return plot(self)


@dataclass
class _Counts:
    """Running counts for the observed and the reference responses (1 + reference, rows) and moments (rows,)."""

    below: Array
    equal: Array
    total: Array
    squares: Array
    n: int = 0


def quantile_residuals(fit: Fit, *, n: int = 250, reference: int = 99, seed: int = 0,
                       along: Mapping[str, Array] | None = None) -> QuantileResiduals:
    """Rank of each response among ``n`` simulations from the fit, as in R's DHARMa (Dunn & Smyth 1996 for the idea).

    ``along`` are further columns (rows,) by name; the quartiles are tested along each of them too.

    Residuals of one group are correlated, so p-values come from ``reference`` further simulations treated as the
    observed response. Simulations are streamed: memory grows with rows x reference bytes, not with ``n``.
    """
    if n < 20 or reference < 19:
        raise UserError("quantile_residuals() needs n of at least 20 and reference of at least 19.")
    rng = generator(seed)
    responses = np.stack([fit.design.y, *(simulate(fit, rng) for _ in range(reference))])
    counts = _count(fit, responses, n, rng)
    u = rng.uniform(size=responses.shape)
    ranks = (counts.below + u * (counts.equal + 1)) / (n + 1)
    fitted = expected(fit, "population")
    statistics = _statistics(responses, ranks, counts)
    for name, x in {"fitted": fitted, **(along or {})}.items():
        statistics[f"quartiles, {name}"] = _bent(ranks, np.asarray(x, dtype=float))
    return QuantileResiduals(ranks[0], fitted, _tests(statistics, n, reference))


def _count(fit: Fit, responses: Array, n: int, rng: np.random.Generator) -> _Counts:
    shape = responses.shape
    zeros = np.zeros(shape[1])
    counts = _Counts(np.zeros(shape, np.int32), np.zeros(shape, np.int32), zeros, zeros.copy(), n)
    for _ in range(n):
        drawn = simulate(fit, rng)
        counts.below += drawn < responses
        counts.equal += drawn == responses
        counts.total += drawn
        counts.squares += (drawn - fit.design.y) ** 2
    return counts


def _statistics(responses: Array, ranks: Array, counts: _Counts) -> dict[str, Array]:
    """Each statistic of the whole (1 + reference,) for the observed response and the reference ones."""
    n, rows = counts.n, responses.shape[1]
    mean = counts.total / n
    variance = (counts.squares / n - (mean - responses[0]) ** 2) * n / (n - 1)
    ordered, grid = np.sort(ranks, axis=1), np.arange(1, rows + 1) / rows
    distance = np.maximum(np.abs(ordered - grid), np.abs(ordered - grid + 1 / rows)).max(axis=1)
    outside = (counts.below + counts.equal == 0) | (counts.below == n)
    return {
        "uniformity": distance,
        "dispersion": np.mean((responses - mean) ** 2, axis=1) / np.mean(variance) / (1 + 1 / n),
        "outliers": outside.mean(axis=1),
    }


def _tests(statistics: dict[str, Array], n: int, reference: int) -> pd.DataFrame:
    """Effect, what to expect, and Monte-Carlo p-values: two-sided for dispersion and outliers, else one-sided."""
    expected = {"dispersion": 1.0, "outliers": 2 / (n + 1)}
    rows = []
    for name, values in statistics.items():
        upper = (1 + np.sum(values[1:] >= values[0])) / (reference + 1)
        lower = (1 + np.sum(values[1:] <= values[0])) / (reference + 1)
        p = min(1.0, 2 * min(upper, lower)) if name in expected else upper
        usual = expected.get(name, float(np.median(values[1:])))
        rows.append({"test": name, "effect": float(values[0]), "expected": usual, "p_value": float(p)})
    return pd.DataFrame(rows)


def _bent(ranks: Array, x: Array, most: int = 10, least: int = 20) -> Array:
    """Largest departure (1 + reference,) of the shares of ``ranks`` below each quartile in bins of x (rows,) that hold
    equally many rows, in binomial standard errors."""
    bins = np.array_split(np.argsort(x, kind="stable"), int(np.clip(len(x) // least, 1, most)))
    worst = np.zeros(len(ranks))
    for rows in bins:
        for q in (0.25, 0.5, 0.75):
            off = np.abs((ranks[:, rows] < q).mean(axis=1) - q) / np.sqrt(q * (1 - q) / len(rows))
            worst = np.maximum(worst, off)
    return worst


def plot(result: QuantileResiduals) -> Figure:
    """Quantile plot and residuals against the ranks of fitted means, with the quartiles of ten bins."""
    from canopy_stats.picture import NotebookFigure

    with styled():
        figure = NotebookFigure(figsize=(PAGE, 3.1), layout="constrained")
        left, right = figure.subplots(1, 2)
        n = len(result.residuals)
        left.plot((np.arange(n) + 0.5) / n, np.sort(result.residuals), ".", color=BLUE, markersize=2)
        left.plot([0, 1], [0, 1], color=GREY, linewidth=1)
        left.set(xlabel="expected quantile", ylabel="residual", title="Uniform under the model")
        _against_fitted(right, result)
    return figure


def _against_fitted(axes: Any, result: QuantileResiduals) -> None:
    rank = np.argsort(np.argsort(result.fitted, kind="stable")) / max(len(result.fitted) - 1, 1)
    axes.plot(rank, result.residuals, ".", color=BLUE, markersize=2, alpha=0.5)
    bins = np.minimum((rank * 10).astype(int), 9)
    centres = (np.arange(10) + 0.5) / 10
    for q in (0.25, 0.5, 0.75):
        values = [np.quantile(result.residuals[bins == b], q) if np.any(bins == b) else np.nan for b in range(10)]
        axes.plot(centres, values, color=BLACK, linewidth=1)
        axes.axhline(q, color=GREY, linewidth=0.5, linestyle="--")
    axes.set(xlabel="rank of the fitted mean", ylabel="residual", title="Quartiles should be level")
