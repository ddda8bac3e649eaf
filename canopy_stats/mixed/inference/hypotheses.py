"""Linear hypotheses about coefficients, written with their names."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from types import CodeType

import numpy as np
import pandas as pd

from canopy_stats.mixed.effects.contrasts import of_coefficients, wald_table
from canopy_stats.mixed.fit import Fit
from canopy_stats.mixed.formulas.levels import nearest, shown
from canopy_stats.mixed.formulas.scan import split_at
from canopy_stats.mixed.inference.wald import joint_test
from canopy_stats.schema import UserError

Array = np.ndarray
ARITHMETIC = (ast.Expression, ast.BinOp, ast.UnaryOp, ast.Add, ast.Sub, ast.Mult, ast.Div, ast.USub, ast.UAdd,
              ast.Name, ast.Load, ast.Constant)


def hypothesis(fit: Fit, hypotheses: str | Sequence[str]) -> pd.DataFrame:
    """Wald tests of linear hypotheses about the coefficients of the mean.

    ``hypotheses`` is one equation or several (a list, or joined by commas), as in ``"x = 0.5"``, ``"f[T.b] = f[T.c]"``,
    ``"2*x - x:f[T.b]"`` (= 0 is meant); names are those of ``fit.params``, in backticks if you like. One row an
    equation: hypothesis, estimate (left minus right), std_error, num_df, df, statistic (t or z), p_value, conf_low,
    conf_high. For several a last row 'joint' tests all at once (F, or chi-square where df is infinite).
    """
    texts = [hypotheses] if isinstance(hypotheses, str) else list(hypotheses)
    parsed = [_parsed(fit, text) for text in texts]
    contrasts = np.vstack([rows for rows, _ in parsed])
    values = np.concatenate([right for _, right in parsed])
    names = [name for text, (rows, _) in zip(texts, parsed, strict=True) for name in _names(text, len(rows))]
    everything = np.ones(len(values), dtype=bool)
    table = wald_table(of_coefficients(fit, contrasts @ fit.beta - values, contrasts, lambda rows: everything))
    table.insert(0, "hypothesis", names)
    table.insert(3, "num_df", 1)
    if len(names) == 1:
        return table
    joint = joint_test(fit, contrasts, values)
    last = {"hypothesis": "joint", "num_df": joint.num_df, "df": joint.den_df, "statistic": joint.statistic,
            "p_value": joint.p_value}
    return pd.concat([table, pd.DataFrame([last])], ignore_index=True)


def _names(text: str, rows: int) -> list[str]:
    return [part.strip() for part in split_at(text, ",")] if rows > 1 else [text.strip()]


def _parsed(fit: Fit, text: str) -> tuple[Array, Array]:
    """Contrasts (k, p) of the independent coefficients and right-hand sides (k,) of one text."""
    fixed = fit.design.fixed
    coded = split_at(_in_codes(text, fixed.all_names), ",")
    equations = [_linear(text, part, fixed.all_names) for part in coded]
    matrix, constants = (np.stack(parts) for parts in zip(*equations, strict=True))
    _check(text, matrix, fixed.keep, fixed.all_names)
    return matrix[:, fixed.keep], -constants


def _in_codes(text: str, names: Sequence[str]) -> str:
    """The text with each coefficient's name, in backticks or not, as ``_0``, ``_1``, ...; longest names first."""
    order = sorted(range(len(names)), key=lambda i: len(names[i]), reverse=True)
    for i in order:
        name = re.escape(names[i])
        text = re.sub(rf"`{name}`|(?<![\w.\])`:]){name}(?![\w.\[(`:])", f"_{i}", text)
    return text


def _linear(text: str, coded: str, names: Sequence[str]) -> tuple[Array, Array]:
    """Coefficients (p,) and constant of left minus right of one equation, by its values at unit vectors."""
    sides = split_at(coded, "=")
    if len(sides) > 2 or not all(sides):
        raise UserError(f"Cannot read the hypothesis {text!r}; write it as 'a = b', 'a - b = 0' or 'a = 0.5'.")
    code = _checked_code(text, " - ".join(f"({side})" for side in sides), names)
    values = [_value(code, row) for row in np.vstack([np.zeros(len(names)), np.eye(len(names))])]
    constant, row = values[0], np.array(values[1:]) - values[0]
    point = np.linspace(0.3, 1.7, len(names))
    if not np.isclose(_value(code, point), constant + row @ point):
        raise UserError(f"The hypothesis {text!r} is not linear in the coefficients.")
    return row, np.asarray(constant)


def _checked_code(text: str, expression: str, names: Sequence[str]) -> CodeType:
    """Compiled arithmetic of coefficients and numbers; anything else is refused."""
    try:
        tree = ast.parse(expression.strip(), mode="eval")
    except SyntaxError as error:
        raise UserError(f"Cannot read the hypothesis {text!r}; write it as 'a = b' or '2*a - b = 0.5'.") from error
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and not re.fullmatch(r"_\d+", node.id):
            hint = nearest(node.id, names) or f" They are: {shown(names)}."
            raise UserError(f"{node.id} in {text!r} is no coefficient of this fit.{hint}")
        if not isinstance(node, ARITHMETIC) or (isinstance(node, ast.Constant) and isinstance(node.value, str)):
            raise UserError(f"Cannot read the hypothesis {text!r}; use names of coefficients, numbers and + - * /.")
    return compile(tree, "<hypothesis>", "eval")


def _value(code: CodeType, coefficients: Array) -> float:
    return float(eval(code, {"__builtins__": {}}, {f"_{i}": value for i, value in enumerate(coefficients)}))


def _check(text: str, matrix: Array, keep: Array, names: Sequence[str]) -> None:
    if np.any(~np.any(matrix, axis=1)):
        raise UserError(f"The hypothesis {text!r} says nothing about any coefficient: both sides are the same.")
    lost = [name for name, used, kept in zip(names, np.any(matrix, axis=0), keep, strict=True) if used and not kept]
    if lost:
        raise UserError(f"{', '.join(lost)} in {text!r} has no estimate: its column is a combination of others.")
