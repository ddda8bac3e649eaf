"""Coefficient tables as papers print them: models side by side, standard errors in brackets, their slopes below."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from canopy_stats.report.printed import MISSING, interval, number, precision, stars, with_error
from canopy_stats.schema import UserError

if TYPE_CHECKING:
    from canopy_stats.mixed import Fit
    from canopy_stats.slope import Estimate, SlopeChange

STARS = "Standard errors in brackets. * p < 0.05, ** p < 0.01, *** p < 0.001."
PARTS = ("mean", "dispersion", "random", "slope", "response", "fit")
"""The blocks of a coefficient table, from top to bottom."""
_HEADINGS = {"dispersion": "Dispersion (log φ)", "random": "Standard deviations of random effects",
             "slope": "Slope of diversity on entropy rate", "response": "The same on the response scale"}


def coefficients(changes: Mapping[str, SlopeChange]) -> pd.DataFrame:
    """Every number of a coefficient table, long: a row per model, part and term.

    Columns: ``model part term estimate std_error p_value low high kind unit``. Parts are 'mean' and 'dispersion'
    (coefficients), 'random' (standard deviations, correlations), 'slope' (base, tuned, difference, ratio with
    Fieller's set, whose ``kind`` says how to read it), 'response' (the slopes on the response scale, where that is
    another) and 'fit' (rows, groups, log-likelihood; AIC by maximum likelihood only: restricted likelihoods of
    different mean models cannot be compared).
    """
    if not changes:
        raise UserError("There is no model to tabulate: name at least one.")
    rows = [{"model": name, **row} for name, change in changes.items() for row in _rows(change)]
    table = pd.DataFrame(rows, columns=["model", "part", "term", "estimate", "std_error", "p_value", "low", "high",
                                        "kind", "unit"])
    table.attrs["notes"] = [*_by_models({name: (change.unit + ".",) for name, change in changes.items()}, "Slopes of "),
                            *_by_models({name: change.notes for name, change in changes.items()})]
    return table


def _by_models(texts: Mapping[str, tuple[str, ...]], start: str = "") -> list[str]:
    """Each distinct text once, behind the names of the models that it belongs to."""
    names: dict[str, list[str]] = {}
    for name, own in texts.items():
        for text in own:
            names.setdefault(" ".join(text.split()), []).append(name)
    return [f"{start}{', '.join(found)}: {text}" for text, found in names.items()]


def _rows(change: SlopeChange) -> Iterator[dict[str, Any]]:
    if change.fit is not None:
        yield from _coefficient_rows(change.fit)
        yield from _random_rows(change.fit)
    for name in ("base", "tuned", "difference", "ratio"):
        yield {"part": "slope", "term": name, "unit": "" if name == "ratio" else change.unit,
               **_estimate(getattr(change, name))}
    for name, one in change.response.items():
        yield {"part": "response", "term": name, **_estimate(one)}
    if change.fit is not None:
        yield from _fit_rows(change.fit)


def _estimate(one: Estimate) -> dict[str, Any]:
    return {"estimate": one.estimate, "std_error": one.se, "p_value": one.pvalue, "low": one.interval[0],
            "high": one.interval[1], "kind": one.kind}


def _coefficient_rows(fit: Fit) -> Iterator[dict[str, Any]]:
    for row in fit.tidy().to_dict("records"):
        yield {"part": row["component"], "term": row["term"], "estimate": row["estimate"],
               "std_error": row["std_error"], "p_value": row["p_value"], "low": row["conf_low"],
               "high": row["conf_high"]}


def _random_rows(fit: Fit) -> Iterator[dict[str, Any]]:
    for row in fit.varcorr().to_dict("records"):
        names = [str(row["term1"])] + ([str(row["term2"])] if isinstance(row["term2"], str) else [])
        shown = [name for name in names if name not in ("", "(Intercept)", "Intercept", "1")]
        yield {"part": "random", "term": ": ".join([str(row["group"]), *([", ".join(shown)] if shown else [])]),
               "estimate": row["sd_or_corr"]}


def _fit_rows(fit: Fit) -> Iterator[dict[str, Any]]:
    sizes = {"rows": fit.nobs, **{f"groups of {name}": size for name, size in fit.ngroups.items()}}
    measures = {"log-likelihood (REML)": fit.llf} if fit.reml else {"log-likelihood (ML)": fit.llf, "AIC": fit.aic}
    for name, value in (sizes | measures).items():
        yield {"part": "fit", "term": name, "estimate": float(value)}


# --- as printed -------------------------------------------------------------------------------------------------


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
    if row is None or row["kind"] == "not modelled":
        return MISSING
    if row["kind"] == "whole":
        return "any number"
    low, high = row["low"], row["high"]
    return f"outside ({low:.2f}, {high:.2f})" if row["kind"] == "exclusive" else interval(low, high, "{:.2f}")


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

