"""Formulas and data to designs; what is learnt (levels, knots, scales) stays with the design and encodes new data."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from canopy_stats.mixed.formulas import checks
from canopy_stats.mixed.formulas.expressions import expression_columns, formula_variables, values_of
from canopy_stats.mixed.formulas.fixed import FixedPart, fixed_part
from canopy_stats.mixed.formulas.frames import as_pandas
from canopy_stats.mixed.formulas.grouping import Factor, grouping_factors
from canopy_stats.mixed.formulas.levels import check_reference, is_categorical, level_codes, sorted_levels
from canopy_stats.mixed.formulas.parse import Parsed, parse, split_terms
from canopy_stats.mixed.formulas.scan import dots, with_dots
from canopy_stats.schema import UserError

Array = np.ndarray

@dataclass(frozen=True)
class Design:
    """Response y (n,), fixed part and grouping factors of one formula, and the data columns they were made of.

    ``trials`` (n,) are successes and failures together where the response is ``cbind(successes, failures)`` (y holds
    the successes), otherwise None. ``categories`` are the levels of an ordered response, whose codes 1, 2, ... are y;
    empty for numbers. ``offset`` (n,) is the sum of the formula's ``offset()`` terms, None without any.
    """

    formula: str
    response: str
    y: Array
    fixed: FixedPart
    factors: tuple[Factor, ...]
    data: pd.DataFrame
    reference: Mapping[str, str]
    trials: Array | None = None
    categories: tuple[str, ...] = ()
    offsets: tuple[str, ...] = ()
    offset: Array | None = None

    @property
    def n_theta(self) -> int:
        return 1 + max((int(f.pattern.max()) for f in self.factors), default=-1)


def build_design(formula: str, data: Any, *, reference: Mapping[str, Any] | None = None,
                 other_columns: Sequence[str] = (), row_levels: bool = False) -> Design:
    """Matrices of an lme4 formula.

    ``data`` is a pandas, polars or pyarrow table or a dict of columns. ``reference`` maps a column to its reference
    level; otherwise categories keep their order and text is sorted, as in R's ``factor()``. ``other_columns`` are those
    that other formulas of the model use: ``.`` leaves them out, and reference levels may be theirs. ``row_levels``
    allows a grouping variable with one level a row, for responses that have no residual of their own. Raises UserError
    for what cannot be read, unknown names, missing or infinite values and factors with one level. Terms in brackets
    after a name, such as ``log(x)``, are evaluated as Python code: a formula from a stranger is code.
    """
    table = as_pandas(data, formula)
    parsed, text = expand_dot(parse(formula), formula, table, other_columns)
    if set(parsed.response) & {term for _, term in split_terms(parsed.fixed)}:
        raise UserError(f"The response of {formula!r} is also a predictor; drop it from the right-hand side.")
    frame = checks.used_columns(table, variables(parsed))
    levels = check_reference(table, reference or {})
    fixed = fixed_part(parsed.fixed, frame, levels)
    factors = grouping_factors(parsed.random, frame, levels, row_levels=row_levels)
    _check_reference_use(levels, frame, [fixed, *(part for f in factors for part in f.parts)], other_columns)
    design = Design(text, _response_name(parsed), np.empty(0), fixed, factors, frame, levels, offsets=parsed.offsets,
                    offset=offset_values(parsed.offsets, frame))
    return _with_response(design, parsed)


def variables(parsed: Parsed) -> list[str]:
    """Names of the data columns a formula uses, the response's first."""
    names = [name for text in parsed.response for name in expression_columns(text)]
    names += [name for text in (parsed.fixed, *(term.columns for term in parsed.random))
              for name in formula_variables(text)]
    names += [name for text in parsed.offsets for name in expression_columns(text)]
    return list(dict.fromkeys([*names, *(name for term in parsed.random for name in term.groups)]))


def expand_dot(
    parsed: Parsed, formula: str, data: pd.DataFrame, other_columns: Sequence[str]
) -> tuple[Parsed, str]:
    """``.`` in the fixed part: every column that the rest of the formula does not use. Formula and text."""
    if not dots(parsed.fixed):
        return parsed, formula
    rest = replace(parsed, fixed=with_dots(parsed.fixed, "__dot__"))
    left = [str(name) for name in data.columns if name not in (*variables(rest), *other_columns)]
    if not left:
        raise UserError("'.' stands for all other columns, but the data have none that the formula does not use.")
    written = " + ".join(name if re.fullmatch(r"[^\W\d]\w*", name) else f"`{name}`" for name in left)
    return replace(parsed, fixed=with_dots(parsed.fixed, f"({written})")), with_dots(formula, f"({written})")


def _check_reference_use(
    levels: Mapping[str, str], frame: pd.DataFrame, parts: Sequence[FixedPart], other_columns: Sequence[str]
) -> None:
    """Refuse a reference level for a column that is a number here, or that nothing uses."""
    for column in levels:
        if any(column in part.levels for part in parts) or column in other_columns:
            continue
        if column not in frame.columns:
            raise UserError(f"reference names the column {column}, which the formula does not use; leave it out.")
        if not is_categorical(frame[column]):
            raise UserError(f"reference names {column}, which enters as a number; write factor({column}) instead.")


def _response_name(parsed: Parsed) -> str:
    return parsed.response[0] if len(parsed.response) == 1 else f"cbind({', '.join(parsed.response)})"


def _with_response(design: Design, parsed: Parsed) -> Design:
    """The design with y, and trials or categories where the response has them."""
    text, frame = parsed.response[0].strip("`"), design.data
    if len(parsed.response) == 2:
        successes, failures = (_counts(part, frame) for part in parsed.response)
        return replace(design, y=successes, trials=_trials(successes + failures, design))
    if text in frame.columns and isinstance(frame[text].dtype, pd.CategoricalDtype) and frame[text].cat.ordered:
        categories = sorted_levels(frame[text])
        return replace(design, y=1.0 + level_codes(frame[text], categories), categories=categories)
    return replace(design, y=response_values(text, frame))


def response_values(text: str, data: pd.DataFrame) -> Array:
    """Response (n,) from a column name or an expression such as ``log(y)``."""
    if text not in data.columns:
        return values_of(text, data)
    column = data[text]
    if not pd.api.types.is_numeric_dtype(column):
        raise UserError(f"The response {text} is not numeric; convert it first (for ordered categories to an ordered"
                        " pandas.Categorical, for yes and no to 1 and 0).")
    return column.to_numpy(dtype=float, copy=True)


def _counts(text: str, data: pd.DataFrame) -> Array:
    """Successes or failures (n,): whole numbers of at least zero."""
    values = values_of(text, data)
    bad = (values < 0) | (values != np.round(values))
    if bad.any():
        raise UserError(f"{text} in cbind() is no whole number of at least 0 in {checks.name_rows(data, bad)}.")
    return values


def _trials(trials: Array, design: Design) -> Array:
    if np.any(trials == 0):
        raise UserError(f"{design.response} has no trials in {checks.name_rows(design.data, trials == 0)}; drop these.")
    return trials


def offset_values(offsets: Sequence[str], data: pd.DataFrame) -> Array | None:
    """Sum (n,) of the ``offset()`` terms of a formula on any rows; None without any."""
    if not offsets:
        return None
    frame = checks.used_columns(data, [name for text in offsets for name in expression_columns(text)])
    total: Array = np.sum([values_of(text, frame) for text in offsets], axis=0)
    return total
