"""How tables are printed: numbers as text, and text as a terminal, LaTeX, HTML and Markdown show it.

:func:`formatted` turns numbers into text once and every printed form shows that text; CSV keeps the full numbers. Notes
in ``table.attrs["notes"]`` stand below every printed form.
"""

from __future__ import annotations

import html as markup
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import floor, log10
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from canopy_stats import files


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
    "rows": Style("rows", "Rows", "{:d}"),
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
    "third": Style("third by length", "Third by length"),
    "N_sd": Style("sd of N", r"SD of $\bar N$", "{:.1f}"),
    "N_shortest": Style("shortest", "Shortest", "{:.1f}"),
    "N_longest": Style("longest", "Longest", "{:.1f}"),
    "D_sd": Style("sd of D", "SD of $D$", "{:.3f}"),
    "mean_D": Style("mean D", r"Mean $D$", "{:.3f}"),
    "mean_R": Style("mean R", r"Mean $\bar R$", "{:.3f}"),
    "RSE": Style("RSE", "RSE", "{:.2f}"),
    "drawn_by": Style("drawn by", "Drawn by"),
    "tokens_template": Style("tokens: template", "Tokens: template", "{:.1f}"),
    "tokens_rendered": Style("rendered", "Rendered", "{:.1f}"),
    "differing": Style("differing %", r"Differing \%", "{:.0%}"),
    "second_bos_template": Style("second BOS %: template", r"Second BOS \%: template", "{:.0%}"),
    "second_bos_rendered": Style("rendered %", r"Rendered \%", "{:.0%}"),
    "saturated": Style("at log m %", r"At $\log m$ \%", "{:.0%}"),
    "VS": Style("VS", "VS", "{:.2f}"),
    "cov_NR_paper": Style("Cov (M-1)", "Cov$_{M-1}$", "{:+.2f}"),
    "share_product": Style("N*R %", r"$\bar N \bar R$ \%", "{:.1%}"),
    "share_cov_within": Style("within %", r"Within \%", "{:+.1%}"),
    "share_cov_between": Style("between %", r"Between \%", "{:+.1%}"),
    "share_cov_paper": Style("paper's Cov %", r"Paper's Cov \%", "{:+.1%}"),
    "rho_ND_pearson": Style("Pearson", r"$\rho_{\mathrm{P}}(N, d)$", "{:+.2f}"),
    "rho_ND_spearman": Style("Spearman", r"$\rho_{\mathrm{S}}(N, d)$", "{:+.2f}"),
    "rho_ND_kendall": Style("Kendall", r"$\tau(N, d)$", "{:+.2f}"),
    "cov_ND": Style("Cov(N, d)", "Cov$(N, d)$", "{:+.3f}"),
    "cov_ND_paper": Style("Cov (M-1)", "Cov$_{M-1}$", "{:+.3f}"),
    "D_short": Style("D short", r"$D$ short", "{:.3f}"),
    "D_middle": Style("D middle", r"$D$ middle", "{:.3f}"),
    "D_long": Style("D long", r"$D$ long", "{:.3f}"),
    "log_VS": Style("log VS", r"$\log$ VS", "{:.2f}"),
}


# --- numbers as a paper prints them -----------------------------------------------------------------------------

MISSING = "–"


def formatted(table: pd.DataFrame, styles: Mapping[str, Style] = STYLES) -> pd.DataFrame:
    """The table as text, column names unchanged: each column's own number format, an en dash for a missing number."""
    shown = pd.DataFrame({c: [_text(value, styles.get(str(c))) for value in table[c]] for c in table.columns})
    shown.attrs.update(table.attrs)
    return shown


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


def number(value: float, form: str = "{:.3f}") -> str:
    """A number in a format; a dash for a missing one."""
    return _unsigned_zero(form.format(value)) if np.isfinite(value) else MISSING


def precision(error: float, least: int = 2, most: int = 6) -> str:
    """A number format with the decimals that show two digits of a standard error."""
    known = np.isfinite(error) and error > 0
    return f"{{:.{min(max(1 - floor(log10(error)), least), most) if known else 3}f}}"


