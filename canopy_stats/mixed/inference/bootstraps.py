"""Parametric and cluster bootstrap: every replicate has its own random stream, failures are kept and counted."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy import stats

from canopy_stats.mixed.algebra.blocks import Array
from canopy_stats.mixed.estimates import Estimates
from canopy_stats.mixed.fit import Fit, make_fit
from canopy_stats.mixed.formulas.grouping import group_codes
from canopy_stats.mixed.inference.parallel import fork_map
from canopy_stats.mixed.model_frame import take
from canopy_stats.mixed.results.simulation import simulate
from canopy_stats.notebook import Shown
from canopy_stats.schema import UserError
from canopy_stats.seeds import seed_sequence

BootstrapInterval = Literal["percentile", "basic", "normal"]


@dataclass(frozen=True)
class Bootstrap(Shown):
    """Estimates (replicates x parameters; NaN rows where the refit failed), the fit's own, and what went wrong.

    ``failures`` maps the number of a failed replicate to its message. Random-effect parameters are standard deviations
    and correlations, as in ``varcorr``.
    """

    estimates: pd.DataFrame
    observed: pd.Series
    failures: dict[int, str]
    seed: int
    cluster: str | None = None

    def _shown(self) -> tuple[str, list[Any]]:
        table = self.conf_int().assign(estimate=self.observed, std_error=self.std_errors())
        columns = ["parameter", "estimate", "std_error", "conf_low", "conf_high"]
        failed = f"{self.n_failed} of {len(self.estimates)} replicates failed." if self.n_failed else ""
        return (f"Bootstrap, {len(self.estimates)} replicates, 95% percentile intervals",
                [table.rename_axis("parameter").reset_index()[columns], failed])

    @property
    def n_failed(self) -> int:
        return len(self.failures)

    def std_errors(self) -> pd.Series:
        """Standard deviations over the replicates that worked."""
        return self.estimates.std()

    def conf_int(self, level: float = 0.95, kind: BootstrapInterval = "percentile") -> pd.DataFrame:
        """Intervals, columns 'conf_low' and 'conf_high': percentile, basic (reflected), or normal with bias removed."""
        tail = (1 - level) / 2
        low, high = self.estimates.quantile(tail), self.estimates.quantile(1 - tail)
        if kind == "basic":
            low, high = 2 * self.observed - high, 2 * self.observed - low
        elif kind == "normal":
            centre = 2 * self.observed - self.estimates.mean()
            half = stats.norm.ppf(1 - tail) * self.estimates.std()
            low, high = centre - half, centre + half
        elif kind != "percentile":
            raise UserError(f"kind is {kind!r}; choose percentile, basic or normal.")
        return pd.DataFrame({"conf_low": low, "conf_high": high})


def bootstrap(fit: Fit, n: int, *, seed: int, cluster: str | None = None, workers: int = 1) -> Bootstrap:
    """Refit to ``n`` responses simulated from the fit, or to ``n`` resamples of whole clusters.

    Parameters
    ----------
    cluster : str, optional
        Column of the fitted data whose levels are drawn with replacement; random effects within it are drawn with it.
    workers : int
        Processes; the answer does not depend on their number.
    """
    if n < 2:
        raise UserError(f"bootstrap() needs at least 2 replicates, not {n}.")
    if cluster is not None and fit.errors:
        raise UserError("Resampled clusters need no clustered errors; use the fit before robust().")
    streams = seed_sequence(seed).spawn(n)
    resample = _cluster_design(fit, cluster) if cluster is not None else None
    rows = fork_map(lambda i: _replicate(fit, np.random.default_rng(streams[i]), resample), n, workers)
    observed = estimates_of(fit)
    failures = {i: row for i, row in enumerate(rows) if isinstance(row, str)}
    values = [np.full(len(observed), np.nan) if isinstance(row, str) else row for row in rows]
    return Bootstrap(pd.DataFrame(values, columns=observed.index), observed, failures, seed, cluster)


def _replicate(
    fit: Fit, rng: np.random.Generator, resample: Callable[[np.random.Generator], Fit] | None
) -> Array | str:
    """Estimates (parameters,) of one refit, or why it failed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            if resample is not None:
                return estimate_values(resample(rng))
            again = fit.way.to(fit.frame.with_response(simulate(fit, rng)))
            return estimate_values(again.quick(fit))
        except (ValueError, ArithmeticError, np.linalg.LinAlgError) as error:
            return f"{type(error).__name__}: {error}"


def estimates_of(fit: Estimates) -> pd.Series:
    """All estimates by name: coefficients, 'dispersion x', 'zero x', thresholds, random sds and correlations."""
    names = list(fit.design.fixed.names)
    names += [f"dispersion {name}" for name in (fit.dispersion.names if fit.dispersion else ())]
    names += [f"zero {name}" for name in (fit.frame.zero_inflation.names if fit.frame.zero_inflation else ())]
    names += [f"threshold {name}" for name in fit.frame.family.cuts.names]
    for group, first, second, *_ in fit.variance_rows():
        names.append(f"sd {first} | {group}" if second is None else f"cor {first}, {second} | {group}")
    return pd.Series(estimate_values(fit), index=names)


def estimate_values(fit: Estimates) -> Array:
    """The values of ``estimates_of`` (parameters,), without building tables."""
    spread = [row[-1] for row in fit.variance_rows()]
    return np.concatenate([fit.beta, fit.delta, fit.zero, fit.cutpoints, spread])


def _cluster_design(fit: Fit, cluster: str) -> Callable[[np.random.Generator], Fit]:
    """A function that refits to clusters drawn with replacement."""
    if cluster not in fit.design.data.columns:
        known = ", ".join(str(name) for name in fit.design.data.columns)
        raise UserError(f"{cluster} is not among the fitted columns ({known}); choose one of them as cluster.")
    codes, levels = group_codes(fit.design.data, [cluster])
    rows_of = [np.flatnonzero(codes == level) for level in range(len(levels))]

    def resample(rng: np.random.Generator) -> Fit:
        drawn = rng.integers(0, len(rows_of), len(rows_of))
        rows = np.concatenate([rows_of[level] for level in drawn])
        copies = np.repeat(np.arange(len(drawn)), [len(rows_of[level]) for level in drawn])
        return refit_rows(fit, rows, copies, codes)

    return resample


def refit_rows(fit: Fit, rows: Array, copies: Array, clusters: Array) -> Fit:
    """Refit to rows (m,) taken from the fit; ``copies`` (m,) tell repeated clusters apart."""
    way = fit.way.to(take(fit.frame, rows, copies, clusters))
    found = make_fit(way, way.estimate())
    if not found.converged:
        raise UserError(f"the refit did not converge: {found.certificate}")
    return found
