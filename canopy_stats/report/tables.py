"""The tables: what a paper prints, as data frames of numbers, and as text, CSV, LaTeX, HTML and Markdown.

A table is made of numbers first (:func:`base_tuned`, :func:`slopes`); :func:`formatted` turns it into text once, and
every printed form shows that text. CSV keeps the full numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from canopy_stats.metrics.pooling import pool, three_level
from canopy_stats.schema import UserError

CELL = ("task", "model_name", "model_variant")
"""What names one run in a table: task, family, variant."""


@dataclass(frozen=True, slots=True)
class Style:
    """How one column is printed: its heading in plain text and in LaTeX, and its number format."""

    heading: str
    latex: str
    number: str = "{:.2f}"


STYLES = {
    "task": Style("task", "Task"),
    "model_name": Style("family", "Family"),
    "model_variant": Style("variant", "Variant"),
    "prompts": Style("prompts", "Prompts", "{:d}"),
    "GenPPL": Style("GenPPL", "GenPPL"),
    "BF": Style("BF", "BF"),
    "CE": Style("CE*", "CE$^*$", "{:.1f}"),
    "cov_NR": Style("Cov", "Cov", "{:+.2f}"),
    "rho_pearson": Style("Pearson", r"$\rho_{\mathrm{P}}$", "{:+.2f}"),
    "rho_spearman": Style("Spearman", r"$\rho_{\mathrm{S}}$", "{:+.2f}"),
    "rho_kendall": Style("Kendall", r"$\tau$", "{:+.2f}"),
    "D": Style("D", "$D$", "{:.3f}"),
    "N_bar": Style("N", r"$\bar N$", "{:.1f}"),
    "R_bar": Style("R", r"$\bar R$", "{:.3f}"),
    "truncation_rate": Style("cap %", r"Cap \%", "{:.1%}"),
    "product": Style("N*R", r"$\bar N \bar R$", "{:.1f}"),
    "cov_within": Style("Cov within", r"Cov$_{\mathrm{within}}$", "{:+.2f}"),
    "cov_between": Style("Cov between", r"Cov$_{\mathrm{between}}$", "{:+.2f}"),
}
MEASURES = ("GenPPL", "BF", "CE", "cov_NR", "rho_pearson", "rho_spearman", "rho_kendall", "D", "N_bar", "R_bar",
            "truncation_rate")


# --- tables of numbers ------------------------------------------------------------------------------------------


def base_tuned(panel: pd.DataFrame) -> pd.DataFrame:
    """Base against tuned: a row per family, task and variant, each measure pooled over the cell's prompts.

    Entropies, lengths and rates, their correlations and what follows from them are pooled as ``metrics.pool`` does;
    D and the share that the cap ended are plain means over prompts.
    """
    return _by_cell(panel, _pooled_row, ["model_name", "task", "model_variant"])


def _pooled_row(rows: pd.DataFrame) -> dict[str, float]:
    pooled = pool(rows, rows["M"].to_numpy())
    means = {"D": rows["D"].mean(), "truncation_rate": rows["truncation_rate"].mean(),
             "N_bar": pooled["mean_length"], "R_bar": pooled["mean_rate"]}
    return {"prompts": len(rows)} | {name: float((pooled | means)[name]) for name in MEASURES}


def decomposition(panel: pd.DataFrame) -> pd.DataFrame:
    """Pooled CE* and its three terms, a row per task, family and variant."""
    wanted = ("CE", "product", "cov_within", "cov_between")
    return _by_cell(panel, lambda rows: {k: v for k, v in three_level(rows).items() if k in wanted}, list(CELL))


def slopes(table: pd.DataFrame) -> pd.DataFrame:
    """The slope table as a paper prints it: estimates with standard errors, p-values, the ratio with its 95% set.

    ``table`` is what ``slope.slope_table`` gives. Each cell is text.
    """
    return pd.DataFrame([_slope_row(row) for row in table.to_dict("records")])


def _slope_row(row: Mapping[Any, Any]) -> dict[str, str]:
    return {"model": str(row["model"]), "base slope": with_error(row["base_slope"], row["base_se"]),
            "tuned slope": with_error(row["tuned_slope"], row["tuned_se"]),
            "difference": with_error(row["difference"], row["difference_se"]), "p": p_value(row["difference_p"]),
            "ratio": number(row["ratio"], "{:.2f}"), "95% set of the ratio": _ratio_set(row),
            "p of the curve": p_value(row["lrt_p"]), "rows": str(int(row["nobs"]))}


def scrutiny(table: pd.DataFrame) -> pd.DataFrame:
    """The paper's and the robust slope as a paper prints them; ``table`` is that of ``slope.slope_scrutiny``."""
    shown = [_slope_row({**row, "lrt_p": float("nan")}) for row in table.to_dict("records")]
    return pd.DataFrame(shown).drop(columns="p of the curve")


def _ratio_set(row: Mapping[str, Any]) -> str:
    """Fieller's set in words: an interval, all but an interval, or no bound at all."""
    low, high, kind = row["ratio_low"], row["ratio_high"], row["ratio_kind"]
    if kind == "whole":
        return "any number"
    if not np.isfinite([low, high]).all():
        return MISSING
    return f"outside ({low:.2f}, {high:.2f})" if kind == "exclusive" else interval(low, high, "{:.2f}")


def _by_cell(panel: pd.DataFrame, row_of: Any, keys: list[str]) -> pd.DataFrame:
    if panel.empty:
        raise UserError("The panel has no rows to tabulate: was it filtered to nothing?")
    cells = panel.assign(_tuned=panel["model_variant"].astype(str) != "base").sort_values("_tuned", kind="stable")
    rows = [dict(zip(keys, map(str, cell), strict=True)) | row_of(group.drop(columns="_tuned"))
            for cell, group in cells.groupby(keys, observed=True, sort=False)]
    return pd.DataFrame(rows).sort_values(keys[:2], kind="stable", ignore_index=True)


