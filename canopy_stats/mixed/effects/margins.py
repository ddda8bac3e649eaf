"""Estimated means by factor and average slopes, with contrasts, on the link or the response scale."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from canopy_stats.mixed.effects.averages import average_over_random_effects, averaged_rows, back_values, way_back
from canopy_stats.mixed.effects.contrasts import (
    Estimated,
    check_adjust,
    contrast_scale,
    contrasts_table,
    estimates_table,
    of_coefficients,
)
from canopy_stats.mixed.effects.grid import ReferenceGrid, crossed, reference_grid
from canopy_stats.mixed.fit import Fit
from canopy_stats.mixed.formulas.fixed import NotEstimableWarning, encode_all, estimable
from canopy_stats.mixed.formulas.frames import with_columns
from canopy_stats.mixed.formulas.levels import label, shown
from canopy_stats.mixed.results.predict import Scale, check_choice, encode
from canopy_stats.schema import UserError

Array = np.ndarray
Names = str | Sequence[str]


def means(fit: Fit, factors: Names, *, by: Names | None = None, contrasts: Any = None, adjust: str = "tukey",
          scale: Scale = "response", marginal: bool = False) -> pd.DataFrame:
    """Estimated marginal means of a fit by its factors, and contrasts between them (R's emmeans, its numbers).

    The linear predictor at every combination of all factors, numbers at their means, random effects at zero, is
    averaged with equal weights to the levels of ``factors``, within those of ``by``.

    Parameters
    ----------
    factors, by
        Names of one factor or several. Contrasts and their adjustment are within each combination of ``by``.
    contrasts : None, "pairwise", "reference", matrix (c, k) or mapping from names to k weights
        None gives the means. 'reference' is each level minus the first.
    adjust : {"tukey", "holm", "bonferroni", "fdr_bh", "none"}
        Of p-values and intervals of contrasts. 'tukey' is exact for 'pairwise' and Sidak's otherwise, as in emmeans.
    scale : {"response", "link"}
        On the response scale the averages of the linear predictor are transformed back, with errors by the delta
        method and tests and interval ends of the link scale; contrasts are then odds ratios (logit) or ratios (log)
        named 'a / b' and tested against 1, differences otherwise (on the link scale for other links);
        ``attrs["scale"]`` says which. Means of models with a zero part count its zeros, ratios do not; means of ordered
        categories are those of their values.
    marginal : bool
        Average the mean of the response itself over the random effects (Gauss-Hermite) and the grid: the mean accuracy
        of the population, where the usual one is that of a typical item. Contrasts are then differences of means.

    Columns: the factors (or those of ``by`` and contrast), estimate, std_error, df, statistic, p_value, conf_low,
    conf_high.
    What the data do not determine is NaN, named in a NotEstimableWarning and in ``attrs["not_estimable"]``.
    """
    check_choice("scale", scale, ("response", "link"))
    check_adjust(adjust)
    wanted, within = _names(factors), _names(by)
    grid = reference_grid(fit, [*(name for name in wanted if name not in within), *within])
    if marginal and scale == "link":
        raise UserError("marginal=True averages the response; leave scale='response'.")
    over = marginal and fit.frame.family.link != "identity"
    found = average_over_random_effects(fit, grid) if over else at_typical(fit, grid, scale)
    return _tabulated(found, grid.cells, within, contrasts, adjust)


def _names(names: Names | None) -> list[str]:
    if names is None:
        return []
    return [names] if isinstance(names, str) else list(dict.fromkeys(names))


def at_typical(fit: Fit, grid: ReferenceGrid, scale: Scale) -> Estimated:
    """Means of the cells with random effects at zero: linear in the coefficients, then transformed."""
    fixed = fit.design.fixed
    everything = grid.weights @ encode_all(fixed, grid.frame)
    rows = averaged_rows(fit, grid, everything[:, fixed.keep])
    back = None if scale == "link" else way_back(fit, rows)
    value = rows.x @ fit.beta + rows.offset
    return of_coefficients(fit, value, rows.x, lambda weights: estimable(fixed, weights @ everything), back)


def _tabulated(found: Estimated, cells: pd.DataFrame, within: list[str], kind: Any, adjust: str) -> pd.DataFrame:
    """Cells with their estimates, or contrasts within each combination of ``within``."""
    if kind is None:
        table = pd.concat([cells, estimates_table(found)], axis=1)
        table.attrs["scale"] = "link" if found.back is None else "response"
        return _with_lost(table, list(cells.columns))
    groups = cells.groupby(within, sort=False).indices if within else {(): np.arange(len(cells))}
    own = [name for name in cells.columns if name not in within]
    parts = []
    for rows in groups.values():
        labels = [" ".join(label(v) for v in cells.loc[row, own]) for row in rows]
        part = contrasts_table(found, kind, labels, np.asarray(rows), adjust)
        fixed = pd.DataFrame({name: [cells[name].iloc[rows[0]]] * len(part) for name in within})
        parts.append(pd.concat([fixed, part], axis=1))
    table = pd.concat(parts, ignore_index=True)
    table.attrs["scale"] = contrast_scale(found)
    return _with_lost(table, [*within, "contrast"])


def _with_lost(table: pd.DataFrame, named: list[str]) -> pd.DataFrame:
    """The table, with a warning that names what the data do not determine."""
    lost = table["estimate"].isna()
    texts = [", ".join(f"{name}={row[name]}" for name in named) for _, row in table[lost].iterrows()]
    table.attrs["not_estimable"] = texts
    if texts:
        warnings.warn(NotEstimableWarning(f"Not estimable, so NaN: {shown(texts)}. Some cells have no rows."),
                      stacklevel=3)
    return table


def slopes(fit: Fit, x: str, by: Names | None = None, *, scale: Scale = "link", contrasts: Any = None,
           adjust: str = "tukey") -> pd.DataFrame:
    """Average derivative of the mean in ``x``, for each level of ``by`` (one factor, several crossed, or None).

    Each level's average is over all fitted rows with ``by`` set to that level, random effects at zero: levels are
    compared over the same rows. Without ``contrasts`` the table has the slopes, then each one's difference from the
    first, unadjusted; with them (as in ``means``) the contrasts alone. On the response scale all are differences of
    derivatives, errors by the delta method. Columns: level (or contrast), estimate, std_error, df, statistic, p_value,
    conf_low, conf_high.
    """
    check_choice("scale", scale, ("response", "link"))
    check_adjust(adjust)
    factors, data = _names(by), _checked(fit, x, _names(by))
    cells = crossed({name: list(fit.design.fixed.levels[name]) for name in factors})
    found = _derivatives(fit, data, x, cells, scale)
    labels = [" ".join(map(str, row)) for row in cells.itertuples(index=False)] if factors else ["all"]
    every = np.arange(len(labels))
    if contrasts is not None:
        return _with_lost(contrasts_table(found, contrasts, labels, every, adjust), ["contrast"])
    table = estimates_table(found)
    table.insert(0, "level", labels)
    if len(factors) > 1:
        table = pd.concat([cells, table], axis=1)
    if len(labels) > 1:
        more = contrasts_table(found, "reference", labels, every, "none").rename(columns={"contrast": "level"})
        table = pd.concat([table, more], ignore_index=True)
    return _with_lost(table, ["level"])


def _checked(fit: Fit, x: str, factors: list[str]) -> pd.DataFrame:
    data, fixed = fit.design.data, fit.design.fixed
    missing = [name for name in (x, *factors) if name not in data.columns]
    if missing:
        raise UserError(f"The model does not use {', '.join(missing)}; slopes and means are over its own variables.")
    if x in fixed.levels or not pd.api.types.is_numeric_dtype(data[x]):
        raise UserError(f"{x} is not numeric; slopes() needs a number to differentiate in.")
    for name in factors:
        if name not in fixed.levels:
            raise UserError(f"{name} is not a factor of the fixed part ({', '.join(fixed.levels) or 'none'}).")
    return data


def _derivatives(fit: Fit, data: pd.DataFrame, x: str, cells: pd.DataFrame, scale: Scale) -> Estimated:
    """Average derivative (k,) in x over the rows of ``data`` with each cell's levels, and its Jacobian (k, p)."""
    step, fixed = 1e-4 * float(data[x].std()) or 1e-4, fit.design.fixed
    levels = [dict(zip(cells.columns, row, strict=True)) for row in cells.itertuples(index=False)]
    moved = [[encode_all(fixed, with_columns(data, {**level, x: data[x] + sign * step})) for sign in (1, -1)]
             for level in levels or [{}]]
    everything = np.stack([(ahead - behind).mean(axis=0) / (2 * step) for ahead, behind in moved])
    if scale == "link":
        value, jacobian = everything[:, fixed.keep] @ fit.beta, everything[:, fixed.keep]
        return of_coefficients(fit, value, jacobian, lambda weights: estimable(fixed, weights @ everything))
    found = [_on_response(fit, ahead[:, fixed.keep], behind[:, fixed.keep], step) for ahead, behind in moved]
    lost = np.array([not estimable(fixed, ahead).all() for ahead, _ in moved])
    return of_coefficients(fit, np.array([value for value, _ in found]), np.stack([moves for _, moves in found]),
                           lambda weights: ~((weights != 0) @ lost))


def _on_response(fit: Fit, ahead: Array, behind: Array, step: float) -> tuple[float, Array]:
    """Average difference quotient of the mean, and its derivatives (p,) in the coefficients."""
    (high, up), (low, down) = (_means_and_slopes(fit, part) for part in (ahead, behind))
    moves = (ahead * up[:, None] - behind * down[:, None]).mean(axis=0) / (2 * step)
    return float((high - low).mean()) / (2 * step), moves


def _means_and_slopes(fit: Fit, x: Array) -> tuple[Array, Array]:
    """Means (m,) of the fitted rows with design x (m, p) in place of theirs, and their slopes in eta."""
    rows = replace(encode(fit, None, "population"), x=x)
    return back_values(fit, rows, x @ fit.beta + rows.offset)
