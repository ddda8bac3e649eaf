"""The tables: what a paper prints, as data frames of numbers, and as text where a cell holds more than one number.

The printed forms (:func:`console`, :func:`latex`, :func:`html`, :func:`markdown`, :func:`write`) come from
``report.printed``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from canopy_stats.metrics.pooling import pool, three_level
from canopy_stats.mixed.ratios import set_in_words
from canopy_stats.report.printed import (
    MISSING,
    STYLES,
    Style,
    console,
    formatted,
    html,
    interval,
    latex,
    markdown,
    number,
    p_value,
    stars,
    tex_escape,
    with_error,
    write,
)
from canopy_stats.schema import UserError
from canopy_stats.slope.change import ROW

if TYPE_CHECKING:
    from canopy_stats.slope import SlopeChange

__all__ = ["CELL", "MEASURES", "MISSING", "STYLES", "Style", "base_tuned", "changes", "console", "decomposition",
           "formatted", "html", "interval", "latex", "length_thirds", "markdown", "number", "p_value", "paired",
           "printed_changes", "scrutiny", "slopes", "stars", "tex_escape", "with_error", "write"]

CELL = ("task", "model_name", "model_variant")
"""What names one run in a table: task, family, variant."""
MEASURES = ("GenPPL", "BF", "CE", "cov_NR", "rho_pearson", "rho_spearman", "rho_kendall", "D", "N_bar", "R_bar",
            "truncation_rate")


# --- base against tuned -----------------------------------------------------------------------------------------


def base_tuned(panel: pd.DataFrame) -> pd.DataFrame:
    """Base against tuned: a row per family, task and variant, each measure pooled over the cell's prompts.

    Entropies, lengths and rates, their correlations and what follows from them are pooled as ``metrics.pool`` does;
    D, RSE (where the panel has it) and the share that the cap ended are plain means over prompts.
    """
    return _by_cell(panel, _pooled_row, ["model_name", "task", "model_variant"])


def _pooled_row(rows: pd.DataFrame) -> dict[str, float]:
    pooled = pool(rows, rows["M"].to_numpy())
    means = {"D": rows["D"].mean(), "truncation_rate": rows["truncation_rate"].mean(),
             "N_bar": pooled["mean_length"], "R_bar": pooled["mean_rate"]}
    judged = {"RSE": float(rows["RSE"].mean())} if "RSE" in rows else {}
    return {"prompts": len(rows)} | {name: float((pooled | means)[name]) for name in MEASURES} | judged


def decomposition(panel: pd.DataFrame) -> pd.DataFrame:
    """Pooled CE* and its three terms, a row per task, family and variant."""
    wanted = ("CE", "product", "cov_within", "cov_between")
    return _by_cell(panel, lambda rows: {k: v for k, v in three_level(rows).items() if k in wanted}, list(CELL))


def _by_cell(panel: pd.DataFrame, row_of: Any, keys: list[str]) -> pd.DataFrame:
    _refuse_empty(panel)
    cells = panel.assign(_tuned=panel["model_variant"].astype(str) != "base").sort_values("_tuned", kind="stable")
    rows = [dict(zip(keys, map(str, cell), strict=True)) | row_of(group.drop(columns="_tuned"))
            for cell, group in cells.groupby(keys, observed=True, sort=False)]
    return pd.DataFrame(rows).sort_values(keys[:2], kind="stable", ignore_index=True)


def _refuse_empty(panel: pd.DataFrame) -> None:
    if panel.empty:
        raise UserError("The panel has no rows to tabulate: was it filtered to nothing?")


# --- changes on the same prompts --------------------------------------------------------------------------------

_MEASURE_NAMES = {"GenPPL": "GenPPL", "BF": "BF", "CE": "CE*", "cov_NR": "Cov", "rho_pearson": "Pearson",
                  "rho_spearman": "Spearman", "rho_kendall": "Kendall"}
PERCENT = ("GenPPL", "BF", "CE")
"""Measures with a zero that means nothing at all: only of these the printed table gives a change in per cent."""


def paired(table: pd.DataFrame) -> pd.DataFrame:
    """The paired bootstrap as a paper prints it, from what ``metrics.paired_bootstrap`` gives. Each cell is text."""
    several = table["tuned_variant"].nunique() > 1
    shown = pd.DataFrame([_paired_row(row, several) for row in table.to_dict("records")])
    shown.attrs.update(table.attrs)
    return shown


def _paired_row(row: Mapping[Any, Any], several: bool) -> dict[str, str]:
    form = "{:.2f}" if row["measure"] == "CE" else "{:.3f}"
    percent = row["percent"] if row["measure"] in PERCENT else np.nan
    return {"family": row["model_name"], "task": row["task"]} | ({"tuned": row["tuned_variant"]} if several else {}) | {
        "measure": _MEASURE_NAMES[row["measure"]], "base": number(row["base"], form),
        "tuned value" if several else "tuned": number(row["tuned"], form),
        "change": number(row["change"], form), "95% BCa interval": interval(row["low"], row["high"], form),
        "change in %": number(percent, "{:.1f}"), "p": p_value(row["p"]), "q": p_value(row["q"]),
        "pairs": str(row["pairs"])}


# --- slopes -----------------------------------------------------------------------------------------------------


def slopes(table: pd.DataFrame) -> pd.DataFrame:
    """The slope table as a paper prints it: estimates with standard errors, p-values, the ratio with its 95% set.

    ``table`` is what ``slope.slope_table`` gives. Each cell is text.
    """
    tuned = ["tuned"] if "tuned" in table else []
    return pd.DataFrame([{**{name: str(row[name]) for name in (*tuned, "model")}, **_slope_cells(row),
                          "p of the curve": p_value(row["lrt_p"]), "rows": str(int(row["nobs"]))}
                         for row in table.to_dict("records")])


def _slope_cells(row: Mapping[Any, Any]) -> dict[str, str]:
    return {"base slope": with_error(row["base_slope"], row["base_std_error"]),
            "tuned slope": with_error(row["tuned_slope"], row["tuned_std_error"]),
            "difference": with_error(row["estimate"], row["std_error"]), "p": p_value(row["p_value"]),
            "ratio": number(row["ratio"], "{:.2f}"), "95% set of the ratio": ratio_set(row)}


def scrutiny(table: pd.DataFrame) -> pd.DataFrame:
    """The paper's and the robust slope as a paper prints them; ``table`` is that of ``slope.slope_scrutiny``."""
    return pd.DataFrame([{"model": str(row["model"]), **_slope_cells(row), "rows": str(int(row["nobs"]))}
                         for row in table.to_dict("records")])