# --- numbers as a paper prints them -----------------------------------------------------------------------------


def formatted(table: pd.DataFrame, styles: Mapping[str, Style] = STYLES) -> pd.DataFrame:
    """The table as text, column names unchanged: each column's own number format, an en dash for a missing number."""
    return pd.DataFrame({c: [_text(value, styles.get(str(c))) for value in table[c]] for c in table.columns})


def _text(value: Any, style: Style | None) -> str:
    if isinstance(value, str):
        return value
    if value is None or pd.isna(value):
        return MISSING
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    default = "{:d}" if isinstance(value, (int, np.integer)) else "{:.3g}"
    return _unsigned_zero((style.number if style else default).format(value).removesuffix("%"))


def _unsigned_zero(text: str) -> str:
    # a rounded nothing has no sign: "-0.00" and "+0.00" both print as "0.00"
    return text.lstrip("+-") if text.strip("+-0.") == "" and text else text


MISSING = "–"


def number(value: float, form: str = "{:.3f}") -> str:
    """A number in a format; a dash for a missing one."""
    return _unsigned_zero(form.format(value)) if np.isfinite(value) else MISSING


def with_error(value: float, error: float, form: str = "{:.3f}") -> str:
    """``value (standard error)``."""
    return f"{number(value, form)} ({number(error, form)})" if np.isfinite(value) else MISSING


def p_value(p: float) -> str:
    """A p-value in three decimals, or ``< 0.001``."""
    return "< 0.001" if p < 0.001 else number(p)


def interval(low: float, high: float, form: str = "{:.3f}") -> str:
    """``[low, high]``."""
    return f"[{number(low, form)}, {number(high, form)}]"


# --- printed forms ----------------------------------------------------------------------------------------------


def console(table: pd.DataFrame, styles: Mapping[str, Style] = STYLES) -> str:
    """Aligned text for a terminal; a first column's repeated values are printed once."""
    shown = _without_repeats(_headed(formatted(table, styles), styles))
    return str(shown.to_string(index=False))


def markdown(table: pd.DataFrame, styles: Mapping[str, Style] = STYLES) -> str:
    """A Markdown table, numbers to the right."""
    return str(_headed(formatted(table, styles), styles).to_markdown(
        index=False, disable_numparse=True, colalign=["left" if left else "right" for left in _left(table)]))


def html(table: pd.DataFrame, styles: Mapping[str, Style] = STYLES) -> str:
    """An HTML table; all text is escaped."""
    return str(_headed(formatted(table, styles), styles).to_html(index=False, border=0, classes="canopy", escape=True))


def latex(table: pd.DataFrame, caption: str = "", styles: Mapping[str, Style] = STYLES) -> str:
    """A LaTeX table with booktabs rules, numbers to the right."""
    heads = [styles[name].latex if name in styles else tex_escape(str(name)) for name in table.columns]
    body = [[tex_escape(cell) for cell in row] for row in formatted(table, styles).itertuples(index=False, name=None)]
    lines = [" & ".join(row) + r" \\" for row in [heads, *body]]
    spec = "".join("l" if left else "r" for left in _left(table))
    return "\n".join([r"\begin{table}[t]", r"\centering", *([rf"\caption{{{tex_escape(caption)}}}"] if caption else []),
                      rf"\begin{{tabular}}{{{spec}}}", r"\toprule", lines[0], r"\midrule", *lines[1:], r"\bottomrule",
                      r"\end{tabular}", r"\end{table}", ""])


def tex_escape(text: str) -> str:
    """Text that LaTeX prints as it stands; minus signs become real ones."""
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": "$<$",
               "–": "--", "α": r"$\alpha$", "β": r"$\beta$"} | {c: f"\\{c}" for c in "&%$#_{}"}
    escaped = "".join(special.get(c, c) for c in text)
    return f"${escaped}$" if escaped[:1] in "+-" and escaped[1:2].isdigit() else escaped


def _headed(text: pd.DataFrame, styles: Mapping[str, Style]) -> pd.DataFrame:
    return text.rename(columns={name: styles[name].heading for name in text.columns if name in styles})


def _left(table: pd.DataFrame) -> list[bool]:
    return [not pd.api.types.is_numeric_dtype(table[name]) for name in table.columns]


def _without_repeats(text: pd.DataFrame, leading: int = 2) -> pd.DataFrame:
    """Blank the leading columns' values where they repeat the row above, as printed tables do."""
    shown = text.copy()
    same = pd.Series(True, index=text.index)
    for name in list(text.columns[:leading])[: max(0, len(text.columns) - 1)]:
        same &= text[name].eq(text[name].shift())
        shown[name] = text[name].mask(same, "")
    return shown


def write(table: pd.DataFrame, stem: str | Path, caption: str = "", *, shown: pd.DataFrame | None = None) -> list[Path]:
    """Write ``stem`` as .csv (full numbers), .tex, .html, .md and .txt; returns the paths.

    ``shown`` is what the printed forms show, when that is not the table itself.
    """
    view = table if shown is None else shown
    forms = {"csv": table.to_csv(index=False), "tex": latex(view, caption), "html": html(view) + "\n",
             "md": markdown(view) + "\n", "txt": console(view) + "\n"}
    Path(stem).parent.mkdir(parents=True, exist_ok=True)
    return [_write_text(Path(f"{stem}.{kind}"), text) for kind, text in forms.items()]


def _write_text(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path
