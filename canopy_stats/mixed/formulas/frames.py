"""Tables of any kind in: pandas, polars, pyarrow or a dict of columns, and vectors that go with their rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import narwhals.stable.v2 as nw
import numpy as np
import pandas as pd

from canopy_stats.mixed.formulas import checks
from canopy_stats.schema import UserError

Array = np.ndarray


def as_pandas(data: Any, formula: object = "") -> pd.DataFrame:
    """``data`` as a DataFrame with text as column names: pandas, polars, pyarrow (by narwhals), a dict of columns.

    Raises UserError for anything else; ``formula``, the argument before it, is looked at for swapped arguments.
    """
    if isinstance(data, str) and not isinstance(formula, str):
        raise UserError("The arguments are swapped: the formula comes first, then the data, as in lmm('y ~ x', data).")
    frame = data if isinstance(data, pd.DataFrame) else _converted(data)
    names = [str(name) for name in frame.columns]
    twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if twice:
        raise UserError(f"The data have several columns called {', '.join(twice)}; rename or drop all but one.")
    return frame if names == list(frame.columns) else frame.set_axis(names, axis=1)


def is_table(data: Any) -> bool:
    """Whether :func:`as_pandas` takes it as a table: a frame of any library, or a mapping."""
    return isinstance(data, pd.DataFrame | Mapping) or isinstance(
        nw.from_native(data, pass_through=True), nw.DataFrame | nw.LazyFrame)


def _converted(data: Any) -> pd.DataFrame:
    if isinstance(data, Mapping):
        return _from_columns(data)
    native = nw.from_native(data, pass_through=True)
    if isinstance(native, nw.LazyFrame):
        native = native.collect()
    if not isinstance(native, nw.DataFrame):
        raise UserError(
            f"The data are a {type(data).__name__}; pass a pandas, polars or pyarrow table, or a dict of columns."
        )
    return native.to_pandas()


def _from_columns(data: Mapping[Any, Any]) -> pd.DataFrame:
    try:
        return pd.DataFrame(dict(data))
    except ValueError as error:
        raise UserError("The columns of the dict must be lists or arrays of one length.") from error


def row_vector(value: Any, data: pd.DataFrame, name: str, *, positive: bool = False) -> Array | None:
    """Weights or an offset as an array (n,): a column's name, a Series aligned by its index, or values in row order.

    Raises UserError where the length, the index or a value does not fit.
    """
    if value is None:
        return None
    if isinstance(value, str):
        value = checks.used_columns(data, [value], name)[value]
    elif isinstance(value, pd.Series):
        value = aligned(value, data, name)
    kind = "positive numbers" if positive else "finite numbers"
    try:
        array = np.asarray(value, dtype=float)
    except (TypeError, ValueError) as error:
        raise UserError(f"{name} must be {len(data)} {kind} or the name of a column.") from error
    if array.shape != (len(data),) or not np.all(np.isfinite(array)) or (positive and np.any(array <= 0)):
        raise UserError(f"{name} must be {len(data)} {kind}, one for each row of the data.")
    return array


def aligned(series: pd.Series, data: pd.DataFrame, name: str) -> pd.Series:
    """The Series in the order of the rows; UserError where its index is another one."""
    if series.index.equals(data.index):
        return series
    if not (series.index.is_unique and data.index.is_unique) or not data.index.isin(series.index).all():
        raise UserError(
            f"The index of {name} is not the index of the data ({len(series)} and {len(data)} rows), so it is unclear"
            f" which value belongs to which row; pass {name}.to_numpy() if they are in the order of the rows."
        )
    return series.reindex(data.index)


def with_columns(data: pd.DataFrame, columns: Mapping[str, Any]) -> pd.DataFrame:
    """The table with some columns replaced or added, whatever they are called: ``assign`` knows no column ``self``."""
    frame = data.copy(deep=False)
    for name, values in columns.items():
        frame[name] = values
    return frame
