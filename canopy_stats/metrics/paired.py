"""Base against tuned on the same prompts: the change of every pooled measure, resampled over pairs of prompts.

A pooled measure is a function of means over prompts of at most ten columns (Fisher's z and its weight are two of
them). So the replicates of a cell are one product, shares (replicates, pairs) times columns (pairs, 20), and the
jackknife is another. :func:`canopy_stats.metrics.pool` on the same rows gives the same point estimates.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from canopy_stats.metrics.association import FISHER_CLIP, RHOS
from canopy_stats.mixed.formulas.frames import as_pandas
from canopy_stats.multiplicity import adjusted_p
from canopy_stats.schema import UserError
from canopy_stats.seeds import seed_sequence

Floats = NDArray[np.float64]

MEASURES = ("GenPPL", "BF", "CE", "cov_NR", "rho_pearson", "rho_spearman", "rho_kendall")
CELL = ("model_name", "task")
_MEANS = ("CE", "N_bar", "R_bar", "cov_NR")
_NEEDED = (*CELL, "model_variant", "M", *_MEANS, *RHOS)
BASE = "base"
LEVEL = 0.95
SKEWED = 1.0
"""Differences with more skewness than this are named: of 8, 20 and 100 lognormal ones the intervals leave out a true
zero in 10, 7 and 7 of 100, Student's t in 17, 13 and 10 (analysis/paired_levels.py)."""
_SHOWN = 4


def paired_bootstrap(panel: pd.DataFrame, *, replicates: int = 2000, seed: int = 0, level: float = LEVEL,
                     base: str = BASE) -> pd.DataFrame:
    """Change from base to each tuned variant by family, task and measure, with intervals over resampled prompts.

    Columns: ``model_name task tuned_variant measure``; ``pairs``, ``unmatched`` (prompts without a partner) and
    ``left_out`` (pairs in which a side has no such correlation); ``base tuned``; the change as ``estimate std_error df
    statistic p_value conf_low conf_high``; ``skewness`` of its differences; ``bca_low bca_high`` and ``percentile_low
    percentile_high`` from the replicates; ``percent percent_low percent_high``, the change in % of base's absolute
    value (BCa, Efron 1987; NaN where the replicates of base reach both sides of zero); ``q_value``.

    Standard errors are the jackknife's over prompts, with pairs − 1 degrees of freedom. Intervals are Student's,
    widened on the side where Hall's transformation (1992, J. R. Statist. Soc. B 54:221), which takes the skewness
    off, goes further: of the ways in analysis/paired_levels.py the least wrong from 8 pairs on, where BCa's leave out
    a true zero in 12% to 21%. ``statistic`` and ``p_value``, by the same two rules, are those of the scale on which a
    measure is tested: GenPPL and BF as logarithms, Pearson and Spearman as Fisher's z. ``q_value`` controls the
    false-discovery rate over the whole table (Benjamini & Hochberg 1995).

    Pairs share a ``prompt_hash`` (``prompt_uid`` where the panel has none). Cells with equally many pairs are
    resampled alike, so a prompt that several families share enters all of them equally often.
    """
    panel = as_pandas(panel)
    _check(panel, replicates, level, base)
    cells = list(_cells(panel, base))
    _refuse_small(cells)
    shares = {n: resampled_shares(n, replicates, seed) for n in sorted({len(cell.base) for cell in cells})}
    table = pd.concat([_cell_rows(cell, shares[len(cell.base)], level) for cell in cells], ignore_index=True)
    table["q_value"] = adjusted_p(table["p_value"], "fdr_bh")
    table.attrs["notes"] = _notes(table, cells, replicates, level) + _alone(panel, base)
    return table


# --- pairs ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PairedCell:
    """One family, task and tuned variant: the two sides' rows in the same order of prompts, and who has no partner."""

    model_name: str
    task: str
    tuned_variant: str
    base: pd.DataFrame
    tuned: pd.DataFrame
    unmatched: int

    @property
    def name(self) -> str:
        return f"{self.model_name}/{self.task}/{self.tuned_variant}"

    @cached_property
    def sides(self) -> Floats:
        """Columns (2, pairs, 10) whose means over pairs decide every measure; base first."""
        return np.stack([mean_columns(self.base), mean_columns(self.tuned)])


