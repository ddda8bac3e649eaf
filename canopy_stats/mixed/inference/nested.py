"""Whether fits may be compared by their likelihoods; a refusal names the reason."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from canopy_stats.mixed.fit import Fit
from canopy_stats.mixed.formulas.fixed import FixedPart
from canopy_stats.schema import UserError

Array = np.ndarray
TOLERANCE = 1e-6


def check_comparable(fits: Sequence[Fit]) -> None:
    """Refuse fits (smallest first) whose likelihoods are not of the same data and nested models."""
    if any(fit.errors for fit in fits):
        _refuse("likelihood ratios trust the model that clustered errors do without; test terms of one fit instead")
    for smaller, larger in zip(fits[:-1], fits[1:], strict=True):
        _same_rows(smaller, larger)
        _same_model(smaller, larger)
        _same_vector(smaller.frame.weights, larger.frame.weights, 1.0, "weights")
        _same_vector(smaller.frame.offset_values, larger.frame.offset_values, 0.0, "offsets")
        _nested_columns(smaller.design.fixed, larger.design.fixed, "fixed part")
        for name in ("dispersion", "zero_inflation"):
            _nested_part(getattr(smaller.frame, name), getattr(larger.frame, name), name.replace("_", " "))
        _nested_random(smaller, larger)


def _refuse(reason: str) -> None:
    raise UserError(f"These fits cannot be compared: {reason}.")


def _same_rows(a: Fit, b: Fit) -> None:
    if a.nobs != b.nobs:
        _refuse(f"they are of different responses ({a.nobs} and {b.nobs} rows); fit both to the same rows")
    if not np.array_equal(a.design.y, b.design.y) or not np.array_equal(a.frame.trials, b.frame.trials):
        names = {a.design.response, b.design.response}
        which = " and ".join(sorted(names)) if len(names) > 1 else f"{a.design.response} with other values or order"
        _refuse(f"they have different responses ({which})")


def _same_model(a: Fit, b: Fit) -> None:
    if a.family != b.family:
        _refuse(f"they have different families ({a.family} and {b.family})")
    for name, one, other in (("link", a.frame.family.link, b.frame.family.link), ("quadrature", a.nodes, b.nodes)):
        if one != other:
            _refuse(f"they differ in their {name} ({one} and {other})")


def _same_vector(a: Array | None, b: Array | None, usual: float, name: str) -> None:
    if not np.all((usual if a is None else a) == (usual if b is None else b)):
        _refuse(f"they have different {name}")


def _nested_part(a: FixedPart | None, b: FixedPart | None, name: str) -> None:
    if a is None:
        return
    if b is None:
        _refuse(f"they are not nested: the smaller has a {name} model and the larger has none")
    else:
        _nested_columns(a, b, f"{name} model")


def _nested_columns(a: FixedPart, b: FixedPart, name: str) -> None:
    if not in_span(a.matrix, b.matrix):
        more = [column for column in a.names if column not in b.names] or list(a.names)
        _refuse(
            f"they are not nested: the {name} of the one with fewer parameters has columns that the other's cannot make"
            f" up ({', '.join(more[:5])})"
        )


def _nested_random(a: Fit, b: Fit) -> None:
    larger = {frozenset(f.groups): f for f in b.design.factors}
    for factor in a.design.factors:
        other = larger.get(frozenset(factor.groups))
        if other is None or not in_span(factor.columns, other.columns):
            _refuse(f"they are not nested: the one with fewer parameters has random effects by {factor.name}"
                    f" ({', '.join(factor.terms)}) that the other lacks")


def in_span(a: Array, b: Array) -> bool:
    """Whether every column of a (n, p) is a combination of columns of b (n, q)."""
    if a.shape[1] == 0:
        return True
    if b.shape[1] == 0:
        return bool(np.all(a == 0))
    scaled, basis = (m / np.maximum(np.linalg.norm(m, axis=0), 1e-300) for m in (a, b))
    rest = scaled - basis @ np.linalg.lstsq(basis, scaled)[0]
    return bool(np.linalg.norm(rest, axis=0).max() < TOLERANCE)
