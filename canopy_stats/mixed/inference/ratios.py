"""Confidence sets for the ratio of two estimates, by Fieller and by the delta method."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

from canopy_stats.mixed.fit import Fit
from canopy_stats.schema import UserError

Kind = Literal["bounded", "exclusive", "whole"]


@dataclass(frozen=True)
class RatioSet:
    """A confidence set for a ratio.

    ``kind`` 'bounded': the interval [low, high]. 'exclusive': everything except the open interval (low, high), since
    the denominator may be zero. 'whole': every number, low and high infinite.
    """

    estimate: float
    low: float
    high: float
    kind: Kind

    def contains(self, value: float) -> bool:
        """Whether ``value`` belongs to the set."""
        inside = self.low <= value <= self.high
        outside = value <= self.low or value >= self.high
        return {"bounded": inside, "exclusive": outside, "whole": True}[self.kind]

    def __str__(self) -> str:
        return f"{self.estimate:.4g}, 95% set {set_in_words(self.low, self.high, self.kind)}"


def fieller(numerator: float, denominator: float, covariance: np.ndarray, critical: float) -> RatioSet:
    """Fieller's set: all rho that the test of numerator - rho * denominator = 0 does not reject (Fieller 1954).

    ``covariance`` (2, 2) is that of (numerator, denominator); ``critical`` the two-sided quantile of t or normal.
    """
    t2 = critical**2
    a = denominator**2 - t2 * covariance[1, 1]
    b = numerator * denominator - t2 * covariance[0, 1]
    c = numerator**2 - t2 * covariance[0, 0]
    estimate = numerator / denominator if denominator else float("nan")
    root = b**2 - a * c
    if a == 0 or root < 0:
        return RatioSet(estimate, -np.inf, np.inf, "whole")
    ends = sorted(((b - np.sqrt(root)) / a, (b + np.sqrt(root)) / a))
    return RatioSet(estimate, float(ends[0]), float(ends[1]), "bounded" if a > 0 else "exclusive")


def set_in_words(low: float, high: float, kind: str = "bounded", form: str = "{:.4g}") -> str:
    """A confidence set as tables and sentences print it: an interval, all but an interval, any number, or nothing."""
    if kind == "whole":
        return "any number"
    if not np.isfinite([low, high]).all():
        return "–"
    ends = f"{form.format(low)}, {form.format(high)}"
    return f"outside ({ends})" if kind == "exclusive" else f"[{ends}]"


def delta_se(numerator: float, denominator: float, covariance: np.ndarray) -> float:
    """Standard error of the ratio by the delta method; poor when the denominator is not clearly away from zero."""
    gradient = np.array([1.0, -numerator / denominator]) / denominator
    return float(np.sqrt(gradient @ covariance @ gradient))


def delta_interval(
    numerator: float, denominator: float, covariance: np.ndarray, critical: float
) -> tuple[float, float]:
    """Symmetric interval of the ratio by the delta method."""
    ratio, half = numerator / denominator, critical * delta_se(numerator, denominator, covariance)
    return ratio - half, ratio + half


def ratio(
    fit: Fit, numerator: Mapping[str, float], denominator: Mapping[str, float], *, level: float = 0.95
) -> RatioSet:
    """Fieller's set for the ratio of two linear combinations of the coefficients of the mean.

    Combinations map names to weights: ``ratio(fit, {"x": 1, "x:f[T.b]": 1}, {"x": 1})`` is the slope in b over that in
    the reference level. Linear mixed models use the smaller of the two Satterthwaite degrees of freedom.
    """
    rows = np.stack([_weights(fit, combination) for combination in (numerator, denominator)])
    p = len(fit.beta)
    covariance = rows @ fit.covariance[:p, :p] @ rows.T
    df = float(np.min(fit.degrees_of_freedom(rows)))
    top, bottom = rows @ fit.beta
    return fieller(float(top), float(bottom), covariance, float(stats.t.ppf((1 + level) / 2, df)))


def _weights(fit: Fit, combination: Mapping[str, float]) -> np.ndarray:
    """A combination as weights (p,) of the independent columns."""
    names = list(fit.design.fixed.names)
    unknown = [name for name in combination if name not in names]
    if unknown or not any(combination.values()):
        raise UserError(f"ratio() needs combinations of {', '.join(names)}; got {dict(combination)}.")
    out = np.zeros(len(names))
    for name, weight in combination.items():
        out[names.index(name)] = weight
    return out
