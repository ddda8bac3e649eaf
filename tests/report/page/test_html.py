"""The page holds every text as text, asks nothing of a network, and is the same for the same content."""

import base64
import hashlib
import json
import re
from dataclasses import replace
from html import escape
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hostile import HOSTILE, SVG, content, explorer
from hypothesis import given, settings
from hypothesis import strategies as st

from canopy_stats.report import printed
from canopy_stats.report.page import html
from canopy_stats.report.page.explorer import Explorer, safe_json
from canopy_stats.report.page.headline import Headline
from canopy_stats.report.page.html import Content, Picture, Provenance, Table, page, read_table
from canopy_stats.report.page.words import WORDS

VOID = {"meta", "link", "br", "img", "input"}


class Tree(HTMLParser):
    """Every start tag with its attributes, and the text below each kind of element."""

    def __init__(self, markup: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self._open: list[str] = []
        self.feed(markup)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag in self._open:
            while self._open.pop() != tag:
                pass

    def handle_data(self, data):
        self.texts.append((self._open[-1] if self._open else "", data))

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]

    def text(self, tag):
        return [text for name, text in self.texts if name == tag]


@pytest.fixture(scope="module")
def markup():
    return page(content())


@pytest.fixture(scope="module")
def tree(markup):
    return Tree(markup)


def test_no_text_becomes_an_element_or_a_handler(tree):
    kinds = [attrs.get("type") for attrs in tree.all("script")]
    assert kinds == ["application/json", *["text/plain"] * 8, None]
    assert not {name for name, _ in tree.tags} & {"img", "textarea", "iframe", "object", "foreignobject", "base"}
    assert not [key for _, attrs in tree.tags for key in attrs if key.startswith("on")]
    assert not [attrs for _, attrs in tree.tags if "style" in attrs]


@pytest.mark.parametrize(("tag", "begins"), [("h1", "A title"), ("p", "A contrast."), ("p", "First."), ("dd", ""),
                                             ("li", "A warning."), ("figcaption", " A table."), ("td", ""),
                                             ("th", "name"), ("p", "A note."), ("figcaption", " A figure."),
                                             ("p", "A sample."), ("pre", "canopy-stats"), ("title", "A title"),
                                             ("text", "")])
def test_every_field_is_shown_as_it_is(tree, tag, begins):
    assert any(text.strip("\n").startswith(begins) and text.rstrip().endswith(HOSTILE) for text in tree.text(tag))


def test_the_policy_allows_this_script_and_this_style_alone(markup):
    script = re.findall(r"<script>(.*?)</script>", markup, re.S)
    style = re.findall(r"<style>(.*?)</style>", markup, re.S)
    assert len(script) == len(style) == 1
    policy = next(a["content"] for a in Tree(markup).all("meta") if a.get("http-equiv"))
    parts = dict(part.split(" ", 1) for part in policy.split("; "))
    for name, text in (("script-src", script[0]), ("style-src", style[0])):
        assert parts[name] == f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
    assert parts["default-src"] == "'none'" and "unsafe" not in policy
    assert markup.index("Content-Security-Policy") < markup.index("<style>")


