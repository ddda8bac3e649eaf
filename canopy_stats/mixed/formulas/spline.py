"""Natural cubic spline basis with the knots and the basis of R's ``splines::ns``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from formulaic.materializers.types import FactorValues
from formulaic.utils.stateful_transforms import stateful_transform
from scipy.interpolate import BSpline

from canopy_stats.schema import UserError

Array = np.ndarray


def natural_knots(x: Array, df: int, knots: Sequence[float] | None = None) -> Array:
    """Knot sequence (df + 1,): the range of x and, between, df - 1 quantiles (R's type 7) or the given ``knots``."""
    x = np.asarray(x, dtype=float)
    if knots is None:
        if df < 1:
            raise UserError(f"ns(): df is {df}; give a whole number of at least 1.")
        knots = np.quantile(x, np.linspace(0.0, 1.0, df + 1)[1:-1]).tolist()
    sequence = np.concatenate([[x.min()], np.sort(np.asarray(knots, dtype=float)), [x.max()]])
    if np.any(np.diff(sequence) <= 0):
        raise UserError("ns(): the knots are not distinct; the variable has too few values for this df. Lower df.")
    return sequence


def natural_basis(x: Array, knots: Array) -> Array:
    """Basis (n, k - 1) of natural cubic splines without the constant, linear beyond the outer of the k knots.

    As in R's ``splines::ns(intercept = FALSE)``: cubic B-splines, first column dropped, projected on the null space of
    the second derivatives at the two boundary knots by the Householder reflections of a QR decomposition.
    """
    x = np.asarray(x, dtype=float)
    padded = np.concatenate([[knots[0]] * 3, knots, [knots[-1]] * 3])
    spline = BSpline(padded, np.eye(len(padded) - 4), 3)
    curvature = spline.derivative(2)(knots[[0, -1]])[:, 1:]
    rotation = np.linalg.qr(curvature.T, mode="complete")[0][:, 2:]
    basis: Array = _linear_outside(spline, x, knots)[:, 1:] @ rotation
    return basis


def _linear_outside(spline: BSpline, x: Array, knots: Array) -> Array:
    """Values (n, columns) of ``spline``, continued with the boundary slope outside the outer knots."""
    inside = np.clip(x, knots[0], knots[-1])
    beyond = (x - inside)[:, None]
    values = np.asarray(spline(inside))
    return values + beyond * np.asarray(spline.derivative()(inside)) if np.any(beyond) else values


@stateful_transform
def ns(
    x: Any, df: int = 1, knots: Sequence[float] | None = None, _state: dict[str, Any] | None = None
) -> FactorValues:
    """Formula term ``ns(x, df)``: the knots are learnt at the fit and kept for new data."""
    state = {} if _state is None else _state
    values = np.asarray(x, dtype=float)
    if "knots" not in state:
        state["knots"] = natural_knots(values, int(df), knots).tolist()
    basis = natural_basis(values, np.asarray(state["knots"]))
    return FactorValues(
        {i + 1: basis[:, i] for i in range(basis.shape[1])}, kind="numerical", spans_intercept=False
    )
