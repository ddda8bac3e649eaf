"""The paper's first claim as one answer: does the correlation of length and entropy rate rise by fine-tuning, over
families and tasks, even where total entropy falls?

Each prompt's change of Fisher's z is paired (base and tuned read the same prompt); a family × task cell is the mean
over its prompts. Cells of a task share prompts, so their errors go together. Over cells: a random-effects mean with
the rules of the robust slope (:mod:`canopy_stats.slope.combine`), and a prediction interval for a family and task not
yet seen (Higgins, Thompson & Spiegelhalter 2009, J. R. Stat. Soc. A 172:137).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import stats

from canopy_stats.metrics.association import RHOS
from canopy_stats.metrics.measures import measure
from canopy_stats.metrics.origin import Origin
from canopy_stats.metrics.rho import rho
from canopy_stats.metrics.rho_change_words import verdict
from canopy_stats.mixed.formulas.frames import as_pandas, is_table
from canopy_stats.notebook import Shown
from canopy_stats.schema import UserError
from canopy_stats.slope.combine import CellGrid, Combined, combine
from canopy_stats.slope.estimates import LEVEL, estimate

if TYPE_CHECKING:
    from canopy_stats.store import Run

Array = np.ndarray
PRIMARY = "rho_pearson"
"""The one coefficient that the question is decided by; Spearman's and Kendall's are other views of it."""
QUANTITIES = ("raw", "excess", "adjusted")
CLIP = 0.999999
FEWEST = 5
"""Prompts with both variants that a cell needs."""
CELL = ["task", "model_name"]
KEY = [*CELL, "prompt_uid"]


@dataclass(frozen=True)
class RhoChange(Shown):
    """Change of rho(N, r) by fine-tuning.

    ``table``, a row for each coefficient and quantity (and one for log CE*): coefficient, quantity, primary,
    estimate, std_error, df, statistic, p_value, conf_low, conf_high of the mean over families and tasks, predict_low
    and predict_high for another family and task, family_sd, task_sd, cell_sd, heterogeneity_p (Cochran's Q), cells,
    prompts, left_out (pairs without a correlation), equivalence_p (that the change is at least ``margin`` in size) and
    joint_p (that rho does not rise or CE* does not fall). ``cells``: the same estimate by task and family, with
    change_log_CE, its p-value, and the cell's joint_p. Changes are of Fisher's z; of the excess, which is no
    correlation, as it is.
    """

    table: pd.DataFrame
    cells: pd.DataFrame
    verdict: str
    notes: tuple[str, ...]
    margin: float

    def __str__(self) -> str:
        return self.verdict

    def _shown(self) -> tuple[str, list[Any]]:
        return "Change of rho(N, r) by fine-tuning", [self.verdict, self.table, *self.notes]


def rho_change(runs_or_panel: pd.DataFrame | Iterable[Run] | Run, *, margin: float = 0.1,
               origin: Origin = "auto") -> RhoChange:
    """Whether rho(N, r) rises by fine-tuning, over families and tasks.

    Parameters
    ----------
    runs_or_panel : a panel with base and one tuned variant, the raw coefficients in rho_* (and, where it has them, the
        excess and the adjusted ones in rho_*_excess, rho_*_adjusted); or runs, from which all three are made
    margin : changes of Fisher's z smaller than this count as none in the test of equivalence (two one-sided tests)
    origin : "auto", "start" or "end"
        Of the position profiles of runs, as for :func:`canopy_stats.rho`: by "auto" each run has its own, and runs
        whose excess and adjusted coefficients are withheld are left out of those rows, by name

    UserError for a panel without both variants, or without a cell of 5 prompts that both have correlations for.
    """
    if not margin > 0:
        raise UserError(f"margin is {margin}; give a positive change of Fisher's z that would not matter.")
    panel, said = ((as_pandas(runs_or_panel), ()) if is_table(runs_or_panel) else _measured(runs_or_panel, origin))
    pairs = _pairs(panel)
    entropy = _by_cell(pairs, _log_ratio(pairs, "CE"))
    found = [_row(pairs, name, quantity, entropy, margin) for quantity in QUANTITIES for name in RHOS
             if _any_pair(pairs, _column(name, quantity))]
    table = pd.DataFrame([*(row for row, _ in found), _entropy_row(entropy)])
    cells = pd.concat([one for _, one in found], ignore_index=True)
    notes = (*_notes(pairs, table), *said)
    return RhoChange(table, cells, verdict(table, cells, margin), notes, margin)


# --- prompts ----------------------------------------------------------------------------------------------------


def _measured(runs: Any, origin: Origin) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """One row a prompt of each run, with the raw, excess and adjusted coefficients; and what is said of runs without
    the last two."""
    parts, said = [], []
    wanted = ["prompt_id", *(_column(name, q) for name in RHOS for q in QUANTITIES[1:])]
    for run in [runs] if hasattr(runs, "rollouts") else list(runs):
        found = rho(run, n_boot=0, origin=origin)
        parts.append(measure(run).merge(found.prompts[wanted], on="prompt_id", validate="one_to_one"))
        if found.withheld:
            name = ", ".join([run.config.family, run.config.variant, run.config.task])
            said.append(f"Excess and adjusted of {name} are withheld: {found.withheld}.")
    if not parts:
        raise UserError("No runs were given: rho_change needs runs of base and tuned checkpoints, or their panel.")
    return pd.concat(parts, ignore_index=True), tuple(said)


def _any_pair(pairs: pd.DataFrame, column: str) -> bool:
    """Whether any cell has enough prompts with this coefficient in both variants; the raw ones always go on, to be
    refused by name."""
    if column in RHOS:
        return f"{column}_base" in pairs
    both = [f"{column}_{variant}" for variant in ("base", "tuned")]
    if not set(both) <= set(pairs):
        return False
    known = pairs[both].notna().all(axis=1)
    return bool(known.groupby([pairs[name] for name in CELL]).sum().ge(FEWEST).any())


def _column(name: str, quantity: str) -> str:
    return name if quantity == "raw" else f"{name}_{quantity}"


def _pairs(panel: pd.DataFrame) -> pd.DataFrame:
    """Prompts that base and tuned have, a row for each cell's, columns NAME_base and NAME_tuned."""
    lacking = [name for name in (*KEY, "model_variant", "CE", PRIMARY) if name not in panel]
    if lacking:
        raise UserError(f"The panel lacks {', '.join(lacking)}; make it with canopy_stats.panel.")
    variants = sorted(set(panel["model_variant"].astype(str)))
    if "base" not in variants or len(variants) != 2:
        raise UserError(f"model_variant has {', '.join(variants)}; a change needs 'base' and one fine-tuned variant: "
                        "select the rows of two.")
    is_base = panel["model_variant"].astype(str) == "base"
    both = panel[is_base].merge(panel[~is_base], on=KEY, suffixes=("_base", "_tuned"), validate="one_to_one")
    if both.empty:
        raise UserError("Base and tuned have no prompt in common: rho's change is taken prompt by prompt. Generate "
                        "both from one prompt file.")
    return both.astype(dict.fromkeys(KEY, str))


def _change(pairs: pd.DataFrame, name: str, quantity: str) -> Array:
    """Change (P,) of Fisher's z, or of the excess itself; NaN where a variant has no correlation."""
    column = _column(name, quantity)
    scale = np.asarray if quantity == "excess" else _fisher_z
    before, after = (scale(pairs[f"{column}_{variant}"].to_numpy(dtype=float)) for variant in ("base", "tuned"))
    change: Array = after - before
    return change


def _fisher_z(rho: Array) -> Array:
    return np.asarray(np.arctanh(np.clip(rho, -CLIP, CLIP)))


def _log_ratio(pairs: pd.DataFrame, name: str) -> Array:
    """Log of tuned over base (P,); NaN where either is not positive."""
    before, after = (pairs[f"{name}_{variant}"].to_numpy(dtype=float) for variant in ("base", "tuned"))
    good = (before > 0) & (after > 0)
    return np.where(good, np.log(np.where(good, after, 1.0)) - np.log(np.where(good, before, 1.0)), np.nan)


# --- cells and their mean ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _CellChanges:
    """Mean changes (K,) of K cells with their sampling covariance (K, K); ``names`` has task, model_name, prompts."""

    names: pd.DataFrame
    values: Array
    sampling: Array
    left_out: int

    def mean(self) -> Combined:
        grid = CellGrid(*(pd.factorize(self.names[name])[0] for name in ("model_name", "task")))
        return combine(self.values, self.sampling, grid)


def _by_cell(pairs: pd.DataFrame, change: Array) -> _CellChanges:
    """Cells of at least five known changes. Errors of two cells of a task correlate as their prompts' changes do on
    average over all such pairs of cells, never below zero."""
    known = pairs.assign(change=change)[np.isfinite(change)]
    wide = known.pivot_table(index="prompt_uid", columns=CELL, values="change", aggfunc="mean")
    wide = wide.loc[:, wide.notna().sum() >= FEWEST]
    if wide.shape[1] == 0:
        raise UserError(f"No family and task has {FEWEST} prompts with a correlation in both variants: rho's change "
                        "cannot be told. Draw more prompts, or more rollouts where none of them varies.")
    count = wide.notna().sum().to_numpy()
    error = wide.std(ddof=1).to_numpy() / np.sqrt(count)
    task = wide.columns.get_level_values("task").to_numpy()
    pairs_of = np.equal.outer(task, task) & ~np.eye(len(task), dtype=bool)
    correlation = max(0.0, _shared(wide, pairs_of)) * pairs_of + np.eye(len(task))
    names = wide.columns.to_frame(index=False).assign(prompts=count)
    return _CellChanges(names, wide.mean().to_numpy(), np.outer(error, error) * correlation,
                        int(len(change) - len(known)))


def _shared(wide: pd.DataFrame, pairs_of: Array) -> float:
    """Mean correlation over prompts of two cells of one task; zero where no task has two."""
    if not pairs_of.any():
        return 0.0
    found = wide.corr(min_periods=FEWEST).to_numpy()[pairs_of]
    return float(np.nanmean(found)) if np.isfinite(found).any() else 0.0


def _row(pairs: pd.DataFrame, name: str, quantity: str, entropy: _CellChanges,
         margin: float) -> tuple[dict[str, Any], pd.DataFrame]:
    """One row of the table, and the rows of its cells."""
    cells = _by_cell(pairs, _change(pairs, name, quantity))
    labels: dict[str, Any] = {"coefficient": name, "quantity": quantity,
                              "primary": name == PRIMARY and quantity == "raw"}
    overall = _overall(cells)
    falls = _one_sided(entropy.mean().value, entropy.mean().se, entropy.mean().df, -1)
    overall |= {"equivalence_p": _equivalence(overall, margin),
                "joint_p": max(_one_sided(overall["estimate"], overall["std_error"], overall["df"], 1), falls)}
    return labels | overall, _cell_rows(cells, entropy).assign(**labels)


def _entropy_row(entropy: _CellChanges) -> dict[str, Any]:
    return {"coefficient": "log_CE", "quantity": "raw", "primary": False, **_overall(entropy)}


def _overall(cells: _CellChanges) -> dict[str, Any]:
    """The mean over families and tasks, how much cells vary, and what another one may show."""
    mean = cells.mean()
    spread = {f"{source}_sd": mean.spread.get(source, float("nan")) for source in ("family", "task", "cell")}
    apart = np.sqrt(mean.se**2 + sum(sd**2 for sd in mean.spread.values()))
    half = float(stats.t.ppf((1 + LEVEL) / 2, mean.df)) * apart
    return {**estimate(mean.value, mean.se, mean.df).row(), "predict_low": mean.value - half,
            "predict_high": mean.value + half, **spread, "heterogeneity_p": _heterogeneity(cells),
            "cells": len(cells.values), "prompts": int(cells.names["prompts"].sum()), "left_out": cells.left_out}


def _heterogeneity(cells: _CellChanges) -> float:
    """P-value of Cochran's Q for correlated estimates; NaN for one cell."""
    if len(cells.values) < 2:
        return float("nan")
    inverse = np.linalg.inv(cells.sampling)
    rest = cells.values - float(inverse.sum(axis=0) @ cells.values / inverse.sum())
    return float(stats.chi2.sf(rest @ inverse @ rest, len(rest) - 1))


def _one_sided(value: float, error: float, df: float, sign: int) -> float:
    """P-value of the test that a value lies on one side of zero."""
    return float(stats.t.sf(sign * value / error, df)) if error > 0 else float("nan")


def _equivalence(row: dict[str, Any], margin: float) -> float:
    """The larger p-value of two one-sided tests (Schuirmann 1987): small where a change is smaller than the margin."""
    low, high = (row["estimate"] + sign * margin for sign in (1, -1))
    return max(_one_sided(low, row["std_error"], row["df"], 1), _one_sided(high, row["std_error"], row["df"], -1))


def _cell_rows(cells: _CellChanges, entropy: _CellChanges) -> pd.DataFrame:
    """Each cell's change with Student's interval over its prompts, beside that of log CE*."""
    rows = []
    of_entropy = {tuple(name): place for place, name in enumerate(entropy.names[CELL].to_numpy())}
    for k, (task, family, prompts) in enumerate(cells.names[[*CELL, "prompts"]].itertuples(index=False, name=None)):
        one = estimate(cells.values[k], np.sqrt(cells.sampling[k, k]), prompts - 1)
        row = {"task": task, "model_name": family, "prompts": prompts, **one.row()}
        at = of_entropy.get((task, family))
        if at is not None:
            error, df = float(np.sqrt(entropy.sampling[at, at])), float(entropy.names["prompts"].iloc[at] - 1)
            falls = _one_sided(entropy.values[at], error, df, -1)
            row |= {"change_log_CE": entropy.values[at], "change_log_CE_p": 2 * min(falls, 1 - falls),
                    "joint_p": max(_one_sided(one.estimate, one.se, one.df, 1), falls)}
        rows.append(row)
    return pd.DataFrame(rows)


def _notes(pairs: pd.DataFrame, table: pd.DataFrame) -> tuple[str, ...]:
    first = table[table["primary"]].iloc[0]
    notes = [f"{int(first['left_out'])} of {len(pairs)} pairs of prompts have no correlation in one of their variants "
             "and are left out."] if first["left_out"] else []
    families, tasks = (pairs[name].nunique() for name in ("model_name", "task"))
    single = [word for word, count in (("family", families), ("task", tasks)) if count == 1]
    notes += [f"The panel has one {word}: nothing is said of others." for word in single]
    return tuple(notes)