def with_error(value: float, error: float, form: str = "{:.3f}", mark: str = "") -> str:
    """``value (standard error)``, with a mark behind the value."""
    return f"{number(value, form)}{mark} ({number(error, form)})" if np.isfinite(value) else MISSING


def p_value(p: float) -> str:
    """A p-value in three decimals, or ``< 0.001``."""
    return "< 0.001" if p < 0.001 else number(p)


def stars(p: float) -> str:
    """``***`` below 0.001, ``**`` below 0.01, ``*`` below 0.05."""
    return "*" * sum(p < bound for bound in (0.05, 0.01, 0.001))


def interval(low: float, high: float, form: str = "{:.3f}") -> str:
    """``[low, high]``; a dash when an end is not a number."""
    return f"[{number(low, form)}, {number(high, form)}]" if np.isfinite([low, high]).all() else MISSING


# --- printed forms ----------------------------------------------------------------------------------------------

LONG = 45
"""A LaTeX table of more rows than this may break over pages."""


def notes_of(table: pd.DataFrame) -> list[str]:
    """What stands below the table."""
    return list(table.attrs.get("notes", []))


def console(table: pd.DataFrame, styles: Mapping[str, Style] = STYLES) -> str:
    """Aligned text for a terminal; a first column's repeated values are printed once."""
    shown = headed(table, styles)
    return "\n".join([str(shown.to_string(index=False)), *([""] if notes_of(table) else []), *notes_of(table)])


def headed(table: pd.DataFrame, styles: Mapping[str, Style] = STYLES) -> pd.DataFrame:
    """The table as text under the headings that people read; a first column's repeated values are printed once."""
    return _without_repeats(_headed(formatted(table, styles), styles))


def to_the_left(text: pd.DataFrame) -> list[bool]:
    """Which columns of a table of text hold words."""
    return _left(text)


def markdown(table: pd.DataFrame, styles: Mapping[str, Style] = STYLES) -> str:
    """A Markdown table, numbers to the right."""
    text = formatted(table, styles)
    safe = _headed(text, styles).map(_markdown_cell).rename(columns=_markdown_cell)
    grid = str(safe.to_markdown(
        index=False, disable_numparse=True, colalign=["left" if left else "right" for left in _left(text)]))
    return "\n\n".join([grid, *map(_markdown_text, notes_of(table))])


def _markdown_cell(text: str) -> str:
    """A cell's text: no pipe or line break ends it."""
    return _markdown_text(text).replace("|", "\\|")


def _markdown_text(text: str) -> str:
    """Text that is no markup: HTML is escaped, and it stays on one line."""
    return markup.escape(" ".join(text.split()), quote=False)


def csv(table: pd.DataFrame) -> str:
    """The table as CSV with full numbers. A text that a spreadsheet would calculate gets an apostrophe before it."""
    words = [name for name in table if not pd.api.types.is_numeric_dtype(table[name])]
    safe = table.assign(**{str(name): table[name].map(_no_formula) for name in words}) if words else table
    return str(safe.to_csv(index=False))


