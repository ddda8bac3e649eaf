"""The reference grid: every combination of the factors' levels, numbers at their means (emmeans' ``ref_grid``)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from canopy_stats.mixed.fit import Fit
from canopy_stats.mixed.formulas.expressions import expression_columns, formula_variables
from canopy_stats.mixed.formulas.fixed import FixedPart
from canopy_stats.mixed.formulas.levels import is_categorical, nearest, shown, sorted_levels
from canopy_stats.schema import UserError

Array = np.ndarray
LARGEST = 200_000


@dataclass(frozen=True)
class ReferenceGrid:
    """``frame`` (m rows) of all combinations, and the cells that are asked for.

    ``cells`` names each cell's levels of the wanted columns; ``weights`` (cells, m) average the grid over the others,
    every level with the same weight.
    """

    frame: pd.DataFrame
    cells: pd.DataFrame
    weights: Array


def reference_grid(fit: Fit, wanted: Sequence[str]) -> ReferenceGrid:
    """The grid of a fit, averaged to the cells of the ``wanted`` factors (all levels of each)."""
    data, parts = fit.design.data, fixed_parts(fit)
    used = [name for name in data.columns if name in predictors(fit)]
    factors = {name: levels for name in used if (levels := grid_levels(data[name], name, parts)) is not None}
    for name in wanted:
        if name not in factors:
            hint = nearest(name, factors) or f" Its factors are: {shown(list(factors)) or 'none'}."
            raise UserError(f"{name} is not a factor of the model; means are by factors.{hint}")
    size = int(np.prod([len(levels) for levels in factors.values()], dtype=float))
    if size > LARGEST:
        raise UserError(f"The grid of all levels of {shown(list(factors))} has {size} rows; leave a factor out.")
    frame = crossed(factors)
    for name in used:
        if name not in factors:
            frame[name] = data[name].mean()
    return _averaged(frame, wanted, factors)


def fixed_parts(fit: Fit) -> list[FixedPart]:
    """All parts of a fit that have columns: mean, dispersion, zeros, random terms."""
    frame, random = fit.frame, [part for factor in fit.design.factors for part in factor.parts]
    found = [fit.design.fixed, frame.dispersion, frame.zero_inflation, *random]
    return [part for part in found if part is not None]


def predictors(fit: Fit) -> set[str]:
    """Columns that enter a predictor, not merely a grouping or the response."""
    names = {name for part in fixed_parts(fit) for name in formula_variables(part.formula)}
    names |= {name for text in fit.design.offsets for name in expression_columns(text)}
    return names | ({fit.frame.offset_name} if fit.frame.offset_name else set())


def grid_levels(column: pd.Series, name: str, parts: Sequence[FixedPart]) -> list[Any] | None:
    """Levels of a factor, the two values of a binary number (as emmeans has it), None for other numbers."""
    for part in parts:
        if name in part.levels:
            return list(part.levels[name])
    if pd.api.types.is_datetime64_any_dtype(column):
        return None
    if is_categorical(column):
        return list(sorted_levels(column))
    values = np.unique(column.to_numpy(dtype=float))
    return values.tolist() if len(values) == 2 else None


def crossed(factors: dict[str, list[Any]]) -> pd.DataFrame:
    """All combinations, the first factor varying fastest."""
    if not factors:
        return pd.DataFrame(index=range(1))
    index = pd.MultiIndex.from_product([factors[name] for name in reversed(factors)], names=list(reversed(factors)))
    return index.to_frame(index=False)[list(factors)]


def _averaged(frame: pd.DataFrame, wanted: Sequence[str], factors: dict[str, list[Any]]) -> ReferenceGrid:
    cells = crossed({name: factors[name] for name in wanted})
    if not len(wanted):
        return ReferenceGrid(frame, cells, np.full((1, len(frame)), 1 / len(frame)))
    places = {name: {level: i for i, level in enumerate(levels)} for name, levels in factors.items()}
    code = np.zeros(len(frame), dtype=np.intp)
    for name in reversed(wanted):
        code = code * len(factors[name]) + frame[name].map(places[name]).to_numpy()
    weights = (code == np.arange(len(cells))[:, None]).astype(float)
    return ReferenceGrid(frame, cells, weights / weights.sum(axis=1, keepdims=True))