def _cells(panel: pd.DataFrame, base: str) -> Iterator[PairedCell]:
    """Every family, task and tuned variant that has a base beside it, sorted by name."""
    key = "prompt_hash" if "prompt_hash" in panel else "prompt_uid"
    for (family, task), rows in panel.groupby(list(CELL), observed=True, sort=True):
        sides = {str(v): _by_prompt(side, key) for v, side in rows.groupby("model_variant", observed=True, sort=True)}
        reference = sides.pop(base, rows.iloc[:0].set_index(key))
        for variant, other in sides.items():
            shared = reference.index.intersection(other.index, sort=False).sort_values()
            unmatched = len(reference) + len(other) - 2 * len(shared)
            yield PairedCell(str(family), str(task), variant, reference.loc[shared], other.loc[shared], unmatched)


def _by_prompt(side: pd.DataFrame, key: str) -> pd.DataFrame:
    twice = side[side.duplicated(key)]
    if len(twice):
        row = twice.iloc[0]
        raise UserError(f"{len(twice)} prompt(s) appear twice in {row['model_name']}/{row['task']}/"
                        f"{row['model_variant']}, such as {row[key]}: a pair needs one row a side. Keep one of each.")
    return side.set_index(key)


def _check(panel: pd.DataFrame, replicates: int, level: float, base: str) -> None:
    missing = [name for name in _NEEDED if name not in panel]
    if not {"prompt_hash", "prompt_uid"} & set(panel):
        missing.append("prompt_hash")
    if missing:
        raise UserError(f"The paired bootstrap needs the panel's columns {', '.join(missing)}; canopy_stats.panel() "
                        "makes them all.")
    variants = list(dict.fromkeys(panel["model_variant"].astype(str)))
    if base not in variants or len(variants) < 2:
        raise UserError(f"The panel's variants are {', '.join(variants) or 'none'}: a comparison needs {base!r} and at "
                        "least one tuned variant. Name another with base=..., or add the missing rows.")
    if replicates < 100 or not 0 < level < 1:
        raise UserError(f"replicates is {replicates} and level {level}: give at least 100 replicates (2,000 for "
                        "tables) and a level between 0 and 1.")
    broken = panel[list(_MEANS)].isna().any(axis=1)
    if broken.any():
        raise UserError(f"{int(broken.sum())} row(s) have NaN in {', '.join(_MEANS)}, first in row "
                        f"{int(np.flatnonzero(broken)[0])}: measure them again or leave them out by name.")


def _refuse_small(cells: list[PairedCell]) -> None:
    small = [cell for cell in cells if len(cell.base) < 2]
    if small or not cells:
        found = ", ".join(f"{cell.name} ({len(cell.base)})" for cell in small[:_SHOWN])
        more = ", ..." * (len(small) > _SHOWN)
        raise UserError(f"Fewer than two prompts are shared by base and tuned in {found or 'every cell'}{more}: draw "
                        "both from the same prompt file, or leave these cells out.")


# --- measures as functions of means -----------------------------------------------------------------------------


def mean_columns(rows: pd.DataFrame) -> Floats:
    """Columns (P, 10): CE, N, R, Cov, then weight times value and weight of each correlation.

    Weights as in :func:`canopy_stats.metrics.pool`: M − 3 for Fisher's z, M(M − 1)/2 for Kendall's tau, and zero for
    a prompt that has no correlation.
    """
    m = rows["M"].to_numpy(np.float64)
    columns = [rows[name].to_numpy(np.float64) for name in _MEANS]
    for name in RHOS:
        rho = rows[name].to_numpy(np.float64)
        weight = np.where(np.isfinite(rho), m * (m - 1) / 2 if name == "rho_kendall" else np.maximum(m - 3, 0), 0)
        known = np.where(weight > 0, rho, 0)
        value = known if name == "rho_kendall" else np.arctanh(np.clip(known, -FISHER_CLIP, FISHER_CLIP))
        columns += [weight * value, weight]
    return np.column_stack(columns)


