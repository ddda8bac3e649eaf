"""Formulas and data to matrices; what is learnt (levels, knots, scales) stays with the design and encodes new data."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import formulaic
import numpy as np
import pandas as pd
from formulaic.errors import FormulaicError

from canopy_stats.mixed import checks
from canopy_stats.mixed.parse import Parsed, RandomTerm, parse
from canopy_stats.mixed.spline import ns
from canopy_stats.schema import UserError

Array = np.ndarray
CONTEXT: dict[str, Any] = {"ns": ns, "np": np}


class AliasedWarning(UserWarning):
    """Some columns of a design are combinations of others; their coefficients are NaN."""


@dataclass(frozen=True)
class FixedPart:
    """One linear predictor: matrix (n, p) of the independent columns, their names, and how to encode new data.

    ``all_names`` also holds the aliased columns, in the order of the formula; ``keep`` marks the independent ones.
    """

    formula: str
    matrix: Array
    names: tuple[str, ...]
    all_names: tuple[str, ...]
    keep: Array
    levels: Mapping[str, tuple[str, ...]]
    spec: formulaic.ModelSpec | None

    @property
    def aliased(self) -> tuple[str, ...]:
        return tuple(name for name, kept in zip(self.all_names, self.keep, strict=True) if not kept)


@dataclass(frozen=True)
class Factor:
    """A grouping factor: codes (n,) into ``levels``, columns (n, q) whose coefficients vary, and their covariance.

    ``blocks`` lists the positions of columns correlated with one another. ``pattern`` (q, q) holds, for each entry of
    the lower-triangular relative covariance factor, its place in theta, or -1 where the entry is zero.
    """

    name: str
    groups: tuple[str, ...]
    levels: tuple[str, ...]
    codes: Array
    columns: Array
    terms: tuple[str, ...]
    blocks: tuple[tuple[int, ...], ...]
    pattern: Array
    parts: tuple[FixedPart, ...]


@dataclass(frozen=True)
class Design:
    """Response y (n,), fixed part and grouping factors of one formula, and the data columns they were made of."""

    formula: str
    response: str
    y: Array
    fixed: FixedPart
    factors: tuple[Factor, ...]
    data: pd.DataFrame
    reference: Mapping[str, str]

    @property
    def n_theta(self) -> int:
        return 1 + max((int(f.pattern.max()) for f in self.factors), default=-1)


def build_design(formula: str, data: pd.DataFrame, *, reference: Mapping[str, str] | None = None) -> Design:
    """Matrices of an lme4 formula.

    ``reference`` maps a column to its reference level; otherwise categories keep their order and text is sorted, as in
    R's ``factor()``. Raises UserError for unknown names, missing or infinite values and factors with one level.
    """
    parsed = parse(formula)
    reference = dict(reference or {})
    frame = checks.used_columns(data, variables(parsed))
    check_reference(frame, reference)
    y = response_values(parsed.response, frame)
    fixed = fixed_part(parsed.fixed, frame, reference)
    factors = grouping_factors(parsed.random, frame, reference)
    return Design(formula, parsed.response, y, fixed, factors, frame, reference)


def variables(parsed: Parsed) -> list[str]:
    """Names of the data columns a formula uses, the response's first."""
    texts = [parsed.response, parsed.fixed, *(term.columns for term in parsed.random)]
    names = [name for text in texts for name in formula_variables(text)]
    return list(dict.fromkeys([*names, *(name for term in parsed.random for name in term.groups)]))


def formula_variables(text: str) -> list[str]:
    """Names of the data columns in one right-hand side, in order of appearance."""
    try:
        factors = [factor for term in formulaic.Formula(text) for factor in term.factors]
        names = [name for factor in factors for name in _factor_variables(factor.expr, factor.eval_method.name)]
    except (FormulaicError, SyntaxError) as error:
        raise UserError(f"Cannot read {text!r} in the formula: {error}") from error
    return list(dict.fromkeys(names))


def _factor_variables(expression: str, method: str) -> list[str]:
    """Data columns of one factor: the name itself, or the names in Python code that are no function or module."""
    if method != "PYTHON":
        return [expression] if method == "LOOKUP" else []
    nodes = list(ast.walk(ast.parse(expression, mode="eval")))
    roots = [node.func for node in nodes if isinstance(node, ast.Call)]
    roots += [node.value for node in nodes if isinstance(node, ast.Attribute)]
    return [node.id for node in nodes if isinstance(node, ast.Name) and node not in roots]


def check_reference(data: pd.DataFrame, reference: Mapping[str, str]) -> None:
    """Refuse reference levels that the data do not have."""
    for column, level in reference.items():
        if column in data.columns and level not in sorted_levels(data[column]):
            found = ", ".join(sorted_levels(data[column]))
            raise UserError(f"The reference level {level!r} does not occur in {column}; its levels are: {found}.")


