"""Grouping factors: codes, levels, random columns and the pattern of their covariance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from canopy_stats.mixed.formulas import checks
from canopy_stats.mixed.formulas.fixed import FixedPart, encode_fixed, fixed_part
from canopy_stats.mixed.formulas.levels import level_codes, sorted_levels
from canopy_stats.mixed.formulas.parse import RandomTerm
from canopy_stats.schema import UserError

Array = np.ndarray


@dataclass(frozen=True)
class Crossing:
    """Levels of each of several grouping variables, and the occurring combinations as one number each (mixed radix)."""

    parents: tuple[tuple[str, ...], ...]
    cells: Array

    def codes(self, data: pd.DataFrame, groups: Sequence[str]) -> Array:
        """Place (m,) of each row's combination among the occurring ones, -1 for new ones."""
        combined, known = np.zeros(len(data), dtype=np.intp), np.ones(len(data), dtype=bool)
        for name, levels in zip(groups, self.parents, strict=True):
            part = level_codes(data[name], levels)
            combined, known = combined * len(levels) + part, known & (part >= 0)
        places = np.minimum(np.searchsorted(self.cells, combined), len(self.cells) - 1)
        return np.where(known & (self.cells[places] == combined), places, -1)

    def labels(self) -> tuple[str, ...]:
        """Text of each combination, ``a:b``; parts that contain a colon are quoted where two would read alike."""
        if len(self.parents) == 1:
            return tuple(self.parents[0][int(cell)] for cell in self.cells)
        keys = [_key(int(cell), self.parents) for cell in self.cells]
        joined = tuple(":".join(key) for key in keys)
        if len(set(joined)) == len(joined):
            return joined
        return tuple(":".join(repr(part) if ":" in part else part for part in key) for key in keys)


def _key(cell: int, parents: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    names = []
    for known in reversed(parents):
        cell, place = divmod(cell, len(known))
        names.append(known[place])
    return tuple(reversed(names))


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
    crossing: Crossing = field(default_factory=lambda: Crossing((), np.zeros(0, dtype=np.intp)))


def grouping_factors(
    terms: Sequence[RandomTerm], data: pd.DataFrame, reference: Mapping[str, str], *, row_levels: bool = False
) -> tuple[Factor, ...]:
    """One Factor per grouping, its random terms side by side, theta numbered through (rows of each block in turn)."""
    grouped: dict[tuple[str, ...], list[RandomTerm]] = {}
    for term in terms:
        grouped.setdefault(term.groups, []).append(term)
    factors, start = [], 0
    for members in grouped.values():
        factor = _factor(members, data, reference, start, row_levels)
        start = max(start, int(factor.pattern.max()) + 1)
        factors.append(factor)
    return tuple(factors)


def _factor(
    terms: list[RandomTerm], data: pd.DataFrame, reference: Mapping[str, str], start: int, row_levels: bool
) -> Factor:
    groups, name = terms[0].groups, ":".join(terms[0].groups)
    crossing, codes = cross(data, groups)
    levels = crossing.labels()
    _check_levels(name, len(levels), len(data) + row_levels)
    parts = tuple(fixed_part(term.columns, data, reference) for term in terms)
    names = tuple(column for part in parts for column in part.names)
    if len(set(names)) < len(names):
        raise UserError(f"{name} has the same random column twice ({', '.join(names)}); write each one once.")
    blocks = _blocks(terms, parts)
    pattern, columns = theta_pattern(blocks, len(names), start), np.hstack([part.matrix for part in parts])
    return Factor(name, groups, levels, codes, columns, names, blocks, pattern, parts, crossing)


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


def cross(data: pd.DataFrame, groups: Sequence[str]) -> tuple[Crossing, Array]:
    """The occurring combinations of grouping variables, sorted by the levels of the first, the second, ...; codes."""
    parents = tuple(sorted_levels(data[name]) for name in groups)
    combined = level_codes(data[groups[0]], parents[0])
    if len(groups) == 1:
        return Crossing(parents, np.arange(len(parents[0]))), combined
    for name, levels in zip(groups[1:], parents[1:], strict=True):
        combined = combined * len(levels) + level_codes(data[name], levels)
    cells, codes = np.unique(combined, return_inverse=True)
    return Crossing(parents, cells), codes.astype(np.intp)


def group_codes(data: pd.DataFrame, groups: Sequence[str]) -> tuple[Array, tuple[str, ...]]:
    """Codes (n,) and occurring levels of one grouping variable, or of the interaction of several (``a:b``)."""
    crossing, codes = cross(data, groups)
    return codes, crossing.labels()


def encode_groups(factor: Factor, data: pd.DataFrame) -> tuple[Array, Array]:
    """Codes (m,) of new data, -1 for levels the fit has not seen, and random-effect columns (m, q)."""
    frame = checks.used_columns(data, factor.groups)
    columns = np.hstack([encode_fixed(part, data) for part in factor.parts])
    return factor.crossing.codes(frame, factor.groups), columns
