"""Checks of the data behind a formula; each failure says which rows or names and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from canopy_stats.schema import UserError

SHOWN = 5


def name_rows(data: pd.DataFrame, bad: np.ndarray) -> str:
    """'rows 3, 8 and 12' or 'rows 3, 8, 9, 10, 11 and 40 more' from a mask (n,) over the rows of ``data``."""
    labels = [str(label) for label in data.index[bad]]
    word = "row " if len(labels) == 1 else "rows "
    if len(labels) > SHOWN:
        return word + ", ".join(labels[:SHOWN]) + f" and {len(labels) - SHOWN} more"
    return word + " and ".join(filter(None, [", ".join(labels[:-1]), labels[-1]]))


def used_columns(data: pd.DataFrame, names: Iterable[str], what: str = "The formula") -> pd.DataFrame:
    """The named columns of ``data``, complete and finite; else UserError naming what is unknown or missing.

    ``what`` uses the columns, for messages.
    """
    wanted = list(dict.fromkeys(names))
    unknown = [name for name in wanted if name not in data.columns]
    if unknown:
        raise UserError(_unknown(unknown, [str(column) for column in data.columns], what))
    if len(data) == 0:
        raise UserError("The data have no rows.")
    for name in wanted:
        _check_values(data[name])
    frame = data[wanted].copy(deep=False)
    for name in wanted:
        frame[name] = _as_numbers(frame[name])
    _check_complete(frame)
    return frame


def _as_numbers(column: pd.Series) -> pd.Series:
    """Python's numbers kept as objects (decimals, columns that once held text) as numbers; anything else as it is."""
    kind = pd.api.types.infer_dtype(column, skipna=True) if column.dtype == object else ""
    if kind == "integer" and column.notna().all():
        return pd.to_numeric(column)
    return column.astype(float) if kind in ("integer", "floating", "mixed-integer-float", "decimal") else column


def _check_values(column: pd.Series) -> None:
    """Refuse what is neither a number nor a level."""
    if pd.api.types.is_complex_dtype(column):
        raise UserError(f"{column.name} holds complex numbers; take a real part of them first.")
    if column.dtype == object and pd.api.types.infer_dtype(column) == "mixed":
        strange = next((value for value in column if getattr(value, "__hash__", None) is None), None)
        if strange is not None:
            raise UserError(f"{column.name} holds values of type {type(strange).__name__}; one number or one text a"
                            " row is needed.")


def _unknown(unknown: Sequence[str], columns: Sequence[str], what: str) -> str:
    hints = [match for name in unknown for match in difflib.get_close_matches(name, columns, 1)]
    hint = f" Did you mean {', '.join(hints)}?" if hints else f" The columns are: {', '.join(columns)}."
    return f"{what} uses {', '.join(unknown)}, which the data do not have." + hint


def _check_complete(data: pd.DataFrame) -> None:
    """Refuse missing and infinite values, all columns in one message: rows are never dropped unasked."""
    found, complete = [], np.ones(len(data), dtype=bool)
    for name in data.columns:
        for kind, bad in (("missing (NaN)", data[name].isna().to_numpy()), ("infinite", _infinite(data[name]))):
            if bad.any():
                found.append(f"{name} is {kind} in {name_rows(data, bad)}")
                complete &= ~bad
    if found:
        lost = int(np.sum(~complete))
        raise UserError(f"{'; '.join(found)}. Mend or drop these rows first ({lost} of {len(data)}).")


def _infinite(column: pd.Series) -> np.ndarray:
    if not pd.api.types.is_numeric_dtype(column) or pd.api.types.is_bool_dtype(column):
        return np.zeros(len(column), dtype=bool)
    infinite: np.ndarray = np.isinf(column.to_numpy(dtype=float, na_value=np.nan))
    return infinite


def check_response(y: np.ndarray, name: str) -> None:
    """Refuse a response (n,) that does not vary."""
    if np.ptp(y) == 0:
        raise UserError(f"The response {name} is constant ({y[0]:g}); there is nothing to model.")


def check_rows(rows: int, parameters: int) -> None:
    """Refuse fewer rows than parameters."""
    if rows <= parameters:
        raise UserError(
            f"The data have {rows} rows, too few for the {parameters} parameters of this formula. Simplify it."
        )


def independent_columns(matrix: np.ndarray, tolerance: float = 1e-7) -> np.ndarray:
    """Mask (p,) of the columns of ``matrix`` (n, p) that are no combination of columns before them (as R's ``lm``)."""
    keep = np.ones(matrix.shape[1], dtype=bool)
    if matrix.shape[1] == 0 or _clearly_full_rank(matrix):
        return keep
    norms = np.linalg.norm(matrix, axis=0)
    keep &= norms > 0
    scaled = matrix / np.where(norms > 0, norms, 1.0)
    while keep.any():
        pivots = np.abs(np.diag(np.linalg.qr(scaled[:, keep], mode="r")))
        pivots = np.append(pivots, np.zeros(keep.sum() - len(pivots)))
        if np.all(pivots > tolerance):
            break
        keep[np.flatnonzero(keep)[np.argmax(pivots <= tolerance)]] = False
    return keep


def _clearly_full_rank(matrix: np.ndarray) -> bool:
    gram = matrix.T @ matrix
    scale = np.sqrt(np.diag(gram))
    if len(matrix) < matrix.shape[1] or np.any(scale == 0):
        return False
    return bool(np.linalg.eigvalsh(gram / np.outer(scale, scale))[0] > 1e-8)
