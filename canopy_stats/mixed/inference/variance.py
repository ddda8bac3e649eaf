"""Shares of variance: Nakagawa's R2 and intraclass correlations, on the link scale."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from canopy_stats.mixed.algebra.blocks import Array
from canopy_stats.mixed.fit import Fit


@dataclass(frozen=True)
class VarianceShares:
    """Variances on the link scale and their shares.

    ``marginal`` R2: fixed effects; ``conditional`` R2: with random effects; ``icc``: each group's share of the
    variance that the fixed effects leave; ``fixed``, ``random`` (by group) and ``residual`` are the variances.
    """

    marginal: float
    conditional: float
    icc: dict[str, float]
    fixed: float
    random: dict[str, float]
    residual: float


def variance_shares(fit: Fit) -> VarianceShares:
    """Nakagawa's R2 (Nakagawa & Schielzeth 2013; random slopes by Johnson 2014) and intraclass correlations.

    The residual variance of all but gaussian is the response's variance over the squared slope of the mean, averaged
    over the rows at random effects of zero (delta method: Nakagawa, Johnson & Schielzeth 2017).
    """
    eta = fit.predict(mode="population", scale="link")
    fixed = float(np.var(eta, ddof=1))
    random = {
        f.name: _random_variance(f.columns, root) for f, root in zip(fit.design.factors, fit.roots, strict=True)
    }
    residual = _residual_variance(fit, eta)
    within = sum(random.values()) + residual
    icc = {name: value / within for name, value in random.items()}
    total = fixed + within
    return VarianceShares(fixed / total, (total - residual) / total, icc, fixed, random, residual)


def _random_variance(columns: Array, root: Array) -> float:
    """Mean over rows of z' T T' z."""
    return float(np.mean(np.sum((columns @ root) ** 2, axis=1)))


def _residual_variance(fit: Fit, eta: Array) -> float:
    family, rest = fit.frame.family, fit.others()
    step = 1e-5
    slope = (family.mean(eta + step, rest) - family.mean(eta - step, rest)) / (2 * step)
    return float(np.mean(family.variance(eta, rest) / slope**2))