def ratio_set(row: Mapping[Any, Any]) -> str:
    """Fieller's set in words: an interval, all but an interval, or no bound at all."""
    return set_in_words(row["ratio_conf_low"], row["ratio_conf_high"], row["ratio_kind"], "{:.2f}")


def changes(found: Sequence[tuple[Mapping[str, Any], SlopeChange]]) -> pd.DataFrame:
    """Slope changes of several panels or models, a row each: what tells them apart, then the numbers."""
    return pd.DataFrame([{**label, **change.row()} for label, change in found])


def printed_changes(table: pd.DataFrame) -> pd.DataFrame:
    """What :func:`changes` gives, as a paper prints it: the labels and sizes as they are, then slopes and ratio."""
    labels = [name for name in table.columns if name not in ROW]
    text = formatted(table[labels])
    rows = [{"model": row["model"], **_slope_cells(row)} for row in table.to_dict("records")]
    shown = pd.concat([text, pd.DataFrame(rows)], axis=1)
    shown.attrs.update(table.attrs)
    return shown



# --- lengths ----------------------------------------------------------------------------------------------------

THIRDS = ("shortest", "middle", "longest")


def length_thirds(panel: pd.DataFrame) -> pd.DataFrame:
    """Lengths, truncation, rates and diversity by task and variant, for all prompts and for thirds by mean length.

    Thirds are formed within each run (task, family, variant), so that a family with long texts is not one of them;
    prompts of equal length are divided by name. Columns are means over prompts, with the standard deviation, shortest
    and longest of the mean lengths and the standard deviation of D.
    """
    _refuse_empty(panel)
    panel = panel.reset_index(drop=True)
    by = panel.groupby(list(CELL), observed=True)["N_bar"]
    ordered = panel.sort_values(["N_bar", "prompt_uid"])
    place = ordered.groupby(list(CELL), observed=True).cumcount().reindex(panel.index)
    third = np.asarray(THIRDS)[(3 * place / by.transform("size")).astype(int)]
    rows = [frame for part in (panel.assign(third="all"), panel.assign(third=third)) for frame in _described(part)]
    table = pd.DataFrame(rows)
    rank = {name: i for i, name in enumerate(("base", *sorted(set(table["model_variant"]) - {"base"})))}
    order = {"model_variant": rank, "third": {name: i for i, name in enumerate(("all", *THIRDS))}}
    table = table.sort_values(["task", "model_variant", "third"], ignore_index=True,
                              key=lambda c: c.map(order[str(c.name)]) if c.name in order else c)
    table.attrs["notes"] = ["Thirds of the prompts by mean length, within each task, family and variant; means over "
                            "prompts and families."]
    return table


def _described(panel: pd.DataFrame) -> list[dict[str, Any]]:
    keys = ["task", "model_variant", "third"]
    return [dict(zip(keys, map(str, cell), strict=True)) | {"rows": len(rows)} | {
        name: float(how(rows[column])) for name, (column, how) in _DESCRIBED.items() if column in rows}
        for cell, rows in panel.groupby(keys, observed=True)]


_DESCRIBED: dict[str, tuple[str, Callable[[pd.Series], float]]] = {
    "N_bar": ("N_bar", pd.Series.mean), "N_sd": ("N_bar", pd.Series.std), "N_shortest": ("N_bar", pd.Series.min),
    "N_longest": ("N_bar", pd.Series.max), "truncation_rate": ("truncation_rate", pd.Series.mean),
    "R_bar": ("R_bar", pd.Series.mean), "D": ("D", pd.Series.mean), "D_sd": ("D", pd.Series.std),
    "log_VS": ("log_VS", pd.Series.mean), "RSE": ("RSE", pd.Series.mean)}
