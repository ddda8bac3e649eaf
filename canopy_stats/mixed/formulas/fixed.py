"""The columns of one linear predictor: made from data once, with how to encode new data in the same way."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import formulaic
import numpy as np
import pandas as pd

from canopy_stats.mixed.formulas import checks
from canopy_stats.mixed.formulas.expressions import check_kinds, encode, factor_columns, formula_variables, model_matrix
from canopy_stats.mixed.formulas.levels import ordered_levels, with_levels
from canopy_stats.schema import UserError

Array = np.ndarray
TOLERANCE = 1e-7


class AliasedWarning(UserWarning):
    """Some columns of a design are combinations of others; their coefficients are NaN."""


class NotEstimableWarning(UserWarning):
    """The data say nothing about some of what was asked for; it is NaN."""


@dataclass(frozen=True)
class FixedPart:
    """One linear predictor: matrix (n, p) of the independent columns, their names, and how to encode new data.

    ``all_names`` also holds the aliased columns, in the order of the formula; ``keep`` marks the independent ones, and
    ``combination`` (p, aliased) holds the aliased columns' coefficients in them. ``skipped`` leading columns of the
    formula (the intercept, where thresholds take its place) are in neither.
    """

    formula: str
    matrix: Array
    names: tuple[str, ...]
    all_names: tuple[str, ...]
    keep: Array
    levels: Mapping[str, tuple[str, ...]]
    spec: formulaic.ModelSpec | None
    combination: Array = field(default_factory=lambda: np.zeros((0, 0)))
    skipped: int = 0

    @property
    def aliased(self) -> tuple[str, ...]:
        return tuple(name for name, kept in zip(self.all_names, self.keep, strict=True) if not kept)


def fixed_part(text: str, data: pd.DataFrame, reference: Mapping[str, str], *, warn: bool = True) -> FixedPart:
    """Learn the encoding of one right-hand side from ``data`` (n rows) and apply it."""
    if text.strip() == "1":
        return _constant(text, len(data))
    names = formula_variables(text)
    check_kinds(text, data)
    levels = {name: ordered_levels(data, name, reference) for name in factor_columns(text, data)}
    matrix = model_matrix(text, with_levels(data[names], levels))
    values = np.asarray(matrix, dtype=float)
    _check_columns(values, matrix.model_spec.column_names)
    part = _independent(text, values, matrix.model_spec, levels)
    if part.aliased and warn:
        warnings.warn(AliasedWarning(_aliased_message(part)), stacklevel=2)
    return part


def _independent(text: str, values: Array, spec: Any, levels: Mapping[str, tuple[str, ...]]) -> FixedPart:
    """The part with its independent columns, and the others as combinations of them."""
    keep = checks.independent_columns(values)
    all_names = tuple(str(name) for name in spec.column_names)
    kept = tuple(name for name, used in zip(all_names, keep, strict=True) if used)
    matrix = np.ascontiguousarray(values[:, keep])
    combination = np.linalg.lstsq(matrix, values[:, ~keep])[0] if not keep.all() else np.zeros((len(kept), 0))
    return FixedPart(text, matrix, kept, all_names, keep, levels, spec, combination)


def _constant(text: str, rows: int) -> FixedPart:
    """The intercept alone, without asking formulaic."""
    names = ("Intercept",)
    return FixedPart(text, np.ones((rows, 1)), names, names, np.ones(1, dtype=bool), {}, None, np.zeros((1, 0)))


def without_intercept(part: FixedPart) -> FixedPart:
    """The same columns without the intercept (thresholds take its place); factors stay coded against a reference."""
    if not part.all_names or part.all_names[0] != "Intercept":
        return part
    return replace(part, matrix=np.ascontiguousarray(part.matrix[:, 1:]), names=part.names[1:], keep=part.keep[1:],
                   all_names=part.all_names[1:], combination=part.combination[1:], skipped=1)


def encode_fixed(part: FixedPart, data: pd.DataFrame, *, warn: bool = True) -> Array:
    """Matrix (m, p) of new data in the encoding learnt at the fit.

    Unknown levels raise UserError. A row that the fitted rows say nothing about (an empty cell of an interaction) is
    NaN throughout, with a NotEstimableWarning that names the rows.
    """
    values = encode_all(part, data)
    kept, lost = np.ascontiguousarray(values[:, part.keep]), ~estimable(part, values)
    if lost.any() and warn:
        warnings.warn(NotEstimableWarning(_lost_message(part, data, lost)), stacklevel=2)
    kept[lost] = np.nan
    return kept


def encode_all(part: FixedPart, data: pd.DataFrame) -> Array:
    """Matrix (m, all columns) of new data, aliased columns too."""
    if part.spec is None:
        return np.ones((len(data), 1 - part.skipped))
    names = formula_variables(part.formula)
    frame = with_levels(checks.used_columns(data, names), part.levels) if names else data[[]]
    values = encode(part.spec, frame)
    if not names and len(values) != len(data):
        values = np.repeat(values[:1], len(data), axis=0) if len(values) else np.ones((len(data), values.shape[1]))
    return values[:, part.skipped :]


def estimable(part: FixedPart, rows: Array) -> Array:
    """Mask (k,) of the combinations (k, all columns) of coefficients that the fitted rows determine.

    Those are the combinations in the row space of the design: their aliased entries follow from the independent ones.
    """
    if part.keep.all():
        return np.ones(len(rows), dtype=bool)
    kept, aliased = rows[:, part.keep], rows[:, ~part.keep]
    size = np.abs(kept) @ np.abs(part.combination) + np.abs(aliased)
    return np.asarray(np.all(np.abs(kept @ part.combination - aliased) <= TOLERANCE * np.maximum(size, 1e-12), axis=1))


def _check_columns(values: Array, names: Sequence[Any]) -> None:
    bad = [str(name) for name, ok in zip(names, np.isfinite(values).all(axis=0), strict=True) if not ok]
    if bad:
        raise UserError(f"{', '.join(bad)} is not finite in every row; check the transformation and its argument.")


def _aliased_message(part: FixedPart) -> str:
    return (
        f"In '~ {part.formula}' these columns are combinations of earlier ones and get NaN: {', '.join(part.aliased)}."
        " Drop the terms or merge levels to be rid of this warning."
    )


def _lost_message(part: FixedPart, data: pd.DataFrame, lost: Array) -> str:
    cell = ", ".join(f"{name}={data[name].iloc[int(np.argmax(lost))]}" for name in formula_variables(part.formula))
    return (
        f"Not estimable, so NaN: {checks.name_rows(data, lost)} ({lost.sum()} of {len(data)}; the first has {cell})."
        f" The fitted rows do not determine {', '.join(part.aliased)}."
    )
