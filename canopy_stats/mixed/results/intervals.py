"""Intervals of predictions: for means, and for new responses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy import stats

from canopy_stats.mixed.algebra.blocks import Array
from canopy_stats.mixed.estimates import Estimates
from canopy_stats.mixed.families import Family, Others
from canopy_stats.mixed.fitting.ways import Way
from canopy_stats.mixed.formulas.fixed import encode_fixed
from canopy_stats.mixed.formulas.frames import as_pandas
from canopy_stats.mixed.results.predict import (
    EffectsMode,
    Rows,
    Scale,
    check_choice,
    encode,
    link_errors,
    random_part,
    to_scale,
)
from canopy_stats.schema import UserError

IntervalKind = Literal["confidence", "prediction"]
POINTS = np.linspace(-6, 6, 121)
"""Standardised linear predictors over which the law of a new response is averaged."""
HALVINGS = 50
CHUNK = 1000
"""Rows that are searched together."""


def intervals(fit: Estimates, way: Way, data: Any, mode: EffectsMode, scale: Scale, kind: IntervalKind, level: float
              ) -> pd.DataFrame:
    """Estimates (m rows) with the ends of their intervals; see ``Fit.predict``."""
    _check(fit, mode, scale, kind, level)
    table = None if data is None else as_pandas(data)
    rows = encode(fit, table, mode)
    eta = rows.x @ fit.beta + rows.offset + (0.0 if mode == "population" else random_part(fit, rows))
    error, tail = link_errors(fit, way, rows, mode), (1 - level) / 2
    if kind == "confidence":
        ends = [to_scale(fit, rows, end, scale) for end in _confidence(fit, way, rows, mode, eta, error, tail)]
    else:
        spread = np.hypot(error, _random_sd(fit, table)) if mode == "population" else error
        ends = _prediction(fit, rows, table is None, eta, spread, tail)
    index = fit.design.data.index if table is None else table.index
    low, high = np.minimum(*ends), np.maximum(*ends)
    return pd.DataFrame({"estimate": to_scale(fit, rows, eta, scale), "conf_low": low, "conf_high": high}, index=index)


def _check(fit: Estimates, mode: EffectsMode, scale: Scale, kind: IntervalKind, level: float) -> None:
    check_choice("mode", mode, ("population", "conditional", "new_levels"))
    check_choice("scale", scale, ("response", "link"))
    check_choice("interval", kind, ("confidence", "prediction"))
    if not 0 < level < 1:
        raise UserError(f"level is {level}; give a share between 0 and 1, as in level=0.95.")
    if fit.frame.family.probabilities is not None and (scale == "response" or kind == "prediction"):
        raise UserError("Categories have a table of probabilities and no interval; predict() without interval gives it,"
                        " scale='link' with interval='confidence' that of the linear predictor.")
    if kind == "prediction" and scale == "link":
        raise UserError("A prediction interval is for responses; leave scale='response'.")


def _confidence(fit: Estimates, way: Way, rows: Rows, mode: EffectsMode, eta: Array, error: Array, tail: float
                ) -> list[Array]:
    """Ends (m,) on the link scale: t where the mean is of coefficients alone, normal where random effects enter."""
    df = way.degrees_of_freedom(fit, rows.x) if mode == "population" else np.full(len(eta), np.inf)
    half = stats.t.isf(tail, df) * error
    return [eta - half, eta + half]


def _random_sd(fit: Estimates, data: pd.DataFrame | None) -> Array:
    """Standard deviation (m,) of the random effects of new levels of every grouping variable."""
    total: Any = 0.0
    for factor, root in zip(fit.design.factors, fit.roots, strict=True):
        columns = factor.columns if data is None else np.hstack([encode_fixed(part, data) for part in factor.parts])
        total = total + np.square(columns @ root).sum(axis=1)
    return np.asarray(np.sqrt(total))


def _prediction(fit: Estimates, rows: Rows, fitted: bool, eta: Array, spread: Array, tail: float) -> list[Array]:
    """Ends (m,) for a new response where eta is normal with standard deviations ``spread`` (m,)."""
    family = fit.frame.family
    rest = fit.others() if fitted else fit.others(rows.w, rows.g, rows.trials)
    if family.normal:
        half = stats.norm.isf(tail) * np.sqrt(spread**2 + np.exp(rest.kappa))
        return [eta - half, eta + half]
    near, whole = family.mean(eta, rest) * rest.trials, family.counts or family.trials
    ends: list[Array] = []
    for share in (tail, 1 - tail):
        parts = [quantile(_law(family, eta[i], spread[i], rest.at(i)), share, near[i], whole)
                 for i in np.array_split(np.arange(len(eta)), len(eta) // CHUNK + 1)]
        ends.append(np.concatenate(parts) / rest.trials)
    return ends


def _law(family: Family, eta: Array, spread: Array, rest: Others) -> Callable[[Array], Array]:
    """P(Y <= y) (m,) of new responses, averaged over normal linear predictors; NaN outside what Y can be."""
    weights = stats.norm.pdf(POINTS)
    every, m = np.tile(np.arange(len(eta)), len(POINTS)), len(eta)
    grid, wide = (eta + spread * POINTS[:, None]).ravel(), rest.at(every)

    def law(y: Array) -> Array:
        return np.asarray(weights @ family.cdf(y[every], grid, wide)[1].reshape(-1, m) / weights.sum())

    return law


def quantile(law: Callable[[Array], Array], share: float, near: Array, whole: bool) -> Array:
    """Smallest y (m,) with law(y) >= share, by bisection from ``near`` (m,); ``whole`` ones for counts."""

    def reached(y: Array) -> Array:
        with np.errstate(all="ignore"):
            p = law(y)
        return np.asarray(np.where(np.isnan(p), y > near, p >= share))

    width = np.ceil(np.abs(near)) + 1 if whole else np.maximum(np.abs(near), 1e-300)
    low, high = (np.floor(near) - width, np.ceil(near) + width) if whole else (near - width, near + width)
    for _ in range(HALVINGS):
        down, up = reached(low), ~reached(high)
        if not (down | up).any():
            break
        width = 2 * width
        low, high = np.where(down, low - width, low), np.where(up, high + width, high)
    for _ in range(HALVINGS):
        if whole and np.all(high - low <= 1):
            break
        middle = np.floor((low + high) / 2) if whole else (low + high) / 2
        there = reached(middle)
        low, high = np.where(there, low, middle), np.where(there, middle, high)
    edge = np.round(high)  # where the law jumps: exact zeros and ones
    high = np.where(np.abs(high - edge) <= 1e-12 * (np.abs(near) + np.abs(high)), edge, high)
    return np.where(np.isnan(near), np.nan, high)