def _no_formula(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value[:1] in _FORMULA else value


_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def html(table: pd.DataFrame, styles: Mapping[str, Style] = STYLES) -> str:
    """An HTML table with its notes in paragraphs of the class ``notes``; all text is escaped."""
    grid = _headed(formatted(table, styles), styles).to_html(index=False, border=0, classes="canopy", escape=True)
    return "\n".join([str(grid), *(f'<p class="notes">{markup.escape(note)}</p>' for note in notes_of(table))])


def latex(table: pd.DataFrame, caption: str = "", styles: Mapping[str, Style] = STYLES) -> str:
    """A LaTeX table with booktabs rules (longtable when it is long), numbers to the right, notes below."""
    text = formatted(table, styles)
    shown = _without_repeats(text) if len(text) <= LONG else text
    heads = [styles[name].latex if name in styles else _capital(tex_escape(str(name))) for name in table.columns]
    body = [" & ".join(map(tex_escape, row)) + r" \\" for row in shown.itertuples(index=False, name=None)]
    spec = "".join("l" if left else "r" for left in _left(text))
    lines = (_longtable if len(body) > LONG else _floating)(" & ".join(heads) + r" \\", body, spec, tex_escape(caption))
    notes = [rf"\par\smallskip{{\footnotesize {tex_escape(note)}\par}}" for note in notes_of(table)]
    return "\n".join([*lines[:-1], *notes, lines[-1], ""])


def _capital(heading: str) -> str:
    return heading if len(heading) == 1 else heading[:1].upper() + heading[1:]


def _floating(heads: str, body: Sequence[str], spec: str, caption: str) -> list[str]:
    return [r"\begin{table}[t]", r"\centering", *([rf"\caption{{{caption}}}"] if caption else []),
            rf"\begin{{tabular}}{{{spec}}}", r"\toprule", heads, r"\midrule", *body, r"\bottomrule", r"\end{tabular}",
            r"\end{table}"]


def _longtable(heads: str, body: Sequence[str], spec: str, caption: str) -> list[str]:
    return [r"\begingroup", rf"\begin{{longtable}}{{{spec}}}", *([rf"\caption{{{caption}}} \\"] if caption else []),
            r"\toprule", heads, r"\midrule", r"\endhead", r"\bottomrule", r"\endfoot", *body, r"\end{longtable}",
            r"\endgroup"]


_GREEK = dict(zip("αβγδεηθκλμπρσστφχω", ("alpha", "beta", "gamma", "delta", "varepsilon", "eta", "theta", "kappa",
              "lambda", "mu", "pi", "rho", "sigma", "sigma", "tau", "varphi", "chi", "omega"), strict=True))
_SYMBOLS = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": "$<$", ">": "$>$",
            "–": "--", "−": "$-$", "×": r"$\times$", "·": r"$\cdot$", "²": "$^2$", "≤": r"$\leq$", "≥": r"$\geq$",
            **{c: f"\\{c}" for c in "&%$#_{}"}, **{letter: rf"$\{name}$" for letter, name in _GREEK.items()}}
_SIGNED, _STARS = r"(?<![\w.])[+-]\d[\d.,]*(?<=\d)", r"(?<=\d)\*{1,3}"
_SPECIAL = re.compile("|".join([_SIGNED, _STARS, f"[{re.escape(''.join(_SYMBOLS))}]"]))


def tex_escape(text: str) -> str:
    """Text that LaTeX prints as it stands; minus signs become real ones, and stars behind a number superscripts."""
    joined = _SPECIAL.sub(lambda found: _escaped(found.group()), text)
    return re.sub(r"(?<!\\)\$\$", "", joined)  # neighbouring mathematics is one; an escaped dollar is none


def _escaped(token: str) -> str:
    if token[0] in "+-":
        return f"${token}$"
    return f"$^{{{token}}}$" if token[0] == "*" else _SYMBOLS[token]


def _headed(text: pd.DataFrame, styles: Mapping[str, Style]) -> pd.DataFrame:
    return text.rename(columns={name: styles[name].heading for name in text.columns if name in styles})


_NUMERIC = re.compile(rf"(< ?|\[)?[+-]?\d.*|{MISSING}|")


def _left(text: pd.DataFrame) -> list[bool]:
    """Which columns of a table of text hold words."""
    return [not all(_NUMERIC.fullmatch(cell) for cell in text[name]) for name in text.columns]


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
    forms = {"csv": csv(table), "tex": latex(view, caption), "html": html(view) + "\n",
             "md": markdown(view) + "\n", "txt": console(view) + "\n"}
    files.make_folder(Path(stem).parent)
    return [_write_text(Path(f"{stem}.{kind}"), text) for kind, text in forms.items()]


def _write_text(path: Path, text: str) -> Path:
    files.write_atomic(path, text.encode("utf-8"))
    return path
