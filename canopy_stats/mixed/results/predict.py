"""Predicted means, with or without random effects, and their standard errors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from canopy_stats.mixed.algebra import blocks
from canopy_stats.mixed.algebra.blocks import Array
from canopy_stats.mixed.estimates import Estimates
from canopy_stats.mixed.fitting.ways import Way
from canopy_stats.mixed.formulas import checks, fixed, formula, grouping
from canopy_stats.mixed.formulas.frames import as_pandas
from canopy_stats.schema import UserError

EffectsMode = Literal["population", "conditional", "new_levels"]
Scale = Literal["response", "link"]


@dataclass(frozen=True)
class Rows:
    """Rows to predict for: designs of mean (m, p), dispersion (m, d) and zero part (m, g), offset, trials, factors."""

    x: Array
    w: Array
    g: Array
    trials: Array
    offset: Array
    codes: list[Array]
    columns: list[Array]


def predict(fit: Estimates, way: Way, data: Any, mode: EffectsMode, scale: Scale, se: bool) -> Any:
    """Means (m,), or a table of mean and standard error; see ``Fit.predict``."""
    check_choice("mode", mode, ("population", "conditional", "new_levels"))
    check_choice("scale", scale, ("response", "link"))
    data = None if data is None else as_pandas(data)
    rows = encode(fit, data, mode)
    eta = rows.x @ fit.beta + rows.offset + (0.0 if mode == "population" else random_part(fit, rows))
    index = fit.design.data.index if data is None else data.index
    if scale == "response" and fit.frame.family.probabilities is not None:
        return _probabilities(fit, rows, eta, se, index)
    mean = to_scale(fit, rows, eta, scale)
    if not se:
        return mean
    error = link_errors(fit, way, rows, mode)
    if scale == "response":
        step = 1e-5
        slope = (to_scale(fit, rows, eta + step, scale) - to_scale(fit, rows, eta - step, scale)) / (2 * step)
        error = np.abs(slope) * error
    return pd.DataFrame({"mean": mean, "se": error}, index=index)


def expected(fit: Estimates, mode: EffectsMode) -> Array:
    """Means (n,) of the fitted rows; of ordered categories the mean of their values."""
    rows = encode(fit, None, mode)
    eta = rows.x @ fit.beta + rows.offset + (0.0 if mode == "population" else random_part(fit, rows))
    return to_scale(fit, rows, eta, "response")


def _probabilities(fit: Estimates, rows: Rows, eta: Array, se: bool, index: pd.Index) -> pd.DataFrame:
    """Probabilities (m, K) of ordered categories."""
    family = fit.frame.family
    assert family.probabilities is not None
    if se:
        raise UserError("Categories have a table of probabilities without standard errors; ask for scale='link'.")
    table = family.probabilities(eta, fit.others(rows.w, rows.g, rows.trials))
    return pd.DataFrame(table, index=index, columns=list(family.labels))


def check_choice(name: str, value: str, known: tuple[str, ...]) -> None:
    """Refuse a word that is not among the known ones."""
    if value not in known:
        raise UserError(f"{name} is {value!r}; choose one of {', '.join(known)}.")


def to_scale(fit: Estimates, rows: Rows, eta: Array, scale: Scale) -> Array:
    """Means (m,) on the asked scale; on the response scale the mean at these random effects, not averaged over them."""
    if scale == "link":
        return eta
    return fit.frame.family.mean(eta, fit.others(rows.w, rows.g, rows.trials))


def encode(fit: Estimates, data: pd.DataFrame | None, mode: EffectsMode) -> Rows:
    """Designs of the fitted rows, or of new data in the same encoding."""
    design = fit.design
    if data is None:
        frame, factors = fit.frame, design.factors
        return Rows(design.fixed.matrix, frame.dispersion_matrix, frame.zero_matrix, frame.trials, frame.offset_values,
                    [f.codes for f in factors], [f.columns for f in factors])
    x = fixed.encode_fixed(design.fixed, data)
    w, g = (np.zeros((len(data), 0)) if part is None else fixed.encode_fixed(part, data)
            for part in (fit.dispersion, fit.frame.zero_inflation))
    pairs = [] if mode == "population" else [_groups(f, data, mode) for f in design.factors]
    return Rows(x, w, g, np.ones(len(data)), _new_offset(fit, data), [codes for codes, _ in pairs],
                [columns for _, columns in pairs])


def _new_offset(fit: Estimates, data: pd.DataFrame) -> Array:
    """The offset (m,) of new rows: the formula's and the named column's."""
    frame, inner, name = fit.frame, fit.design.offset, fit.frame.offset_name
    total = np.zeros(len(data)) if inner is None else np.asarray(formula.offset_values(fit.design.offsets, data))
    if name is not None:
        total = total + checks.used_columns(data, [name], "The offset")[name].to_numpy(dtype=float)
    elif frame.offset is not None and (inner is None or not np.array_equal(frame.offset, inner)):
        raise UserError("The fit's offset was an array; to predict for new data, fit again with the name of a column.")
    return total


def _groups(factor: grouping.Factor, data: pd.DataFrame, mode: EffectsMode) -> tuple[Array, Array]:
    codes, columns = grouping.encode_groups(factor, data)
    if mode == "conditional" and np.any(codes < 0):
        raise UserError(
            f"{factor.name} has levels the fit has not seen; predict with mode='new_levels' (their effect is zero)"
            " or mode='population'."
        )
    return codes, columns


def random_part(fit: Estimates, rows: Rows) -> Array:
    """Contribution (m,) of the estimated random effects; zero for unknown levels."""
    total = np.zeros(len(rows.x))
    for codes, columns, modes in zip(rows.codes, rows.columns, fit.modes, strict=True):
        padded = np.vstack([modes, np.zeros((1, modes.shape[1]))])
        total += np.einsum("ia,ia->i", columns, padded[codes])
    return total


def link_errors(fit: Estimates, way: Way, rows: Rows, mode: EffectsMode) -> Array:
    """Standard errors (m,) of eta: of the fixed part, and of eta - its prediction where random effects enter.

    Var = a' H^-1 a + J V J' (Kass & Steffey 1989), a the row of Z Lambda and J the derivative of eta in the parameters,
    through the random effects too; the prior variance is added for unknown levels.
    """
    if mode == "population" or not fit.design.factors:
        p = len(fit.beta)
        return np.asarray(np.sqrt(np.einsum("ia,ab,ib->i", rows.x, fit.covariance[:p, :p], rows.x)))
    known = way.uncertainty(fit)
    jacobian = np.zeros((len(rows.x), len(known.covariance)))
    jacobian[:, : rows.x.shape[1]] = rows.x
    spherical, prior = [], np.zeros(len(rows.x))
    for codes, columns, slopes, t in zip(rows.codes, rows.columns, known.slopes, known.factors, strict=True):
        seen = codes >= 0
        jacobian[seen] += np.einsum("ia,iak->ik", columns[seen], slopes[codes[seen]])
        spherical.append(columns @ t * seen[:, None])
        prior += np.where(seen, 0.0, ((columns @ t) ** 2).sum(axis=1))
    total = prior + np.einsum("ij,jk,ik->i", jacobian, known.covariance, jacobian)
    if known.layout is not None and known.h is not None:
        solved = blocks.solve_rows(known.layout, known.h, spherical, [np.maximum(codes, 0) for codes in rows.codes])
        total += sum(np.einsum("ia,ia->i", a, c) for a, c in zip(spherical, solved, strict=True))
    return np.asarray(np.sqrt(total))
