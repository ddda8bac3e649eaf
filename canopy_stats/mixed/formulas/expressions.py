"""What one side of a formula means to formulaic: the columns it reads, how it reads them, and its matrix."""

from __future__ import annotations

import ast
import re
import warnings
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import formulaic
import numpy as np
import pandas as pd
from formulaic.errors import DataMismatchWarning, FormulaicError
from formulaic.transforms import TRANSFORMS
from scipy import special

from canopy_stats.mixed.formulas.frames import with_columns
from canopy_stats.mixed.formulas.levels import is_categorical, label, sorted_levels
from canopy_stats.mixed.formulas.scan import call, split_at
from canopy_stats.mixed.formulas.spline import ns
from canopy_stats.schema import UserError

Array = np.ndarray
_MARK = "column_in_backticks_"


def factor(values: Any, *more: Any, **options: Any) -> Any:
    """``factor(h)`` in a formula: every distinct value of h is a level, the first in sorted order the reference."""
    if more or options:
        raise UserError("factor() takes one column; give levels by pandas.Categorical, the reference by reference=.")
    column = pd.Series(values, name="factor()")
    if not isinstance(column.dtype, pd.CategoricalDtype):
        column = pd.Series(pd.Categorical(column.map(label), categories=list(sorted_levels(column))), column.index)
    return TRANSFORMS["C"](column)


def _listed(*values: Any) -> list[Any]:
    """R's ``c(...)``."""
    return list(values)


CONTEXT: dict[str, Any] = {
    "ns": ns, "np": np, "factor": factor, "c": _listed, "TRUE": True, "FALSE": False, "pi": np.pi, "sqrt": np.sqrt,
    "log1p": np.log1p, "expm1": np.expm1, "plogis": special.expit, "qlogis": special.logit,
}
"""What formulas may call besides formulaic's own transforms; the names are R's."""


@dataclass(frozen=True)
class Use:
    """One factor of a term: its expression, the data columns in it, and the column that it takes as a factor, if any.

    ``plain`` is true for a column's bare name.
    """

    expression: str
    columns: tuple[str, ...]
    as_factor: str | None
    plain: bool


@lru_cache(maxsize=512)
def uses(text: str) -> tuple[Use, ...]:
    """The factors of a right-hand side, in order of appearance. UserError where it cannot be read."""
    try:
        factors = [factor for term in formulaic.Formula(text) for factor in term.factors]
        return tuple(_use(factor.expr, factor.eval_method.name) for factor in factors)
    except (FormulaicError, SyntaxError) as error:
        raise UserError(f"Cannot read {text!r} in the formula: {plain_message(error)}") from error


def formula_variables(text: str) -> list[str]:
    """Names of the data columns in one right-hand side, in order of appearance."""
    return list(dict.fromkeys(name for use in uses(text) for name in use.columns))


def _use(expression: str, method: str) -> Use:
    if method == "LOOKUP":
        return Use(expression, (expression,), None, True)
    if method != "PYTHON":
        return Use(expression, (), None, False)
    inner = call(expression, "factor") or call(expression, "C")
    first = split_at(inner, ",")[0].strip("`") if inner else None
    columns = _python_columns(expression)
    return Use(expression, columns, first if first in columns else None, False)


def _python_columns(expression: str) -> tuple[str, ...]:
    """Names in Python code that are not called, and no module or constant of the context: ``log(scale)`` reads the
    column ``scale``."""
    quoted = list(dict.fromkeys(re.findall(r"`([^`]*)`", expression)))
    code = re.sub(r"`([^`]*)`", lambda found: f"{_MARK}{quoted.index(found.group(1))}", expression)
    nodes = list(ast.walk(ast.parse(code.strip(), mode="eval")))
    called = [node.func for node in nodes if isinstance(node, ast.Call)]
    names = [node.id for node in nodes if isinstance(node, ast.Name) and node not in called]
    known = {"contr", *(name for name, value in {**TRANSFORMS, **CONTEXT}.items() if not callable(value))}
    real = [quoted[int(n.removeprefix(_MARK))] if n.startswith(_MARK) else n for n in names if n not in known]
    return tuple(dict.fromkeys(real))


def factor_columns(text: str, data: pd.DataFrame) -> list[str]:
    """Columns that a right-hand side takes as factors: not numeric, or numeric and only ever inside factor() or C().

    What is not numeric but stands inside other code only, as in ``I(t.dt.year)``, is left to that code.
    """
    found = uses(text)
    names = dict.fromkeys(name for use in found for name in use.columns)
    always = {name for name in names if all(use.as_factor == name for use in found if name in use.columns)}
    named = {name for use in found if use.plain or use.as_factor for name in use.columns}
    return [name for name in names if name in always or (name in named and is_categorical(data[name]))]