def test_ids_are_unique_and_every_reference_has_its_target(tree):
    ids = [attrs["id"] for _, attrs in tree.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    links = [attrs["href"][1:] for _, attrs in tree.tags if (attrs.get("href") or "").startswith("#")]
    named = [attrs["aria-labelledby"] for _, attrs in tree.tags if "aria-labelledby" in attrs]
    clips = [attrs["clip-path"][5:-1] for _, attrs in tree.tags if "clip-path" in attrs]
    assert links and named and clips
    assert {*links, *named, *clips} <= set(ids)


def test_nothing_is_fetched(markup, tree):
    for _, attrs in tree.tags:
        for name in ("src", "href", "xlink:href", "srcset", "data", "action"):
            assert (attrs.get(name) or "#").startswith(("#", "data:"))
    style = tree.text("style")[0]
    assert "@import" not in style and not re.search(r"url\((?!#)", style)
    script = tree.text("script")[-1]
    assert not re.search(r"fetch|XMLHttp|import\(|WebSocket|innerHTML|insertAdjacent|eval|document\.write", script)


def test_the_same_content_gives_the_same_bytes(markup):
    assert page(content()) == markup


def test_headings_landmarks_and_labels(tree):
    assert len(tree.all("main")) == len(tree.all("h1")) == len(tree.all("nav")) == 1
    assert tree.all("html") == [{"lang": "en"}]
    assert all("scope" in attrs for attrs in tree.all("th"))
    for attrs in tree.all("svg"):
        assert attrs["role"] == "img" and attrs["aria-label"]


@pytest.mark.slow
def test_a_study_of_the_demos_size_is_a_small_page():
    large = explorer(prompts=12, rollouts=36, longest=110)  # 8 cells of 24,000 tokens, all of them noise
    tokens = sum(len(cell.token) for cell in large.cells)
    assert tokens > 180_000
    assert len(page(content(large)).encode()) < 3_000_000 < 10_000_000


def test_a_page_without_rollouts_tables_and_figures():
    plain = Tree(page(Content("A study", finding="Nothing.")))
    assert plain.all("script") == [{}] and not plain.all("select")
    assert [a["href"] for a in plain.all("a")] == ["#main", "#finding", "#provenance", "#words"]


ANY = st.text(st.characters(codec="utf-8"), min_size=1)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(ANY)
def test_any_text_comes_back_from_the_page(text):
    made = Tree(page(Content(text, text, text, ((text, text),), (text,), (Table(text, (text,), ((text,),), text),),
                             explorer=Explorer((), text), provenance=Provenance(((text, text),)))))
    same = re.sub(r"\r\n?", "\n", text)
    assert [re.sub(r"\r\n?", "\n", t) for t in made.text("h1")] == [same]
    assert len(made.all("script")) == 2 and len(made.all("td")) == 1
    assert {attrs["id"] for _, attrs in made.tags if "id" in attrs} >= {"finding", "warnings", "tables", "rollouts"}


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(st.recursive(st.text(st.characters()) | st.integers() | st.floats(allow_nan=False, allow_infinity=False),
                    lambda inner: st.lists(inner, max_size=4)))
def test_any_value_comes_back_from_embedded_json(value):
    text = safe_json(value)
    assert json.loads(text) == value
    assert text.isascii() and not set("<>&") & set(text)
    assert Tree(f"<script>{text}</script>").text("script") == [text]


# --- the opening ------------------------------------------------------------------------------------------------


def test_the_page_opens_with_numbers_and_one_figure():
    """Three numbers, the figure, then words; the long rest of them unfolds, and nothing is lost."""
    long = "One sentence here. " * 60
    three = tuple(Headline(f"Name {i} {HOSTILE}", f"+{i}.00", f"[{i}, 9] {HOSTILE}", HOSTILE) for i in range(3))
    markup = page(replace(content(), headlines=three, opening=Picture("The finding.", SVG), finding=long))
    made = Tree(markup)
    assert [t for t in made.text("p") if t in ("+0.00", "+1.00", "+2.00")] == ["+0.00", "+1.00", "+2.00"]
    assert all(any(text == f"Name {i} {HOSTILE}" for text in made.text("h3")) for i in range(3))
    order = ("+0.00", 'id="figure-finding"', "One sentence here.", "<summary>More of it", 'id="figures"', 'id="tables"',
             'id="words"')
    places = [markup.index(part) for part in order]
    assert places == sorted(places)
    assert "".join(made.text("p")).count("One sentence here.") == 60


def test_headings_that_need_a_word_have_it_and_the_list_has_all():
    made = Tree(page(replace(content(), tables=(Table("c", ("task", "CE*", "cap %", "D"), (("a", "1", "2", "3"),)),))))
    titles = [attrs["title"] for attrs in made.all("abbr")]
    assert titles == [WORDS["CE*"], WORDS["cap"], WORDS["D"]]
    assert {text for text in made.text("dt")} >= set(WORDS)


def test_the_documentations_glossary_has_the_pages_words():
    page_of_words = (Path(__file__).parents[3] / "docs" / "glossary.md").read_text().replace("\\*", "*")
    assert all(f"**{word}" in page_of_words or f"{word})**" in page_of_words or f", {word}**" in page_of_words
               for word in WORDS)


# --- tables -----------------------------------------------------------------------------------------------------


def test_a_printed_table_comes_back_cell_by_cell():
    frame = pd.DataFrame({"task": [HOSTILE, "b"], "CE": [1.25, np.nan], "cov_NR": [-0.5, 2.0]})
    made = read_table("A caption.", printed.html(frame) + f"\n<p class='notes'>{escape(HOSTILE)}</p>")
    assert made.head == ("task", "CE*", "Cov")
    assert made.rows == ((HOSTILE, "1.2", "-0.50"), ("b", "–", "+2.00"))
    assert made.note == " ".join(HOSTILE.split())
    assert made.numeric == (False, True, True)
    assert [text for text, _ in made.shown()[0]] == [HOSTILE, "1.2", "−0.50"]


def test_rows_of_uneven_length_are_filled_up():
    made = read_table("c", "<table><tr><th>a</th><th>b</th></tr><tr><td>1</td></tr></table>")
    assert made.rows == (("1", ""),)


def test_leading_repeats_are_marked_and_others_are_not():
    rows = (("x", "u", "1"), ("x", "u", "1"), ("x", "v", "1"), ("y", "v", "1"))
    again = [[again for _, again in row] for row in Table("c", ("a", "b", "c"), rows).shown()]
    assert again == [[False, False, False], [True, True, False], [True, False, False], [False, False, False]]


@pytest.mark.parametrize(("text", "is_number"), [
    ("-0.05", True), ("0.63 (0.02)", True), ("[1.2, 3.4]", True), ("< 0.001", True), ("3.5%", True), ("–", True),
    ("1e-05", True), ("0.18* (0.08)", True), ("2,345", True), ("base", False),
    ("1 of 3", False), ("a3f", False), ("–5–", True)])
def test_what_counts_as_a_number(text, is_number):
    assert html._number(text) is is_number
