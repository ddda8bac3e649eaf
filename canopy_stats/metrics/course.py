"""The course of one measure over steps: a linear mixed model, contrasts of its curve, and a band over all steps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from canopy_stats.mixed import Fit, lmm
from canopy_stats.mixed.formulas.fixed import encode_fixed
from canopy_stats.schema import UserError

Floats = NDArray[np.float64]
POINTS = 81
"""Steps at which the course is given, evenly spaced; the observed ones come on top."""
FEWEST_PROMPTS = 3


@dataclass(frozen=True, slots=True)
class Course:
    """``table``: contrasts of the curve, one row each; ``band``: the curve on the grid. ``left_out`` values were
    missing."""

    table: pd.DataFrame
    band: pd.DataFrame
    fit: Fit
    left_out: int


def degree_of(n_steps: int) -> int:
    """Degrees of freedom of the spline over so many steps."""
    return min(3, n_steps - 1)


def refuse_shape(shape: str, steps: Floats, level: float) -> None:
    """UserError for a shape that is unknown or needs more steps."""
    least = {"linear": 2, "broken": 3, "spline": 3}
    if shape not in least:
        raise UserError(f"shape is {shape!r}; choose 'spline', 'broken' or 'linear'.")
    if len(steps) < least[shape]:
        raise UserError(f"shape={shape!r} needs {least[shape]} steps and more; there are {len(steps)}.")
    if not 0 < level < 1:
        raise UserError(f"level is {level!r}; it must lie between 0 and 1.")


def course_of(frame: pd.DataFrame, measure: str, shape: str, at: float, level: float, rng: np.random.Generator,
              draws: int, per: float) -> Course:
    """Fit one measure; ``at`` is where slopes before and after meet, slopes are for ``per`` steps."""
    data = _data(frame, measure, at)
    fit = lmm(f"value ~ {_right_side(shape, frame['step'].nunique())} + (1|prompt_uid)", data).robust("prompt_uid")
    table = _contrasts(fit, shape, data["step"].to_numpy(), at, level, per)
    return Course(table, _band(fit, data["step"].to_numpy(), at, level, rng, draws), fit, len(frame) - len(data))


def _data(frame: pd.DataFrame, measure: str, at: float) -> pd.DataFrame:
    data = frame.rename(columns={measure: "value"})[["step", "prompt_uid", "value"]].dropna()
    if data["prompt_uid"].nunique() < FEWEST_PROMPTS or data["step"].nunique() < frame["step"].nunique():
        raise UserError(f"{measure} exists for {data['prompt_uid'].nunique()} prompts at {data['step'].nunique()} of "
                        f"{frame['step'].nunique()} steps: a course needs {FEWEST_PROMPTS} prompts and every step.")
    return pd.concat([_columns(data["step"].to_numpy(dtype=float), at, data["step"]).set_index(data.index),
                      data[["prompt_uid", "value"]]], axis=1).reset_index(drop=True)


def _columns(step: Floats, at: float, observed: pd.Series) -> pd.DataFrame:
    """What formulas read: time from 0 to 1 over the observed steps, and how far it is beyond ``at``."""
    first, width = float(observed.min()), float(observed.max() - observed.min())
    return pd.DataFrame({"step": step, "time": (step - first) / width, "beyond": np.maximum(step - at, 0) / width})


def _right_side(shape: str, n_steps: int) -> str:
    return {"spline": f"ns(time, df={degree_of(n_steps)})", "broken": "time + beyond", "linear": "time"}[shape]


def _rows(fit: Fit, step: Floats, at: float, observed: Floats) -> Floats:
    """Design (k, p) of the mean at these steps."""
    rows: Floats = encode_fixed(fit.design.fixed, _columns(step, at, pd.Series(observed)))
    return rows


# --- what is read from the curve --------------------------------------------------------------------------------


def _contrasts(fit: Fit, shape: str, observed: Floats, at: float, level: float, per: float) -> pd.DataFrame:
    first, last = float(observed.min()), float(observed.max())
    start, bend, end = _rows(fit, np.array([first, at, last]), at, observed)
    if shape == "linear":
        wanted = {"last - first": end - start, "slope": (end - start) / (last - first) * per}
    else:
        before, after = (bend - start) / (at - first) * per, (end - bend) / (last - at) * per
        wanted = {"last - first": end - start, f"slope to {at:g}": before, f"slope from {at:g}": after,
                  "change of slope": after - before}
    table = _tidy(fit, np.array(list(wanted.values())), level)
    table.insert(0, "quantity", list(wanted))
    return table


def _tidy(fit: Fit, rows: Floats, level: float) -> pd.DataFrame:
    """Estimates of linear combinations (k, p) with t tests and intervals."""
    estimate, error = rows @ fit.beta, _errors(fit, rows)
    df = fit.degrees_of_freedom(rows)
    with np.errstate(divide="ignore", invalid="ignore"):
        statistic = estimate / error
    half = stats.t.ppf((1 + level) / 2, df) * error
    return pd.DataFrame({"estimate": estimate, "std_error": error, "df": df, "statistic": statistic,
                         "p_value": 2 * stats.t.sf(np.abs(statistic), df), "conf_low": estimate - half,
                         "conf_high": estimate + half})


def _covariance(fit: Fit) -> Floats:
    p = len(fit.beta)
    covariance: Floats = fit.covariance[:p, :p]
    return covariance


def _errors(fit: Fit, rows: Floats) -> Floats:
    errors: Floats = np.sqrt(np.maximum(np.einsum("ij,jk,ik->i", rows, _covariance(fit), rows), 0))
    return errors


def _band(fit: Fit, observed: Floats, at: float, level: float, rng: np.random.Generator, draws: int) -> pd.DataFrame:
    grid = np.unique(np.concatenate([np.linspace(observed.min(), observed.max(), POINTS), observed]))
    rows = _rows(fit, grid, at, observed)
    table = _tidy(fit, rows, level)
    half = max_t(_covariance(fit), rows, level, float(table["df"].min()), rng, draws) * table["std_error"]
    table = table[["estimate", "std_error", "conf_low", "conf_high"]]
    table.insert(0, "step", grid)
    return table.assign(band_low=table["estimate"] - half, band_high=table["estimate"] + half)


def max_t(covariance: Floats, rows: Floats, level: float, df: float, rng: np.random.Generator, draws: int) -> float:
    """The ``level`` quantile of max |t| over linear combinations (k, p) of estimates with this covariance (p, p).

    Simulated: normal deviations of the estimates over one common chi, whose degrees of freedom are the fewest of the
    combinations (Hothorn, Bretz & Westfall 2008). Never below the quantile of a single t.
    """
    values, vectors = np.linalg.eigh(covariance)
    root = vectors * np.sqrt(np.maximum(values, 0))
    scaled = rows @ root
    size = np.linalg.norm(scaled, axis=1, keepdims=True)
    directions = (scaled / np.where(size > 0, size, 1))[size[:, 0] > 0]
    single = float(stats.t.ppf((1 + level) / 2, df))
    if not len(directions):
        return single
    largest = np.abs(rng.standard_normal((draws, root.shape[1])) @ directions.T).max(axis=1)
    chi = np.sqrt(rng.chisquare(df, draws) / df) if np.isfinite(df) else 1.0
    return max(single, float(np.quantile(largest / chi, level)))
