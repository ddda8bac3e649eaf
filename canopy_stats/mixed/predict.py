"""Predicted means, with or without random effects, and their standard errors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from canopy_stats.mixed import blocks, formula
from canopy_stats.mixed.blocks import Array
from canopy_stats.schema import UserError

if TYPE_CHECKING:
    from canopy_stats.mixed.fit import Fit, Mode, Scale


def predict(fit: Fit, data: pd.DataFrame | None, mode: Mode, scale: Scale, se: bool) -> Any:
    """Means (m,), or a table of mean and standard error; see ``Fit.predict``."""
    _check_choice("mode", mode, ("population", "conditional", "new_levels"))
    _check_choice("scale", scale, ("response", "link"))
    x = fit.design.fixed.matrix if data is None else formula.encode_fixed(fit.design.fixed, data)
    eta = x @ fit.beta
    if mode != "population":
        eta = eta + _random_part(fit, data, mode)
    if not se:
        return eta
    if mode != "population":
        raise UserError("Standard errors are given for mode='population'.")
    p = len(fit.beta)
    error = np.sqrt(np.einsum("ia,ab,ib->i", x, fit.covariance[:p, :p], x))
    return pd.DataFrame({"mean": eta, "se": error}, index=None if data is None else data.index)


def _check_choice(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UserError(f"{name} is {value!r}; choose one of {', '.join(known)}.")


def _random_part(fit: Fit, data: pd.DataFrame | None, mode: Mode) -> Array:
    if data is None:
        pairs = zip(fit.design.factors, fit.modes, strict=True)
        return sum((blocks.rows_of(f, b) for f, b in pairs), np.zeros(fit.nobs))
    total = np.zeros(len(data))
    for factor, modes in zip(fit.design.factors, fit.modes, strict=True):
        codes, columns = formula.encode_groups(factor, data)
        if mode == "conditional" and np.any(codes < 0):
            raise UserError(
                f"{factor.name} has levels the fit has not seen; predict with mode='new_levels' (their effect is zero)"
                " or mode='population'."
            )
        padded = np.vstack([modes, np.zeros((1, modes.shape[1]))])
        total += np.einsum("ia,ia->i", columns, padded[codes])
    return total
