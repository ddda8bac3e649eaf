"""The data of one model, made once: response and trials, designs of every part, weights, offset and family."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from canopy_stats.mixed.families import Family
from canopy_stats.mixed.formulas import checks
from canopy_stats.mixed.formulas.expressions import formula_variables
from canopy_stats.mixed.formulas.fixed import FixedPart, fixed_part, without_intercept
from canopy_stats.mixed.formulas.formula import Design, build_design
from canopy_stats.mixed.formulas.frames import as_pandas, row_vector
from canopy_stats.mixed.formulas.grouping import Factor
from canopy_stats.mixed.formulas.parse import parse_right
from canopy_stats.schema import UserError

Array = np.ndarray
DISPERSION, ZERO = "dispersion model", "zero part"


@dataclass(frozen=True, eq=False)
class ModelFrame:
    """What a model is fitted to.

    ``design`` holds the response y (n,), the columns of the mean and the grouping factors; ``dispersion`` and
    ``zero_inflation`` the columns of theirs (None where the model has no such part); ``weights`` and ``offset`` (n,)
    are None where there are none. ``trials`` (n,) are the totals of which y counts the successes, ones otherwise.
    """

    family: Family
    design: Design
    trials: Array
    dispersion: FixedPart | None = None
    zero_inflation: FixedPart | None = None
    weights: Array | None = None
    offset: Array | None = None
    offset_name: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def y(self) -> Array:
        return self.design.y

    @property
    def nobs(self) -> int:
        return len(self.design.y)

    @property
    def factors(self) -> tuple[Factor, ...]:
        return self.design.factors

    @property
    def dispersion_matrix(self) -> Array:
        """Columns (n, d) of the dispersion; none where it is not modelled."""
        return np.zeros((self.nobs, 0)) if self.dispersion is None else self.dispersion.matrix

    @property
    def zero_matrix(self) -> Array:
        """Columns (n, g) of the zero part; none where there is none."""
        return np.zeros((self.nobs, 0)) if self.zero_inflation is None else self.zero_inflation.matrix

    @property
    def binary(self) -> bool:
        """Whether every row is one yes or no."""
        return self.family.trials and bool(np.all(self.trials == 1))

    @property
    def offset_values(self) -> Array:
        """The offset (n,), zeros where there is none."""
        return np.zeros(self.nobs) if self.offset is None else self.offset

    def with_response(self, y: Array) -> ModelFrame:
        """The same model for another response (n,)."""
        y = np.asarray(y, dtype=float)
        if y.shape != self.y.shape or not np.all(np.isfinite(y)):
            raise UserError(f"refit() needs {self.nobs} finite numbers, one for each row of the fit.")
        return replace(self, design=replace(self.design, y=y), family=self.family.for_response(y))


def make_frame(formula: str, data: Any, *, family: Family, dispersion: str | None = None,
               zero_inflation: str | None = None, weights: Any = None, offset: Any = None,
               reference: Mapping[str, Any] | None = None, squeeze: float | None = None) -> ModelFrame:
    """Everything that formulas, columns and arrays say about one model; UserError where they don't fit together."""
    table = as_pandas(data, formula)
    texts = [(dispersion, DISPERSION), (zero_inflation, ZERO)]
    others = [name for text, what in texts if text is not None for name in formula_variables(parse_right(text, what))]
    named = [value for value in (weights, offset) if isinstance(value, str)]
    design = build_design(formula, table, reference=reference, other_columns=[*others, *named],
                          row_levels=not family.has_dispersion)
    refuse_unread(design, family)
    design, notes = _squeezed(design, squeeze)
    part, zero = (None if text is None else right_part(text, what, table, design.reference) for text, what in texts)
    extra = [*others, offset] if isinstance(offset, str) else others
    vectors = row_vector(weights, table, "weights", positive=True), row_vector(offset, table, "offset")
    design = replace(design, data=checks.used_columns(table, [*design.data.columns, *extra]))
    frame = ModelFrame(
        family.for_response(design.y, design.categories), design, trials_of(design), part, zero, vectors[0],
        total_offset(design, vectors[1]), offset if isinstance(offset, str) else None, notes,
    )
    return _shares_of_trials(with_thresholds(frame))


