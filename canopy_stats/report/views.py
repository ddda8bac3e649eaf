"""The tables as a paper prints them: each cell is text, often more than one number. Made of the frames."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from canopy_stats.mixed.inference.ratios import set_in_words
from canopy_stats.report.coefficients import PARTS
from canopy_stats.report.printed import MISSING, formatted, interval, number, p_value, precision, stars, with_error
from canopy_stats.slope.change import ROW

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
        "change": number(row["estimate"], form),
        "95% interval": interval(row["conf_low"], row["conf_high"], form),
        "change in %": number(percent, "{:.1f}"), "p": p_value(row["p_value"]), "q": p_value(row["q_value"]),
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


def quadratic(table: pd.DataFrame) -> pd.DataFrame:
    """The check of linearity as a paper prints it; ``table`` is what ``slope.quadratic_check`` gives."""
    tuned = ["tuned"] if "tuned" in table else []
    return pd.DataFrame([{**{name: str(row[name]) for name in (*tuned, "coefficient")},
                          "linear": with_error(row["linear"], row["linear_std_error"]),
                          "quadratic": with_error(row["quadratic"], row["quadratic_std_error"]),
                          "moved": number(row["moved"]), "in standard errors": number(row["moved_in_se"], "{:+.2f}"),
                          "LRT": number(row["lrt_chi2"], "{:.1f}"), "p": p_value(row["lrt_p"])}
                         for row in table.to_dict("records")])


def scrutiny(table: pd.DataFrame) -> pd.DataFrame:
    """The paper's and the robust slope as a paper prints them; ``table`` is that of ``slope.slope_scrutiny``."""
    return pd.DataFrame([{"model": str(row["model"]), **_slope_cells(row), "rows": str(int(row["nobs"]))}
                         for row in table.to_dict("records")])


def cells(table: pd.DataFrame) -> pd.DataFrame:
    """The robust slopes by family and task as a paper prints them; ``table`` is what ``frames.cells`` gives."""
    tuned = ["tuned_variant"] if "tuned_variant" in table else []
    return pd.DataFrame([{**{name: str(row[name]) for name in tuned}, "task": str(row["task"]),
                          "family": str(row["model_name"]), "rows": str(int(row["rows"])),
                          "base slope": with_error(row["base_slope"], row["base_std_error"], "{:.2f}"),
                          "tuned slope": with_error(row["tuned_slope"], row["tuned_std_error"], "{:.2f}"),
                          "difference": with_error(row["estimate"], row["std_error"], "{:.2f}"),
                          "weight": number(row["weight"], "{:.2f}")} for row in table.to_dict("records")])


def ratio_set(row: Mapping[Any, Any]) -> str:
    """Fieller's set in words: an interval, all but an interval, or no bound at all."""
    return set_in_words(row["ratio_conf_low"], row["ratio_conf_high"], row["ratio_kind"], "{:.2f}")


def printed_changes(table: pd.DataFrame) -> pd.DataFrame:
    """What :func:`changes` gives, as a paper prints it: the labels and sizes as they are, then slopes and ratio."""
    labels = [name for name in table.columns if name not in ROW]
    text = formatted(table[labels])
    rows = [{"model": row["model"], **_slope_cells(row)} for row in table.to_dict("records")]
    shown = pd.concat([text, pd.DataFrame(rows)], axis=1)
    shown.attrs.update(table.attrs)
    return shown


# --- coefficients of models side by side ------------------------------------------------------------------------

STARS = "Standard errors in brackets. * p < 0.05, ** p < 0.01, *** p < 0.001."
_HEADINGS = {"dispersion": "Dispersion (log φ)", "random": "Standard deviations of random effects",
             "slope": "Slope of diversity on entropy rate", "response": "The same on the response scale"}


def side_by_side(table: pd.DataFrame) -> pd.DataFrame:
    """A coefficient table as a paper prints it, a column per model, from :func:`coefficients`. Each cell is text."""
    models = list(dict.fromkeys(table["model"]))
    rows = [row for part in PARTS for row in _block(table[table["part"] == part], part, models)]
    shown = pd.DataFrame(rows, columns=["term", *models])
    shown.attrs["notes"] = [STARS, *table.attrs.get("notes", [])]
    return shown


def _block(rows: pd.DataFrame, part: str, models: list[str]) -> list[dict[str, str]]:
    if rows.empty:
        return []
    cells = {(r["model"], r["term"]): r for r in rows.to_dict("records")}
    blank = dict.fromkeys(models, "")
    lines = [{"term": _HEADINGS[part], **blank}] if _HEADINGS.get(part) else []
    for term in dict.fromkeys(rows["term"]):
        found = {model: _cell(part, cells.get((model, term))) for model in models}
        lines.append({"term": readable(term), **found})
        if part == "slope" and term == "ratio":
            lines.append({"term": "95% set of the ratio", **{m: _set(cells.get((m, term))) for m in models}})
    return lines


def _cell(part: str, row: Mapping[Any, Any] | None) -> str:
    if row is None:
        return ""
    if part == "fit":
        return f"{row['estimate']:,.0f}" if float(row["estimate"]).is_integer() else f"{row['estimate']:,.1f}"
    if part == "random":
        return number(row["estimate"])
    if part == "slope" and row["term"] == "ratio":
        return number(row["estimate"], "{:.2f}")
    return with_error(row["estimate"], row["std_error"], precision(row["std_error"]), stars(row["p_value"]))


def _set(row: Mapping[Any, Any] | None) -> str:
    return MISSING if row is None else set_in_words(row["conf_low"], row["conf_high"], row["kind"], "{:.2f}")


_WORDS = {"R_bar": "R", "R_c": "R (centred)", "R_c2": "R² (centred)", "N_bar": "N", "R_sc": "R (standardised)",
          "invN_sc": "1/N (standardised)", "prompt_uid": "prompt", "model_name": "family", "model_variant": "variant"}
_LEVEL = re.compile(r"^(\w+)\[T\.(.*)\]$")
_SPLINE = re.compile(r"^ns\((\w+),\s*(?:df\s*=\s*)?(\d+)\)\[(\d+)\]$")


def readable(term: str) -> str:
    """A coefficient's name in words: ``R_bar:model_variant[T.instruct]`` becomes ``R × instruct``."""
    if ": " in term:
        group, effect = term.split(": ", 1)
        return f"{_WORDS.get(group, group)}: {readable(effect)}"
    return " × ".join(_factor(part) for part in term.split(":"))


def _factor(part: str) -> str:
    if level := _LEVEL.match(part):
        name, value = level.groups()
        return value if name == "model_variant" else f"{_WORDS.get(name, name)} {value}"
    if spline := _SPLINE.match(part):
        name, df, place = spline.groups()
        return f"spline of {_WORDS.get(name, name)}, {place} of {df}"
    return f"groups: {_WORDS.get(part[10:], part[10:])}" if part.startswith("groups of ") else _WORDS.get(part, part)

