"""Contrasts between estimates: which pairs, under which names, and p-values adjusted for their number."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from canopy_stats.mixed.fit import Fit
from canopy_stats.multiplicity import adjusted_p
from canopy_stats.schema import UserError

Array = np.ndarray
LEVEL = 0.95
ADJUSTMENTS = ("tukey", "holm", "bonferroni", "fdr_bh", "none")


def contrast_matrix(kind: Any, labels: Sequence[str]) -> tuple[Array, list[str]]:
    """Matrix (c, k) of contrasts between k estimates and their names.

    ``kind`` is 'pairwise' (each minus every later one, as emmeans), 'reference' (each other minus the first), a matrix
    (c, k) or a mapping from names to k weights.
    """
    if isinstance(kind, str):
        return _named(kind, labels)
    names = list(kind) if isinstance(kind, Mapping) else None
    matrix = np.atleast_2d(np.asarray(list(kind.values()) if isinstance(kind, Mapping) else kind, dtype=float))
    if matrix.ndim != 2 or matrix.shape[1] != len(labels) or not np.all(np.isfinite(matrix)):
        raise UserError(f"contrasts needs {len(labels)} finite weights a row, one for each of: {', '.join(labels)}.")
    return matrix, [str(name) for name in names] if names else [_spelt(row, labels) for row in matrix]


def _named(kind: str, labels: Sequence[str]) -> tuple[Array, list[str]]:
    k = len(labels)
    if kind not in ("pairwise", "reference"):
        raise UserError(f"contrasts is {kind!r}; choose 'pairwise', 'reference' or give a matrix.")
    if k < 2:
        raise UserError(f"Contrasts need two estimates or more; there is one only ({', '.join(labels)}).")
    pairs = list(combinations(range(k), 2)) if kind == "pairwise" else [(i, 0) for i in range(1, k)]
    matrix = np.zeros((len(pairs), k))
    for row, (a, b) in enumerate(pairs):
        matrix[row, a], matrix[row, b] = 1.0, -1.0
    return matrix, [f"{labels[a]} - {labels[b]}" for a, b in pairs]


def _spelt(row: Array, labels: Sequence[str]) -> str:
    """A row of weights in words: '0.5 a + 0.5 b - c'."""
    parts = [("-" if w < 0 else "+", f"{abs(w):g} {name}" if abs(w) != 1 else name)
             for w, name in zip(row, labels, strict=True) if w]
    return " ".join(f"{sign} {text}" for sign, text in parts).removeprefix("+ ")


def check_adjust(adjust: str) -> None:
    if adjust not in ADJUSTMENTS:
        raise UserError(f"adjust is {adjust!r}; choose one of {', '.join(ADJUSTMENTS)}.")


def adjusted(p_values: Array, statistic: Array, df: Array, adjust: str, means: int | None) -> Array:
    """p-values (c,) adjusted for their number; NaN ones are left out of the family.

    'tukey' is the studentised range over ``means`` estimates that are compared pairwise; where they are not (None),
    it is Sidak's, as in emmeans.
    """
    if adjust != "tukey" or means is None:
        return adjusted_p(p_values, "sidak" if adjust == "tukey" else adjust)
    out, known = p_values.copy(), np.isfinite(p_values)
    if known.sum() > 1:
        spread = np.sqrt(2.0) * np.abs(statistic[known])
        out[known] = stats.studentized_range.sf(spread, means, np.minimum(df[known], 1e6))
    return out


def half_width(df: Array, adjust: str, count: int, means: int | None, level: float = LEVEL) -> Array:
    """Multiplier (c,) of the standard errors for intervals at ``level``: simultaneous as far as the adjustment allows.

    As in emmeans, 'holm' and 'fdr_bh' have no intervals of their own and take Bonferroni's.
    """
    alpha, capped = 1 - level, np.minimum(df, 1e6)
    if adjust == "none" or count < 2:
        return np.asarray(stats.t.isf(alpha / 2, df))
    if adjust == "tukey" and means is not None:
        return np.asarray(stats.studentized_range.isf(alpha, means, capped) / np.sqrt(2.0))
    each = 1 - (1 - alpha) ** (1 / count) if adjust == "tukey" else alpha / count
    return np.asarray(stats.t.isf(each / 2, df))


@dataclass(frozen=True)
class Back:
    """The way from the link to the response: ``values`` takes eta (k,) to means and their slopes in eta.

    ``ratio`` says what exp of a difference of eta is, empty where it has no such meaning.
    """

    values: Callable[[Array], tuple[Array, Array]]
    ratio: str = ""
    identity: bool = False


@dataclass(frozen=True)
class Estimated:
    """Quantities (k,), their derivatives (k, c) in parameters with ``covariance`` (c, c), and how they are tested.

    ``df`` gives degrees of freedom of combinations (m, c) of parameters, ``known`` which combinations (m, k) of the
    quantities the data determine, ``back`` leads to the response where the quantities are on the link.
    """

    value: Array
    jacobian: Array
    covariance: Array
    df: Callable[[Array], Array]
    known: Callable[[Array], Array]
    back: Back | None = None


def of_coefficients(fit: Fit, value: Array, jacobian: Array, known: Callable[[Array], Array],
                    back: Back | None = None) -> Estimated:
    """Quantities that depend on the coefficients of the mean (derivatives (k, p))."""
    p = len(fit.beta)
    return Estimated(value, jacobian, fit.covariance[:p, :p], fit.degrees_of_freedom, known, back)


def wald_table(found: Estimated, weights: Array | None = None) -> pd.DataFrame:
    """estimate, std_error, df, statistic, p_value and interval of combinations (m, k) of quantities; NaN if unknown."""
    weights = np.eye(len(found.value)) if weights is None else weights
    known = found.known(weights)
    value = np.where(known, weights @ np.nan_to_num(found.value), np.nan)
    moves = weights @ np.nan_to_num(found.jacobian)
    error = np.sqrt(np.maximum(np.einsum("ka,ab,kb->k", moves, found.covariance, moves), 0.0))
    error = np.where(known, error, np.nan)
    tested, df = known & (error > 0), np.full(len(value), np.nan)
    df[tested] = found.df(moves[tested]) if tested.any() else np.nan
    statistic = np.divide(value, error, out=np.full_like(error, np.nan), where=tested)
    half = half_width(df, "none", 1, None) * error
    return pd.DataFrame({
        "estimate": value, "std_error": error, "df": df, "statistic": statistic,
        "p_value": 2 * stats.t.sf(np.abs(statistic), df), "conf_low": value - half, "conf_high": value + half,
    })


def estimates_table(found: Estimated) -> pd.DataFrame:
    """Every quantity with its test, on the response scale if there is a way back."""
    table = wald_table(found)
    if found.back is None:
        return table
    middle, slope = found.back.values(table["estimate"].to_numpy())
    ends = [found.back.values(table[name].to_numpy())[0] for name in ("conf_low", "conf_high")]
    return table.assign(estimate=middle, std_error=np.abs(slope) * table["std_error"],
                        conf_low=np.minimum(*ends), conf_high=np.maximum(*ends))


def contrasts_table(found: Estimated, kind: Any, labels: Sequence[str], rows: Array, adjust: str) -> pd.DataFrame:
    """Contrasts between the quantities at ``rows``, adjusted among themselves."""
    matrix, names = contrast_matrix(kind, labels)
    weights = np.zeros((len(matrix), len(found.value)))
    weights[:, rows] = matrix
    table = wald_table(found, weights)
    family = len(labels) if isinstance(kind, str) and kind == "pairwise" else None
    p_values, statistic, df = (table[name].to_numpy() for name in ("p_value", "statistic", "df"))
    half = half_width(df, adjust, int(np.isfinite(p_values).sum()), family) * table["std_error"].to_numpy()
    table = table.assign(p_value=adjusted(p_values, statistic, df, adjust, family),
                         conf_low=table["estimate"] - half, conf_high=table["estimate"] + half)
    ratio = found.back is not None and bool(found.back.ratio)
    if ratio:
        table = _as_ratios(table)
        names = [name.replace(" - ", " / ") for name in names] if isinstance(kind, str) else names
    table.insert(0, "contrast", names)
    return table


def _as_ratios(table: pd.DataFrame) -> pd.DataFrame:
    """Differences on a log or logit scale as ratios, errors by the delta method, tests as they were."""
    ratio = np.exp(table["estimate"])
    return table.assign(estimate=ratio, std_error=ratio * table["std_error"], conf_low=np.exp(table["conf_low"]),
                        conf_high=np.exp(table["conf_high"]))


def contrast_scale(found: Estimated) -> str:
    """What contrasts of these quantities are, in words."""
    if found.back is None or found.back.identity:
        return "difference"
    return found.back.ratio or "difference on the link scale"