def right_part(text: str, what: str, data: pd.DataFrame, reference: Mapping[str, str]) -> FixedPart:
    """Design of the dispersion model or the zero part, from '~ x' or 'x'."""
    right = parse_right(text, what)
    return fixed_part(right, checks.used_columns(data, formula_variables(right)), reference)


def with_thresholds(frame: ModelFrame) -> ModelFrame:
    """Without an intercept where thresholds take its place."""
    if frame.family.has_intercept:
        return frame
    return replace(frame, design=replace(frame.design, fixed=without_intercept(frame.design.fixed)))


def _shares_of_trials(frame: ModelFrame) -> ModelFrame:
    """Shares of successes weighted by whole numbers of trials become successes out of trials, as in R's glm."""
    y, weights = frame.y, frame.weights
    if not frame.family.trials or weights is None or frame.design.trials is not None or np.all((y == 0) | (y == 1)):
        return frame
    successes = y * weights
    whole = np.all(np.abs(successes - np.round(successes)) < 1e-6 * weights) and np.all(weights == np.round(weights))
    if np.any((y < 0) | (y > 1)) or not whole:
        raise UserError(f"{frame.design.response} times weights is not a whole number of successes in every row; give"
                        " the shares and their numbers of trials, or cbind(successes, failures).")
    return replace(frame, design=replace(frame.design, y=np.round(successes)), trials=weights, weights=None)


def trials_of(design: Design) -> Array:
    """Totals (n,) behind the response, ones where it is no count of successes."""
    return np.ones(len(design.y)) if design.trials is None else design.trials


def refuse_unread(design: Design, family: Family) -> None:
    """Refuse responses and offsets that a family does not read."""
    words = f"which family={family.name!r} does not read; use family="
    if design.trials is not None and not family.trials:
        raise UserError(f"{design.response} counts successes and failures, {words}'binomial' or 'betabinomial'.")
    if design.categories and family.has_intercept:
        raise UserError(f"{design.response} is not numeric but ordered categories, {words}'cumulative'.")


def total_offset(design: Design, argument: Array | None) -> Array | None:
    """The formula's offsets and the argument together (n,), None without either."""
    given = [part for part in (design.offset, argument) if part is not None]
    return np.sum(given, axis=0) if given else None


def _squeezed(design: Design, squeeze: float | None) -> tuple[Design, tuple[str, ...]]:
    if squeeze is None:
        return design, ()
    y = np.clip(design.y, squeeze, 1 - squeeze)
    moved = int(np.sum(y != design.y))
    return replace(design, y=y), (f"{moved} of {len(y)} responses were moved into [{squeeze:g}, 1 - {squeeze:g}].",)


def take(frame: ModelFrame, rows: Array, copies: Array, clusters: Array) -> ModelFrame:
    """The frame of rows (m,); factors nested in the clusters get new levels for each copy, crossed ones do not."""
    design = frame.design
    factors = tuple(_take_factor(f, rows, copies, clusters) for f in design.factors)
    inner_trials, inner_offset = (None if v is None else v[rows] for v in (design.trials, design.offset))
    design = replace(design, y=design.y[rows], fixed=_take_part(design.fixed, rows), factors=factors,
                     data=design.data.iloc[rows], trials=inner_trials, offset=inner_offset)
    dispersion, zero = (None if part is None else _take_part(part, rows)
                        for part in (frame.dispersion, frame.zero_inflation))
    weights, offset = (None if v is None else v[rows] for v in (frame.weights, frame.offset))
    return replace(frame, design=design, trials=frame.trials[rows], dispersion=dispersion, zero_inflation=zero,
                   weights=weights, offset=offset, family=frame.family.for_response(design.y))


def _take_part(part: FixedPart, rows: Array) -> FixedPart:
    return replace(part, matrix=part.matrix[rows])


def _take_factor(factor: Factor, rows: Array, copies: Array, clusters: Array) -> Factor:
    pairs = np.unique(factor.codes * (clusters.max() + 1) + clusters)
    nested = len(pairs) == len(factor.levels)
    codes = factor.codes[rows] + (copies * len(factor.levels) if nested else 0)
    used, codes = np.unique(codes, return_inverse=True)
    levels = tuple(f"{factor.levels[code % len(factor.levels)]}#{code // len(factor.levels)}" for code in used)
    return replace(factor, codes=codes.astype(np.intp), levels=levels, columns=factor.columns[rows])
