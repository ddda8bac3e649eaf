"""What every slope model answers with: estimates, their intervals, and the change of the slope."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from scipy import stats

from canopy_stats.mixed import Fit
from canopy_stats.slope.ratio import delta_se, fieller

Array = np.ndarray
LEVEL = 0.95


class Interval(tuple[float, float]):
    """(low, high) with ``kind``: 'bounded'; 'exclusive' (all but what lies between); 'whole'; 'not modelled'."""

    kind: str

    def __new__(cls, low: float, high: float, kind: str = "bounded") -> Interval:
        interval = super().__new__(cls, (float(low), float(high)))
        interval.kind = kind
        return interval

    def __repr__(self) -> str:
        return f"Interval({self[0]:.6g}, {self[1]:.6g}, {self.kind})"


@dataclass(frozen=True)
class Estimate:
    """One quantity with its standard error, 95% interval (low, high) and two-sided p-value.

    For a ratio the interval is Fieller's set, ``se`` is by the delta method, and the p-value tests a ratio of one.
    """

    estimate: float
    se: float
    interval: Interval
    pvalue: float
    df: float = float("nan")

    @property
    def kind(self) -> str:
        """How to read the interval."""
        return self.interval.kind


@dataclass(frozen=True, repr=False)
class SlopeChange:
    """Slope of diversity on entropy rate in the base and the fine-tuned variant, their difference and ratio.

    ``unit`` says what the slopes are per. ``response`` has the slopes on the response scale where the model is not
    linear (of the robust model: at matched rates). For the robust model ``cells`` has a row per family and task,
    ``support`` the share of rows within the common rates by task, ``calibration`` the reliabilities. ``replicates``
    and ``intervals`` hold a bootstrap over prompts, when one was asked for.
    """

    model: str
    base: Estimate
    tuned: Estimate
    difference: Estimate
    ratio: Estimate
    identified: bool
    verdict: str
    estimand: str
    notes: tuple[str, ...] = ()
    fit: Fit | None = field(default=None, repr=False)
    unit: str = "D per nat/token"
    response: dict[str, Estimate] = field(default_factory=dict, repr=False)
    cells: pd.DataFrame | None = field(default=None, repr=False)
    support: pd.DataFrame | None = field(default=None, repr=False)
    calibration: pd.DataFrame | None = field(default=None, repr=False)
    replicates: pd.DataFrame | None = field(default=None, repr=False)
    intervals: dict[str, Interval] = field(default_factory=dict)

    def __repr__(self) -> str:
        if not self.identified:
            return f"<SlopeChange {self.model}: not identified>"
        change, (low, high) = self.difference, self.difference.interval
        return (f"<SlopeChange {self.model}: base {self.base.estimate:.3g}, tuned {self.tuned.estimate:.3g}, "
                f"difference {change.estimate:.3g} [{low:.3g}, {high:.3g}], p = {change.pvalue:.3g} ({self.unit})>")

    def __str__(self) -> str:
        return "\n".join([repr(self)[1:-1], self.verdict])


def missing() -> Estimate:
    """An estimate that the model does not have."""
    nan = float("nan")
    return Estimate(nan, nan, Interval(nan, nan, "not modelled"), nan)


def estimate(value: float, error: float, df: float = np.inf) -> Estimate:
    """Value with its Wald interval and p-value by Student's t."""
    half = float(stats.t.ppf((1 + LEVEL) / 2, df) * error)
    p = float(2 * stats.t.sf(abs(value / error), df)) if error > 0 else float("nan")
    return Estimate(float(value), float(error), Interval(value - half, value + half), p, float(df))


def ratio_of(tuned: float, base: float, covariance: Array, df: float, pvalue: float) -> Estimate:
    """Tuned over base slope with Fieller's set; ``covariance`` (2, 2) is that of (tuned, base)."""
    found = fieller(tuned, base, covariance, float(stats.t.ppf((1 + LEVEL) / 2, df)))
    interval = Interval(found.low, found.high, found.kind)
    return Estimate(float(found.estimate), delta_se(tuned, base, covariance), interval, pvalue, df)


def four(rows: Array, beta: Array, covariance: Array, df: Array) -> tuple[Estimate, Estimate, Estimate, Estimate]:
    """Base, tuned, difference and ratio from contrasts ``rows`` (3, p) of coefficients, each with its df (3,)."""
    values = rows @ beta
    joint = rows @ covariance @ rows.T
    base, tuned, change = (estimate(v, np.sqrt(e), d) for v, e, d in zip(values, np.diag(joint), df, strict=True))
    pair = joint[np.ix_([1, 0], [1, 0])]
    return base, tuned, change, ratio_of(values[1], values[0], pair, float(min(df[:2])), change.pvalue)
