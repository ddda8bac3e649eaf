"""What every slope model answers with: an estimate, its interval, and how both are made from coefficients."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from canopy_stats.mixed.inference.ratios import Kind, delta_se, fieller, set_in_words

Array = np.ndarray
LEVEL = 0.95
"""Level of every interval."""
ALPHA = 0.05
"""Level of every test, 1 - LEVEL."""


class Interval(tuple[float, float]):
    """(low, high) with ``kind``: 'bounded'; 'exclusive' (all but what lies between); 'whole'; 'not modelled'."""

    kind: str

    def __new__(cls, low: float, high: float, kind: Kind | str = "bounded") -> Interval:
        interval = super().__new__(cls, (float(low), float(high)))
        interval.kind = kind
        return interval

    def __repr__(self) -> str:
        return f"Interval({self[0]:.6g}, {self[1]:.6g}, {self.kind})"

    def words(self, form: str = "{:.4f}") -> str:
        """The set as a table prints it."""
        return set_in_words(self[0], self[1], self.kind, form)


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

    def row(self) -> dict[str, float]:
        """The estimate under the names that every table has."""
        statistic = self.estimate / self.se if self.se > 0 else float("nan")
        return {"estimate": self.estimate, "std_error": self.se, "df": self.df, "statistic": statistic,
                "p_value": self.pvalue, "conf_low": self.interval[0], "conf_high": self.interval[1]}

    def to_dict(self) -> dict[str, Any]:
        """Plain values that JSON can hold; :func:`estimate_from_dict` reads them."""
        return {name: plain(getattr(self, name)) for name in ("estimate", "se", "pvalue", "df")} | interval_to_dict(
            self.interval)


def missing() -> Estimate:
    """An estimate that the model does not have."""
    nan = float("nan")
    return Estimate(nan, nan, Interval(nan, nan, "not modelled"), nan)


def estimate(value: float, error: float, df: float = np.inf) -> Estimate:
    """Value with its Wald interval and p-value by Student's t."""
    half = float(stats.t.ppf((1 + LEVEL) / 2, df) * error)
    p = float(2 * stats.t.sf(abs(value / error), df)) if error > 0 else float("nan")
    return Estimate(float(value), float(error), Interval(value - half, value + half), p, float(df))


def ratio_of(top: float, bottom: float, covariance: Array, df: float, pvalue: float) -> Estimate:
    """A ratio with Fieller's set; ``covariance`` (2, 2) is that of (top, bottom)."""
    found = fieller(top, bottom, covariance, float(stats.t.ppf((1 + LEVEL) / 2, df)))
    interval = Interval(found.low, found.high, found.kind)
    return Estimate(float(found.estimate), delta_se(top, bottom, covariance), interval, pvalue, df)


def four(values: Array, joint: Array, df: Array) -> tuple[Estimate, Estimate, Estimate, Estimate]:
    """Base, tuned, difference and ratio from the first three's values (3,), covariance (3, 3) and df (3,)."""
    base, tuned, change = (estimate(v, np.sqrt(e), d) for v, e, d in zip(values, np.diag(joint), df, strict=True))
    pair = joint[np.ix_([1, 0], [1, 0])]
    return base, tuned, change, ratio_of(values[1], values[0], pair, float(min(df[:2])), change.pvalue)


# --- as JSON ----------------------------------------------------------------------------------------------------


def estimate_from_dict(values: Mapping[str, Any]) -> Estimate:
    """The estimate that ``to_dict`` wrote."""
    numbers = {name: float(number(values[name])) for name in ("estimate", "se", "pvalue", "df")}
    return Estimate(**numbers, interval=interval_from_dict(values))


def interval_to_dict(interval: Interval) -> dict[str, Any]:
    return {"low": plain(interval[0]), "high": plain(interval[1]), "kind": interval.kind}


def interval_from_dict(values: Mapping[str, Any]) -> Interval:
    return Interval(float(number(values["low"])), float(number(values["high"])), values["kind"])


def plain(value: Any) -> Any:
    """A value as JSON has it, which knows no number that is not finite."""
    value = value.item() if hasattr(value, "item") else value
    return {"number": str(value)} if isinstance(value, float) and not math.isfinite(value) else value


def number(value: Any) -> Any:
    """What :func:`plain` wrote."""
    return float(value["number"]) if isinstance(value, Mapping) else value
