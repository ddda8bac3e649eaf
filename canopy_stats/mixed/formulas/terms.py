"""Terms of a fixed part and the hypotheses that they have no effect (types II and III, as SAS defines them)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce

import numpy as np
import pandas as pd
from scipy.linalg import solve_triangular

from canopy_stats.mixed.formulas.checks import independent_columns
from canopy_stats.mixed.formulas.expressions import formula_variables, model_matrix
from canopy_stats.mixed.formulas.fixed import FixedPart
from canopy_stats.mixed.formulas.levels import with_levels

Array = np.ndarray
ZERO = 1e-8


@dataclass(frozen=True)
class Term:
    """A term such as ``x:f``: its factors and covariates (expressions), and its columns among the independent ones."""

    name: str
    factors: frozenset[str]
    covariates: frozenset[str]
    columns: tuple[int, ...]

    def within(self, other: Term) -> bool:
        """True if ``other`` contains this term: the same covariates, and more factors."""
        return self.covariates == other.covariates and self.factors < other.factors


def terms_of(part: FixedPart) -> list[Term]:
    """The terms of a fixed part in the order of the formula, the intercept (named '1') too."""
    if part.spec is None:
        return [Term("1", frozenset(), frozenset(), tuple(range(1 - part.skipped)))]
    place = np.cumsum(part.keep) - 1
    found = []
    for term, columns in part.spec.term_indices.items():
        names = [factor.expr for factor in term.factors if factor.expr != "1"]
        factors = frozenset(name for name in names if _categorical(part, name))
        own = [i - part.skipped for i in columns if i >= part.skipped]
        kept = tuple(int(place[i]) for i in own if part.keep[i])
        found.append(Term(":".join(names) or "1", factors, frozenset(names) - factors, kept))
    return found


def _categorical(part: FixedPart, expression: str) -> bool:
    """Whether formulaic encoded a factor of a term as categories."""
    assert part.spec is not None
    states = {str(name): state for name, state in part.spec.encoder_state.items()}
    return bool(states[expression][0].value == "categorical")


def type_two(part: FixedPart, information: Array) -> dict[str, Array]:
    """Contrasts (q, p) of each term adjusted for every term that does not contain it.

    With ``information`` (p, p) = X'X they are lmerTest's; with the inverse covariance of the estimates, car's.
    """
    terms = terms_of(part)
    return {term.name: _adjusted(term, terms, information) for term in terms if term.name != "1" and term.columns}


def _adjusted(term: Term, terms: list[Term], information: Array) -> Array:
    own = list(term.columns)
    if not any(term.within(other) for other in terms):
        return np.eye(len(information))[own]
    others = [c for other in terms if other is not term and not term.within(other) for c in other.columns]
    scale = 1.0 / np.sqrt(np.diag(information))
    unit = information * np.outer(scale, scale)
    ahead = np.linalg.lstsq(unit[np.ix_(others, others)], unit[np.ix_(others, own)])[0]
    rows = unit[own] - ahead.T @ unit[others]
    rows[:, others] = 0.0
    # One after the other, as lmerTest's: the joint degrees of freedom depend on the rows, not on their span alone.
    steps = solve_triangular(np.linalg.cholesky(rows[:, own]), rows, lower=True) / scale
    return np.asarray(steps / np.diag(steps[:, own])[:, None])


def type_three(part: FixedPart, data: pd.DataFrame) -> dict[str, Array]:
    """Contrasts (q, p) of each term by type III, the same whatever the contrasts of the user's coding.

    SAS/STAT's definition as in lmerTest: over the design with every dummy, the rows of the general form of estimable
    functions, each term's made orthogonal to those of the terms that contain it.
    """
    terms = [term for term in terms_of(part) if term.name != "1"]
    if part.spec is None or not terms:
        return {}
    dummies, owners = _every_dummy(part, data)
    norms = np.linalg.norm(dummies, axis=0)
    scaled = dummies / np.where(norms > 0, norms, 1.0)
    keep = independent_columns(scaled)
    basis, size = scaled[:, keep], norms[keep][:, None]
    general = np.linalg.lstsq(basis, scaled)[0] * norms / size
    to_user = np.linalg.lstsq(basis, part.matrix)[0] / size
    mine = {term.name: np.flatnonzero(np.array(owners)[keep] == term.name) for term in terms}
    orthogonal = _orthogonalised(general.T, terms, mine)
    return {name: rows @ to_user for name, rows in _kept_rows(orthogonal[keep], mine).items() if len(rows)}


def _orthogonalised(general: Array, terms: list[Term], mine: dict[str, Array]) -> Array:
    """The general form with each term's columns orthogonal to those of the terms that contain it."""
    out = general.copy()
    for term in sorted(terms, key=lambda t: len(t.factors) + len(t.covariates), reverse=True):
        above = [c for other in terms if term.within(other) for c in mine[other.name]]
        if above and len(mine[term.name]):
            x, y = out[:, above], out[:, mine[term.name]]
            out[:, mine[term.name]] = y - x @ np.linalg.lstsq(x, y)[0]
    return out


def _kept_rows(general: Array, mine: dict[str, Array]) -> dict[str, Array]:
    found = {name: general[:, columns].T for name, columns in mine.items()}
    return {name: rows[np.abs(rows).sum(axis=1) > ZERO] for name, rows in found.items()}


def _every_dummy(part: FixedPart, data: pd.DataFrame) -> tuple[Array, list[str]]:
    """Design (n, columns) with one column a level, none left out, and the name of each column's term."""
    frame = with_levels(data[formula_variables(part.formula)], part.levels)
    cached: dict[str, Array] = {}

    def columns_of(expression: str) -> Array:
        if expression not in cached:
            values = np.asarray(model_matrix(f"0 + {_quoted(expression, data)}", frame), dtype=float)
            # The first level last: it is the one that the others make redundant.
            cached[expression] = np.roll(values, -1, axis=1) if _categorical(part, expression) else values
        return cached[expression]

    parts = [(term.name, _product(term.name, part, columns_of, len(data))) for term in terms_of(part)]
    return np.hstack([values for _, values in parts]), [name for name, values in parts for _ in range(values.shape[1])]


def _product(name: str, part: FixedPart, columns_of: Callable[[str], Array], rows: int) -> Array:
    """Columns (n, product of sizes) of one term: every product of columns of its factors."""
    assert part.spec is not None
    term = next(t for t in part.spec.term_indices if (":".join(_names(t)) or "1") == name)
    blocks = [columns_of(expression) for expression in _names(term)]
    return reduce(_row_products, blocks, np.ones((rows, 1)))


def _names(term: object) -> list[str]:
    return [factor.expr for factor in term.factors if factor.expr != "1"]  # type: ignore[attr-defined]


def _row_products(a: Array, b: Array) -> Array:
    products: Array = (a[:, :, None] * b[:, None, :]).reshape(len(a), -1)
    return products


def _quoted(expression: str, data: pd.DataFrame) -> str:
    return f"`{expression}`" if expression in data.columns else expression