def check_kinds(text: str, data: pd.DataFrame) -> None:
    """Refuse dates, and numbers stored as text, where a bare name would make each distinct value a level."""
    for name in dict.fromkeys(use.expression for use in uses(text) if use.plain):
        column = data[name]
        if _is_date(column):
            raise UserError(
                f"{name} holds dates or times, which would become a level each; make a number of it before the call,"
                f" as in ({name} - {name}.min()).dt.total_seconds() / 86400, or write factor({name})."
            )
        if _numbers_as_text(column):
            raise UserError(
                f"{name} holds numbers stored as text ({column.iloc[0]!r}, ...), which would become a level each;"
                f" convert it by pandas.to_numeric, or write factor({name}) if they are labels."
            )


DATES = ("date", "datetime", "datetime64", "time", "timedelta", "timedelta64", "period")


def _is_date(column: pd.Series) -> bool:
    return pd.api.types.infer_dtype(column, skipna=True) in DATES


def _numbers_as_text(column: pd.Series) -> bool:
    if isinstance(column.dtype, pd.CategoricalDtype) or not is_categorical(column) or len(column) == 0:
        return False
    if pd.api.types.is_bool_dtype(column) or not isinstance(column.iloc[0], str):
        return False
    return bool(pd.to_numeric(pd.Series(list(column.unique()), dtype=object), errors="coerce").notna().all())


def model_matrix(text: str, data: pd.DataFrame) -> Any:
    """formulaic's matrix of a right-hand side, its specification with it."""
    frame = numbers(data) if data.shape[1] else pd.DataFrame({"_": np.zeros(len(data))}, index=data.index)
    try:
        with np.errstate(invalid="ignore", divide="ignore"):
            return formulaic.Formula(text).get_model_matrix(frame, context=CONTEXT, output="numpy", na_action="ignore")
    except (FormulaicError, SyntaxError) as error:
        raise UserError(f"Cannot evaluate {text!r} on the data: {plain_message(error)}") from error


def encode(spec: formulaic.ModelSpec, data: pd.DataFrame) -> Array:
    """Matrix (m, p) of new data by what a specification has learnt."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", DataMismatchWarning)
            return np.asarray(spec.get_model_matrix(numbers(data), context=CONTEXT, na_action="ignore"), dtype=float)
    except (FormulaicError, DataMismatchWarning) as error:
        raise UserError(f"Cannot encode the new data: {plain_message(error)}") from error


def numbers(data: pd.DataFrame) -> pd.DataFrame:
    """Numeric columns as float64, as R computes: powers of whole numbers neither overflow nor round."""
    return with_columns(data, {
        name: data[name].to_numpy(dtype=float) for name in data.columns if not is_categorical(data[name])
    })


def values_of(expression: str, data: pd.DataFrame) -> Array:
    """Values (n,) of one numeric expression such as ``log(n)`` or ``trials - passed``; UserError if not finite."""
    name = expression.strip("`")
    if name in data.columns:
        return numbers(data[[name]])[name].to_numpy() if not is_categorical(data[name]) else _no_number(name)
    matrix = np.asarray(model_matrix(f"0 + I({expression})", data), dtype=float)
    if matrix.shape[1] != 1 or not np.all(np.isfinite(matrix)):
        raise UserError(f"{expression!r} is not one finite number a row; check the transformation and its argument.")
    return matrix[:, 0]


def expression_columns(expression: str) -> list[str]:
    """Data columns in one expression (a name, or Python code). A bare name is a column, also where a function or a
    constant has it."""
    if expression.strip().isidentifier():
        return [expression.strip()]
    try:
        return list(_python_columns(expression)) if not expression.startswith("`") else [expression.strip("`")]
    except SyntaxError as error:
        raise UserError(f"Cannot read {expression!r} in the formula: {plain_message(error)}") from error


def _no_number(name: str) -> Array:
    raise UserError(f"{name} is not numeric; convert it first, as by pandas.to_numeric.")


def plain_message(error: Exception) -> str:
    """An error's message as one line without colours."""
    text = re.sub(r"\x1b\[[0-9;]*m|[⧛⧚]", "", str(error))
    return " ".join(text.split())