def response_values(text: str, data: pd.DataFrame) -> Array:
    """Response (n,) from a column name or an expression such as ``log(y)``."""
    if text in data.columns:
        column = data[text]
        if not pd.api.types.is_numeric_dtype(column):
            raise UserError(f"The response {text} is not numeric; convert it first.")
        return column.to_numpy(dtype=float, copy=True)
    values = _model_matrix(f"0 + {text}", data)
    if values.shape[1] != 1 or not np.all(np.isfinite(values)):
        raise UserError(f"The response {text!r} is not one finite number a row.")
    return np.asarray(values, dtype=float)[:, 0]


def fixed_part(text: str, data: pd.DataFrame, reference: Mapping[str, str], *, warn: bool = True) -> FixedPart:
    """Learn the encoding of one right-hand side from ``data`` (n rows) and apply it."""
    if text.strip() == "1":
        return _constant(text, len(data))
    names = formula_variables(text)
    levels = {name: _levels_of(data, name, reference) for name in names if is_categorical(data[name])}
    matrix = _model_matrix(text, with_levels(data[names], levels))
    values = np.asarray(matrix, dtype=float)
    _check_columns(values, matrix.model_spec.column_names)
    keep = checks.independent_columns(values)
    all_names = tuple(str(name) for name in matrix.model_spec.column_names)
    kept = tuple(name for name, used in zip(all_names, keep, strict=True) if used)
    part = FixedPart(text, np.ascontiguousarray(values[:, keep]), kept, all_names, keep, levels, matrix.model_spec)
    if part.aliased and warn:
        warnings.warn(AliasedWarning(_aliased_message(part)), stacklevel=2)
    return part


def _constant(text: str, rows: int) -> FixedPart:
    """The intercept alone, without asking formulaic."""
    names = ("Intercept",)
    return FixedPart(text, np.ones((rows, 1)), names, names, np.ones(1, dtype=bool), {}, None)


def encode_fixed(part: FixedPart, data: pd.DataFrame) -> Array:
    """Matrix (m, p) of new data in the encoding learnt at the fit. Unknown levels raise UserError."""
    if part.spec is None:
        return np.ones((len(data), 1))
    names = formula_variables(part.formula)
    frame = with_levels(checks.used_columns(data, names), part.levels) if names else data[[]]
    values = np.asarray(part.spec.get_model_matrix(frame, context=CONTEXT, na_action="ignore"), dtype=float)
    if not names and len(values) != len(data):
        values = np.repeat(values[:1], len(data), axis=0) if len(values) else np.ones((len(data), len(part.all_names)))
    return np.ascontiguousarray(values[:, part.keep])


def _model_matrix(text: str, data: pd.DataFrame) -> Any:
    frame = data if data.shape[1] else pd.DataFrame({"_": np.zeros(len(data))}, index=data.index)
    try:
        with np.errstate(invalid="ignore", divide="ignore"):
            return formulaic.Formula(text).get_model_matrix(frame, context=CONTEXT, output="numpy", na_action="ignore")
    except FormulaicError as error:
        raise UserError(f"Cannot evaluate {text!r} on the data: {error}") from error


def _check_columns(values: Array, names: Sequence[Any]) -> None:
    bad = [str(name) for name, ok in zip(names, np.isfinite(values).all(axis=0), strict=True) if not ok]
    if bad:
        raise UserError(f"{', '.join(bad)} is not finite in every row; check the transformation and its argument.")


def _aliased_message(part: FixedPart) -> str:
    return (
        f"In '~ {part.formula}' these columns are combinations of earlier ones and get NaN: {', '.join(part.aliased)}."
        " Drop the terms or merge levels to be rid of this warning."
    )


def is_categorical(column: pd.Series) -> bool:
    """Text, categories and booleans are factors; numbers are not."""
    return bool(pd.api.types.is_bool_dtype(column)) or not pd.api.types.is_numeric_dtype(column)


