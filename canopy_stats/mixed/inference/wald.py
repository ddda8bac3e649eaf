"""Wald tests of linear hypotheses about the coefficients of the mean: t and z one by one, F and chi-square jointly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import stats

from canopy_stats.mixed.fit import Fit
from canopy_stats.mixed.fitting.clustered import Clustered
from canopy_stats.mixed.inference.kenward_roger import kenward_roger, test_of

Array = np.ndarray
DDF = ("satterthwaite", "kenward-roger")


@dataclass(frozen=True)
class Joint:
    """A test of several contrasts at once: F with ``den_df``, or chi-square (the sum, not the mean) where infinite."""

    num_df: int
    den_df: float
    statistic: float
    p_value: float


def kenward_roger_test(fit: Fit) -> Callable[[Array], Joint]:
    """Kenward and Roger's F test of contrasts (q, p) of one fit; what all its tests share is made once."""
    shared = kenward_roger(fit)

    def test(contrasts: Array) -> Joint:
        q, df, statistic = test_of(shared, fit.beta, contrasts)
        return Joint(q, df, statistic, float(stats.f.sf(statistic, q, df)))

    return test


def joint_test(fit: Fit, contrasts: Array, values: Array | None = None) -> Joint:
    """Test that ``contrasts`` (q, p) of the coefficients equal ``values`` (q,), zeros if None.

    F with Satterthwaite's degrees of freedom as lmerTest's ``contestMD``: independent contrasts by the eigenvectors of
    their covariance, the degrees of freedom of each joined by the expectation of F (Fai & Cornelius 1996). Clustered
    errors: Hotelling's T^2 with estimated degrees of freedom (Pustejovsky & Tipton 2018).
    """
    p = len(fit.beta)
    distance = contrasts @ fit.beta - (0.0 if values is None else values)
    spread, vectors = np.linalg.eigh(contrasts @ fit.covariance[:p, :p] @ contrasts.T)
    keep = spread > 1e-9 * max(float(spread.max(initial=0.0)), 1e-300)
    if not keep.any() or not np.all(np.isfinite(distance)):
        return Joint(0, float("nan"), float("nan"), float("nan"))
    squares, turned = (vectors[:, keep].T @ distance) ** 2 / spread[keep], vectors[:, keep].T @ contrasts
    if isinstance(fit.way, Clustered):
        return _hotelling(squares, fit.way.wishart_df(fit, turned))
    return _from_squares(squares, fit.degrees_of_freedom(turned))


def _hotelling(squares: Array, eta: float) -> Joint:
    """F test of a Wald statistic whose covariance is Wishart with eta degrees of freedom; NaN where too few."""
    q, den = len(squares), eta - len(squares) + 1
    if den <= 0:
        return Joint(q, float("nan"), float("nan"), float("nan"))
    statistic = float(den / (eta * q) * squares.sum())
    return Joint(q, den, statistic, float(stats.f.sf(statistic, q, den)))


def _from_squares(squares: Array, df: Array) -> Joint:
    q, den = len(squares), joint_df(df)
    if not np.isfinite(den):
        return Joint(q, den, float(squares.sum()), float(stats.chi2.sf(squares.sum(), q)))
    return Joint(q, den, float(squares.mean()), float(stats.f.sf(squares.mean(), q, den)))


def joint_df(df: Array) -> float:
    """Denominator degrees of freedom of the mean of independent squared t with degrees of freedom ``df`` (q,)."""
    if not np.all(np.isfinite(df)):
        return float("inf")
    if np.ptp(df) < 1e-8:
        return float(df.mean())
    if np.any(df <= 2):
        return 2.0
    expected = float(np.sum(df / (df - 2)))
    return 2 * expected / (expected - len(df))