def linked(means: Floats) -> Floats:
    """Means (..., 10) to the measures (..., 7) on the scale of the tests: GenPPL and BF as logarithms, Pearson and
    Spearman as Fisher's z. A correlation that no prompt has is NaN."""
    ce, length, rate, cov, *rho = np.moveaxis(means, -1, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.stack([ce / length, rate, ce, cov, *(v / w for v, w in zip(rho[::2], rho[1::2], strict=True))], -1)


def natural(values: Floats) -> Floats:
    """Measures (..., 7) from the scale of the tests to their own."""
    out = values.copy()
    out[..., :2] = np.exp(values[..., :2])
    out[..., 4:6] = np.tanh(values[..., 4:6])
    return out


def resampled_shares(n: int, replicates: int, seed: int) -> Floats:
    """How often each of n pairs enters each replicate, divided by n: (replicates, n), rows sum to one."""
    rng = np.random.default_rng(seed_sequence(seed, spawn_key=(n,)))
    return rng.multinomial(n, np.full(n, 1 / n), size=replicates) / n


def without_each(columns: Floats) -> Floats:
    """Means over pairs without pair i, for every i: (..., n, k) to the same shape."""
    n = columns.shape[-2]
    means: Floats = (columns.sum(axis=-2, keepdims=True) - columns) / (n - 1)
    return means


def changes(values: Floats) -> Floats:
    """Measures (2, ..., 7) of base and tuned to the change and the change in % of base: (..., 14)."""
    base, tuned = values
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.concatenate([tuned - base, 100 * (tuned - base) / np.abs(base)], axis=-1)


# --- intervals and tests ----------------------------------------------------------------------------------------


def percentile_interval(draws: Floats, level: float) -> Floats:
    """Quantiles (k, 2) of the replicates (B, k)."""
    return np.quantile(draws, [(1 - level) / 2, (1 + level) / 2], axis=0).T


def bca_interval(draws: Floats, estimate: Floats, jackknifed: Floats, level: float) -> Floats:
    """Bias-corrected and accelerated intervals (k, 2) of k statistics (Efron 1987).

    ``draws`` (B, k) are replicates, ``estimate`` (k,) the statistics, ``jackknifed`` (n, k) their values without each
    pair, which give the acceleration. NaN where a replicate is NaN or all jackknife values agree.
    """
    below = ((draws < estimate).mean(axis=0) + (draws <= estimate).mean(axis=0)) / 2
    pull = jackknifed.mean(axis=0) - jackknifed
    with np.errstate(invalid="ignore", divide="ignore"):
        acceleration = (pull**3).sum(axis=0) / (6 * (pull**2).sum(axis=0) ** 1.5)
        z0, tail = stats.norm.ppf(below), stats.norm.ppf((1 + level) / 2)
        ends = z0[:, None] + np.array([-tail, tail])
        at = stats.norm.cdf(z0[:, None] + ends / (1 - acceleration[:, None] * ends))
    known = np.isfinite(at).all(axis=1) & np.isfinite(draws).all(axis=0)
    return np.array([np.quantile(draws[:, i], at[i]) if known[i] else [np.nan, np.nan] for i in range(len(at))])


def jackknife_error(jackknifed: Floats) -> Floats:
    """Standard errors (k,) from values without each pair (n, k): √((n − 1)/n · Σ (θ_(i) − θ_(·))²)."""
    n = len(jackknifed)
    error: Floats = np.sqrt((n - 1) / n * ((jackknifed - jackknifed.mean(axis=0)) ** 2).sum(axis=0))
    return error


def skewness(jackknifed: Floats) -> Floats:
    """Skewness (k,) of the pairs' parts in k statistics, from their values without each pair (n, k); NaN without
    variation."""
    part = jackknifed.mean(axis=0) - jackknifed
    spread = (part**2).mean(axis=0) ** 1.5
    found = np.divide((part**3).mean(axis=0), spread, out=np.full(len(spread), np.nan), where=spread > 0)
    return np.asarray(found)


def without_skewness(t: Floats, skew: Floats, n: int) -> Floats:
    """Hall's monotone transformation of a t statistic (k,) of n values with this skewness: more nearly Student's."""
    g = skew / np.sqrt(n)
    return np.asarray(t + g * t**2 / 3 + g**2 * t**3 / 27 + g / 6)


def with_skewness(z: Floats, skew: Floats, n: int) -> Floats:
    """The statistic t (k,) that :func:`without_skewness` takes to z."""
    g = skew / np.sqrt(n)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(np.abs(g) > 1e-9, 3 * (np.cbrt(1 + g * (z - g / 6)) - 1) / g, z)


def t_test(estimate: Floats, jackknifed: Floats) -> tuple[Floats, Floats]:
    """Statistics and two-sided p-values (k,) of zero: the larger of Student's with n − 1 degrees of freedom and that
    of the transformed statistic; NaN without variation."""
    n, error = len(jackknifed), jackknife_error(jackknifed)
    t = np.divide(estimate, error, out=np.full(len(error), np.nan), where=error > 0)
    side = np.where(t < 0, -1.0, 1.0)
    moved = side * without_skewness(t, skewness(jackknifed), n)
    return t, np.asarray(np.minimum(2 * stats.t.sf(np.minimum(np.abs(t), moved), n - 1), 1.0))


def t_interval(estimate: Floats, jackknifed: Floats, level: float) -> Floats:
    """Intervals (k, 2) by the rules of :func:`t_test`; NaN without variation."""
    n, error = len(jackknifed), jackknife_error(jackknifed)
    error = np.where(error > 0, error, np.nan)
    q, skew = np.full(len(error), stats.t.ppf((1 + level) / 2, n - 1)), skewness(jackknifed)
    above, below = np.maximum(with_skewness(q, skew, n), q), np.minimum(with_skewness(-q, skew, n), -q)
    return np.column_stack([estimate - above * error, estimate - below * error])


# --- the table --------------------------------------------------------------------------------------------------


def _cell_rows(cell: PairedCell, shares: Floats, level: float) -> pd.DataFrame:
    """One cell's rows of the table, a row per measure."""
    point, without = linked(cell.sides.mean(axis=1)), linked(without_each(cell.sides))
    draws = natural(linked(shares @ cell.sides))
    change, jackknifed, replicated = changes(natural(point)), changes(natural(without)), changes(draws)
    bca, k = bca_interval(replicated, change, jackknifed, level), len(MEASURES)
    percentile = percentile_interval(replicated[:, :k], level)
    percent = np.where(_one_sign(draws[0]), np.column_stack([change[k:], bca[k:]]).T, np.nan)
    interval = t_interval(change[:k], jackknifed[:, :k], level)
    statistic, p = t_test(point[1] - point[0], without[1] - without[0])
    return pd.DataFrame({
        "model_name": cell.model_name, "task": cell.task, "tuned_variant": cell.tuned_variant, "measure": MEASURES,
        "pairs": len(cell.base), "unmatched": cell.unmatched, "left_out": _left_out(cell.sides),
        "base": natural(point)[0], "tuned": natural(point)[1], "estimate": change[:k],
        "std_error": jackknife_error(jackknifed[:, :k]), "df": float(len(cell.base) - 1), "statistic": statistic,
        "p_value": p, "conf_low": interval[:, 0], "conf_high": interval[:, 1],
        "skewness": skewness(jackknifed[:, :k]), "bca_low": bca[:k, 0], "bca_high": bca[:k, 1],
        "percentile_low": percentile[:, 0], "percentile_high": percentile[:, 1],
        "percent": percent[0], "percent_low": percent[1], "percent_high": percent[2],
    })


def _one_sign(draws: Floats) -> NDArray[np.bool_]:
    """Which measures' replicates (B, k) lie all on one side of zero: only of these a percentage says something."""
    return np.asarray((draws > 0).all(axis=0) | (draws < 0).all(axis=0))


def _left_out(sides: Floats) -> NDArray[np.int64]:
    """Pairs (7,) in which a side has no such measure: its weight is zero."""
    lacking = (sides[:, :, [5, 7, 9]] <= 0).any(axis=0).sum(axis=0)
    return np.concatenate([np.zeros(4, np.int64), lacking])


def _notes(table: pd.DataFrame, cells: list[PairedCell], replicates: int, level: float) -> list[str]:
    tests = int(table["p_value"].notna().sum())
    notes = [f"{100 * level:g}% intervals and p-values by Student's t on jackknife standard errors over prompts, wider "
             "where the differences are skewed (p of GenPPL and BF as logarithms, of Pearson and Spearman as Fisher's "
             f"z); BCa and percentile intervals from {replicates:,} resamples of prompts; q controls the "
             f"false-discovery rate over {tests} tests (Benjamini and Hochberg)."]
    unmatched = sum(cell.unmatched for cell in cells)
    if unmatched:
        notes.append(f"{unmatched} prompt(s) have no partner in the other variant and are in no pair.")
    skewed = table[table["skewness"].abs() > SKEWED]
    if len(skewed):
        worst = skewed.iloc[int(skewed["skewness"].abs().to_numpy().argmax())]
        few = int(skewed["pairs"].min())
        notes.append(f"In {len(skewed)} of {len(table)} rows the differences are strongly skewed, most in "
                     f"{worst['model_name']}/{worst['task']}, {worst['measure']} (skewness {worst['skewness']:.1f}), "
                     f"with {few} pairs at least: there a true zero may be missed in up to twice 5%.")
    undefined = int(table["conf_low"].isna().sum())
    if undefined:
        notes.append(f"{undefined} interval(s) are not defined: too few prompts have the correlation, or nothing "
                     "varies.")
    return notes


def _alone(panel: pd.DataFrame, base: str) -> list[str]:
    """A note on cells that hold base rows only, when there are any."""
    tuned = panel.assign(tuned=panel["model_variant"].astype(str) != base)
    has = tuned.groupby(list(CELL), observed=True)["tuned"].any().reset_index()
    alone = [f"{cell[CELL[0]]}/{cell[CELL[1]]}" for cell in has[~has["tuned"]].to_dict("records")]
    return [f"No tuned variant beside the base in {', '.join(alone)}: not compared."] if alone else []
