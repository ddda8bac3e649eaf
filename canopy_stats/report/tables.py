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
        return "–"
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    default = "{:d}" if isinstance(value, (int, np.integer)) else "{:.3g}"
    return _minus((style.number if style else default).format(value).removesuffix("%"))


def _minus(text: str) -> str:
    # a rounded nothing has no sign: "-0.00" and "+0.00" both print as "0.00"
    return text.lstrip("+-") if text.strip("+-0.") == "" and text else text


def p_value(p: float) -> str:
    """A p-value in three decimals, or ``< 0.001``."""
    return "–" if not np.isfinite(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"


def interval(low: float, high: float, number: str = "{:.3f}") -> str:
    """``[low, high]``."""
    return f"[{number.format(low)}, {number.format(high)}]"


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


def write(table: pd.DataFrame, stem: str | Path, caption: str = "", styles: Mapping[str, Style] = STYLES) -> list[Path]:
    """Write ``stem`` as .csv (full numbers), .tex, .html, .md and .txt; returns the paths."""
    forms = {"csv": table.to_csv(index=False), "tex": latex(table, caption, styles), "html": html(table, styles) + "\n",
             "md": markdown(table, styles) + "\n", "txt": console(table, styles) + "\n"}
    Path(stem).parent.mkdir(parents=True, exist_ok=True)
    return [_write_text(Path(f"{stem}.{kind}"), text) for kind, text in forms.items()]


def _write_text(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path
