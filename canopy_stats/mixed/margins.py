"""Estimated means and slopes by group, with contrasts, on the link or the response scale."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
from scipy import stats

from canopy_stats.mixed import formula
from canopy_stats.mixed.blocks import Array
from canopy_stats.mixed.fit import Fit
from canopy_stats.mixed.predict import Scale, check_choice
from canopy_stats.schema import UserError

LEVEL = 0.95
Curve = Callable[[Array], Array]
"""Coefficients of the mean (p,) to the quantities asked for (k,)."""


def slopes(fit: Fit, x: str, by: str, *, scale: Scale = "link") -> pd.DataFrame:
    """Average derivative of the mean in ``x`` for each level of ``by``, and differences from the first level.

    Each level's average is over all fitted rows with ``by`` set to that level, random effects at zero: levels are
    compared over the same rows. Columns: level, estimate, std_error, df, statistic, p_value, conf_low, conf_high.
    """
    data = _checked(fit, [x, by], scale)
    if not pd.api.types.is_numeric_dtype(data[x]):
        raise UserError(f"{x} is not numeric; slopes() needs a number to differentiate in.")
    step = 1e-4 * float(data[x].std()) or 1e-4
    moved = [data.assign(**{x: data[x] + sign * step}) for sign in (1, -1)]
    levels = _levels(fit, by)
    pairs = [tuple(_design(fit, frame, by, level) for frame in moved) for level in levels]

    def curve(beta: Array) -> Array:
        values = [[_mean(fit, part @ beta, scale) for part in pair] for pair in pairs]
        return np.array([float(np.mean(ahead - behind)) / (2 * step) for ahead, behind in values])

    return _table(fit, curve, levels, linear=scale == "link")


def means(fit: Fit, by: str, *, scale: Scale = "response") -> pd.DataFrame:
    """Average predicted mean for each level of ``by`` over all fitted rows, and differences from the first level."""
    data = _checked(fit, [by], scale)
    levels = _levels(fit, by)
    designs = [_design(fit, data, by, level) for level in levels]

    def curve(beta: Array) -> Array:
        return np.array([float(np.mean(_mean(fit, part @ beta, scale))) for part in designs])

    return _table(fit, curve, levels, linear=scale == "link")


def _checked(fit: Fit, names: list[str], scale: str) -> pd.DataFrame:
    check_choice("scale", scale, ("response", "link"))
    missing = [name for name in names if name not in fit.design.data.columns]
    if missing:
        raise UserError(f"The model does not use {', '.join(missing)}; slopes and means are over its own variables.")
    return fit.design.data


def _levels(fit: Fit, by: str) -> tuple[str, ...]:
    levels = fit.design.fixed.levels.get(by)
    if levels is None:
        raise UserError(f"{by} is not a factor of the fixed part ({', '.join(fit.design.fixed.levels) or 'none'}).")
    return levels


def _design(fit: Fit, data: pd.DataFrame, by: str, level: str) -> Array:
    return formula.encode_fixed(fit.design.fixed, data.assign(**{by: level}))


def _mean(fit: Fit, eta: Array, scale: str) -> Array:
    eta = eta + fit.frame.offset_values
    if scale == "link":
        return eta
    return fit.frame.family.mean(eta, fit.others())


def _table(fit: Fit, curve: Curve, levels: tuple[str, ...], *, linear: bool) -> pd.DataFrame:
    """Estimates by level and their differences, errors by the delta method in the coefficients of the mean."""
    contrasts = np.vstack([np.eye(len(levels)), np.eye(len(levels))[1:] - np.eye(len(levels))[0]])
    names = [*levels, *(f"{level} - {levels[0]}" for level in levels[1:])]
    jacobian = contrasts @ _jacobian(curve, fit.beta, linear)
    p = len(fit.beta)
    error = np.sqrt(np.einsum("ka,ab,kb->k", jacobian, fit.covariance[:p, :p], jacobian))
    df = np.full(len(names), np.inf)
    df[error > 0] = fit.degrees_of_freedom(jacobian[error > 0])
    estimate = contrasts @ curve(fit.beta)
    statistic = np.divide(estimate, error, out=np.full_like(error, np.nan), where=error > 0)
    half = stats.t.ppf((1 + LEVEL) / 2, df) * error
    return pd.DataFrame({
        "level": names, "estimate": estimate, "std_error": error, "df": df, "statistic": statistic,
        "p_value": 2 * stats.t.sf(np.abs(statistic), df), "conf_low": estimate - half, "conf_high": estimate + half,
    })


def _jacobian(curve: Curve, beta: Array, linear: bool) -> Array:
    """Derivatives (k, p) of the curve in the coefficients; exact with any step where it is linear."""
    steps = np.ones(len(beta)) if linear else 1e-5 * np.maximum(np.abs(beta), 1e-2)
    columns = [(curve(beta + move) - curve(beta - move)) / (2 * size)
               for size, move in zip(steps, np.diag(steps), strict=True)]
    return np.stack(columns, axis=1)
