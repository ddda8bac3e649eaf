"""Confidence sets for the ratio of two estimates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

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
