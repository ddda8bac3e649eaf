"""Levels of factors: which there are, in which order, under which text, and codes into them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from canopy_stats.schema import UserError

Array = np.ndarray
SHOWN = 12


def is_categorical(column: pd.Series) -> bool:
    """Text, categories and booleans are factors; numbers are not."""
    return bool(pd.api.types.is_bool_dtype(column)) or not pd.api.types.is_numeric_dtype(column)


def label(value: Any) -> str:
    """Text of a level; whole numbers are written without a decimal point."""
    return str(int(value)) if isinstance(value, float | np.floating) and float(value).is_integer() else str(value)


def sorted_levels(column: pd.Series) -> tuple[str, ...]:
    """Occurring levels as text: in categorical order, otherwise sorted (numbers by value, as R's ``factor()``)."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        values = column.cat.remove_unused_categories().cat.categories.tolist()
    else:
        values = column.unique().tolist()
    try:
        values = values if isinstance(column.dtype, pd.CategoricalDtype) else sorted(values)
    except TypeError as error:
        kinds = " and ".join(sorted({type(value).__name__ for value in values}))
        raise UserError(f"{column.name} mixes values of type {kinds}; make them all text or all numbers.") from error
    levels = tuple(label(value) for value in values)
    if len(set(levels)) < len(levels):
        twice = next(level for level in levels if levels.count(level) > 1)
        raise UserError(f"{column.name} has different values that read alike as text ({twice!r}); rename one of them.")
    return levels


def shown(levels: Sequence[str]) -> str:
    """Levels in words, the first dozen of many."""
    return ", ".join(levels) if len(levels) <= SHOWN else f"{', '.join(levels[:SHOWN])} and {len(levels) - SHOWN} more"


def nearest(name: str, known: Iterable[str]) -> str:
    """' Did you mean x?' or nothing."""
    names = list(known)
    folded = {other.casefold(): other for other in names}
    found = difflib.get_close_matches(name.casefold(), folded, 1)
    return f" Did you mean {folded[found[0]]}?" if found else ""


def check_reference(data: pd.DataFrame, reference: Mapping[str, Any]) -> dict[str, str]:
    """Reference levels as text; UserError for columns and levels that the data do not have."""
    if not isinstance(reference, Mapping):
        raise UserError("reference must be a mapping from columns to levels, as in {'variant': 'base'}.")
    for column, level in reference.items():
        if column not in data.columns:
            hint = nearest(str(column), map(str, data.columns)) or f" The columns are: {shown(list(data.columns))}."
            raise UserError(f"reference names the column {column}, which the data do not have.{hint}")
        known = sorted_levels(data[column].dropna())
        if label(level) not in known:
            raise UserError(
                f"The reference level {label(level)!r} does not occur in {column}; its levels are: {shown(known)}."
                + nearest(label(level), known)
            )
    return {column: label(level) for column, level in reference.items()}


def ordered_levels(data: pd.DataFrame, name: str, reference: Mapping[str, str]) -> tuple[str, ...]:
    """Levels of a factor, its reference first."""
    levels = sorted_levels(data[name])
    if len(levels) == 1:
        raise UserError(f"The factor {name} has one level only ({levels[0]}); drop it from the formula.")
    first = reference.get(name, levels[0])
    return (first, *(level for level in levels if level != first))


def with_levels(data: pd.DataFrame, levels: Mapping[str, tuple[str, ...]]) -> pd.DataFrame:
    """Copy with factor columns as categoricals of the learnt levels; an unknown level raises UserError."""
    columns: dict[str, Any] = {str(name): data[name] for name in data.columns}
    for name, known in levels.items():
        codes = level_codes(data[name], known)
        if codes.min(initial=0) < 0:
            new = sorted({label(value) for value in data[name][codes < 0].unique()})
            raise UserError(f"{name} has levels the fit has not seen: {shown(new)}. Known: {shown(known)}.")
        columns[name] = pd.Categorical.from_codes(codes, dtype=pd.CategoricalDtype(list(known)))
    return pd.DataFrame(columns, index=data.index)


def level_codes(column: pd.Series, levels: Sequence[str]) -> Array:
    """Position (n,) of each value of ``column`` in ``levels``, -1 where it is not among them."""
    codes, unique = pd.factorize(column)
    places = pd.Index(list(levels), dtype=object).get_indexer(pd.Index([label(u) for u in unique], dtype=object))
    found = np.asarray(places, dtype=np.intp)[codes]
    return np.where(codes < 0, -1, found) if np.any(codes < 0) else found