def sorted_levels(column: pd.Series) -> tuple[str, ...]:
    """Occurring levels as text: in categorical order, otherwise sorted."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        used = column.cat.remove_unused_categories().cat.categories
        return tuple(label(value) for value in used)
    return tuple(label(value) for value in sorted(column.unique().tolist()))


def label(value: Any) -> str:
    """Text of a level; whole numbers are written without a decimal point."""
    return str(int(value)) if isinstance(value, float | np.floating) and float(value).is_integer() else str(value)


def _levels_of(data: pd.DataFrame, name: str, reference: Mapping[str, str]) -> tuple[str, ...]:
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
        if np.any(codes < 0):
            new = sorted({label(value) for value in data[name][codes < 0].unique()})
            raise UserError(f"{name} has levels the fit has not seen: {', '.join(new)}. Known: {', '.join(known)}.")
        columns[name] = pd.Categorical.from_codes(codes.tolist(), dtype=pd.CategoricalDtype(list(known)))
    return pd.DataFrame(columns, index=data.index)


def level_codes(column: pd.Series, levels: Sequence[str]) -> Array:
    """Position (n,) of each value of ``column`` in ``levels``, -1 where it is not among them."""
    codes, unique = pd.factorize(column)
    places = pd.Index(list(levels), dtype=object).get_indexer(pd.Index([label(u) for u in unique], dtype=object))
    return np.asarray(places, dtype=np.intp)[codes]


def grouping_factors(
    terms: Sequence[RandomTerm], data: pd.DataFrame, reference: Mapping[str, str]
) -> tuple[Factor, ...]:
    """One Factor per grouping, its random terms side by side, theta numbered through (rows of each block in turn)."""
    grouped: dict[str, list[RandomTerm]] = {}
    for term in terms:
        grouped.setdefault(":".join(term.groups), []).append(term)
    factors, start = [], 0
    for members in grouped.values():
        factor = _factor(members, data, reference, start)
        start = max(start, int(factor.pattern.max()) + 1)
        factors.append(factor)
    return tuple(factors)


def _factor(terms: list[RandomTerm], data: pd.DataFrame, reference: Mapping[str, str], start: int) -> Factor:
    groups = terms[0].groups
    codes, levels = group_codes(data, groups)
    name = ":".join(groups)
    _check_levels(name, len(levels), len(data))
    parts = tuple(fixed_part(term.columns, data, reference) for term in terms)
    names = tuple(column for part in parts for column in part.names)
    if len(set(names)) < len(names):
        raise UserError(f"{name} has the same random column twice ({', '.join(names)}); write each one once.")
    blocks = _blocks(terms, parts)
    pattern = theta_pattern(blocks, len(names), start)
    return Factor(
        name, groups, levels, codes, np.hstack([p.matrix for p in parts]), names, blocks, pattern, parts
    )


def _check_levels(name: str, levels: int, rows: int) -> None:
    if levels < 2:
        raise UserError(f"The grouping variable {name} has one level only; drop its random term.")
    if levels >= rows:
        raise UserError(
            f"The grouping variable {name} has as many levels as there are rows ({rows}), so its effects cannot be told"
            " from the residuals. Group by something that repeats, or drop the random term."
        )


def _blocks(terms: list[RandomTerm], parts: Sequence[FixedPart]) -> tuple[tuple[int, ...], ...]:
    blocks: list[tuple[int, ...]] = []
    start = 0
    for term, part in zip(terms, parts, strict=True):
        columns = tuple(range(start, start + len(part.names)))
        blocks += [columns] if term.correlated else [(column,) for column in columns]
        start += len(part.names)
    return tuple(blocks)


def theta_pattern(blocks: Sequence[Sequence[int]], size: int, start: int) -> Array:
    """Places in theta (size, size) of the lower triangles of the blocks, numbered row by row from ``start``."""
    pattern = np.full((size, size), -1)
    for block in blocks:
        for i, row in enumerate(block):
            for column in block[: i + 1]:
                pattern[row, column] = start
                start += 1
    return pattern


def group_codes(data: pd.DataFrame, groups: Sequence[str]) -> tuple[Array, tuple[str, ...]]:
    """Codes (n,) and occurring levels of one grouping variable, or of the interaction of several (``a:b``)."""
    found = [_codes(data[name]) for name in groups]
    if len(found) == 1:
        return found[0]
    codes = np.zeros(len(data), dtype=np.intp)
    for part, known in found:
        codes = codes * len(known) + part
    used, codes = np.unique(codes, return_inverse=True)
    return codes.astype(np.intp), tuple(_level_name(code, [known for _, known in found]) for code in used)


def _codes(column: pd.Series) -> tuple[Array, tuple[str, ...]]:
    """Codes (n,) and levels of one column, in categorical or sorted order."""
    levels = sorted_levels(column)
    return level_codes(column, levels), levels


def _level_name(code: int, levels: Sequence[tuple[str, ...]]) -> str:
    names = []
    for known in reversed(levels):
        code, place = divmod(int(code), len(known))
        names.append(known[place])
    return ":".join(reversed(names))


def encode_groups(factor: Factor, data: pd.DataFrame) -> tuple[Array, Array]:
    """Codes (m,) of new data, -1 for levels the fit has not seen, and random-effect columns (m, q)."""
    frame = checks.used_columns(data, factor.groups)
    names = [frame[g].map(label) for g in factor.groups]
    joined = names[0]
    for more in names[1:]:
        joined = joined.str.cat(more, sep=":")
    columns = np.hstack([encode_fixed(part, data) for part in factor.parts])
    return level_codes(joined, factor.levels), columns
