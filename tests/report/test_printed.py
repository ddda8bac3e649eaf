"""Printed forms: what LaTeX, HTML and a terminal are given, whatever a cell holds."""

import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from canopy_stats.report import printed
from canopy_stats.report.printed import console, html, interval, latex, markdown, precision, stars, tex_escape, write

TEXT = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), max_size=20)


@pytest.mark.parametrize(("text", "tex"), [
    ("-0.05*** (0.01)", r"$-0.05^{***}$ (0.01)"), ("[-0.1, +2.5]", "[$-0.1$, $+2.5$]"), ("-1,234.5", "$-1,234.5$"),
    ("0.31** (0.02)", r"0.31$^{**}$ (0.02)"), ("CE*", "CE*"), ("p < 0.05, R² ≥ 3", r"p $<$ 0.05, R$^2$ $\geq$ 3"),
    ("a-1 1e-05", "a-1 1e-05"), ("ρ × τ", r"$\rho$ $\times$ $\tau$"), ("50% & a_b #1 {x}", r"50\% \& a\_b \#1 \{x\}"),
    ("x^2~y\\z", r"x\textasciicircum{}2\textasciitilde{}y\textbackslash{}z"), ("$", r"\$"), ("–", "--"),
    ("$²", r"\$$^2$")])
def test_text_becomes_tex(text, tex):
    assert tex_escape(text) == tex


@settings(max_examples=60, deadline=None)
@given(TEXT)
def test_escaped_text_has_no_live_special_character(text):
    escaped = tex_escape(text)
    plain = re.sub(r"\\text\w+\{\}|\\[&%$#_{}]", "", escaped)  # commands and escaped characters gone
    plain = re.sub(r"\$[^$]*\$", "", plain)  # and math, which comes in pairs
    assert not set("&%$#_{}~^\\") & set(plain)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(TEXT, st.floats(-1e6, 1e6)), min_size=1, max_size=60))
def test_latex_has_as_many_cells_in_each_row_as_columns_and_closes_what_it_opens(rows):
    text = latex(pd.DataFrame(rows, columns=["name", "value"]), "Some_caption")
    body = text.split(r"\midrule")[1].split(r"\bottomrule" if len(rows) <= printed.LONG else r"\end{longtable}")[0]
    lines = [line for line in body.splitlines() if line.endswith(r"\\")]
    assert len(lines) == len(rows)
    assert all(len(re.findall(r"(?<!\\)&", line)) == 1 for line in lines)
    opened, closed = re.findall(r"\\begin\{(\w+)\}", text), re.findall(r"\\end\{(\w+)\}", text)
    assert opened == closed[::-1]
    assert text.count("{") - text.count(r"\{") == text.count("}") - text.count(r"\}")


def test_long_tables_may_break_over_pages():
    text = latex(pd.DataFrame({"row": range(60)}), "Long")
    assert r"\begin{longtable}{r}" in text and r"\caption{Long} \\" in text and r"\endhead" in text


class Cells(HTMLParser):
    def __init__(self):
        super().__init__()
        self.texts, self.tags = [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)

    def handle_data(self, data):
        self.texts.append(data)


@settings(max_examples=50, deadline=None)
@given(TEXT.map(str.strip).filter(bool))
def test_html_shows_any_text_as_it_is(text):
    table = pd.DataFrame({"name": [text]})
    table.attrs["notes"] = [text]
    parser = Cells()
    parser.feed(html(table))
    assert set(parser.tags) <= {"table", "thead", "tbody", "tr", "th", "td", "p"}
    assert "".join(parser.texts).count(text) >= 2


def test_notes_stand_below_every_printed_form_and_not_in_the_csv(tmp_path):
    table = pd.DataFrame({"x": [1.0]})
    table.attrs["notes"] = ["Thirds & halves."]
    texts = {path.suffix: path.read_text() for path in write(table, tmp_path / "t", "C")}
    assert "Thirds" not in texts[".csv"]
    assert all("Thirds" in texts[kind] for kind in (".md", ".txt")) and "Thirds &amp; halves." in texts[".html"]
    assert r"Thirds \& halves." in texts[".tex"].split(r"\end{tabular}")[1]


def test_columns_of_numbers_with_brackets_and_stars_stand_to_the_right():
    table = pd.DataFrame({"term": ["R", "N"], "main": ["0.31*** (0.02)", "–"], "set": ["[1.0, 2.0]", "any number"]})
    assert r"\begin{tabular}{lrl}" in latex(table)
    assert markdown(table).splitlines()[1].count(":|") == 1


def test_a_repeated_first_column_is_printed_once_in_short_tables():
    table = pd.DataFrame({"task": ["math", "math"], "x": [1, 2]})
    assert console(table).count("math") == 1 and latex(table).count("math") == 1


@pytest.mark.parametrize(("error", "form"), [(0.016, "{:.3f}"), (0.00013, "{:.5f}"), (1.7, "{:.2f}"), (1e-12, "{:.6f}"),
                                            (np.nan, "{:.3f}"), (0.0, "{:.3f}")])
def test_precision_follows_the_error(error, form):
    assert precision(error) == form


@pytest.mark.parametrize(("p", "shown"), [(0.2, ""), (0.04, "*"), (0.009, "**"), (1e-9, "***"), (np.nan, "")])
def test_stars(p, shown):
    assert stars(p) == shown


def test_an_interval_without_an_end_is_missing():
    assert interval(np.nan, 1.0) == "–" and interval(-1, 1, "{:.1f}") == "[-1.0, 1.0]"


def test_markdown_shows_markup_as_text_and_keeps_its_columns():
    text = markdown(pd.DataFrame({"task": ["a|b", "<b>c</b>", "d\ne"], "value": [1, 2, 3]}))
    assert "a\\|b" in text and "&lt;b&gt;c&lt;/b&gt;" in text and "d e" in text and len(text.splitlines()) == 5


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\tx"])
def test_no_text_of_a_csv_is_a_spreadsheets_formula(text):
    shown = printed.csv(pd.DataFrame({"name": [text], "value": [-1.5]}))
    assert shown.splitlines()[1].startswith("'") or shown.splitlines()[1].startswith('"\'')
    assert shown.splitlines()[1].endswith("-1.5")
