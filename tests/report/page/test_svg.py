"""A figure on a page keeps its shapes and words, and nothing that acts or points outside."""

import io
import re
from xml.etree import ElementTree

import pytest
from hostile import HOSTILE, SVG
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from canopy_stats.figure_style import styled
from canopy_stats.report.page.svg import PAPER, contrast, drawing, on_dark, palettes
from canopy_stats.schema import UserError


def plotted(pixels: bool = False) -> str:
    with styled():
        figure = Figure()
        ax = figure.subplots()
        ax.plot([0, 1], [0, 1], "o--", color="#D55E00", label=HOSTILE)
        if pixels:
            ax.imshow([[0, 1], [1, 0]])
        ax.set(title=HOSTILE)
        ax.legend()
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()


def tags(markup):
    return sorted(element.tag.split("}")[-1] for element in ElementTree.fromstring(markup).iter()
                  if isinstance(element.tag, str))


def test_a_plot_keeps_its_shapes_words_and_classes():
    original = plotted(pixels=True)
    made = drawing(original, "p1-", "a plot")
    for tag in ("path", "use", "text", "image", "clipPath", "g"):
        assert tags(made.markup).count(tag) == tags(original).count(tag) > 0
    words = ["".join(t.itertext()) for t in ElementTree.fromstring(made.markup).iter("text")]
    assert words.count(HOSTILE) == 2
    used = set(re.findall(r'class="(s\w+)"', made.markup))
    assert used == set(made.rules)
    assert any("stroke:#d55e00" in rule and "stroke-dasharray" in rule for rule in made.rules.values())
    assert any("stroke:var(--cd55e00)" in rule for rule in drawing(plotted(), "p1-", "a plot").rules.values())
    assert "style=" not in made.markup and "font-family" not in "".join(made.rules.values())


def test_two_drawings_of_one_file_share_no_id():
    ids = [set(re.findall(r' id="([^"]+)"', drawing(plotted(), prefix, "a").markup)) for prefix in ("p1-", "p2-")]
    assert ids[0] and not ids[0] & ids[1]
    markup = drawing(plotted(), "p1-", "a").markup
    assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', markup)) == ids[0]


def test_what_acts_or_points_outside_is_left_out():
    made = drawing(SVG, "q-", HOSTILE)
    everything = made.markup + "".join(made.rules.values())
    for word in ("example.org", "window.hacked = 3", "window.hacked = 4", "window.hacked = 5", "foreignObject"):
        assert word not in everything
    root = ElementTree.fromstring(made.markup)
    assert root.get("aria-label") == HOSTILE
    assert [e.get("href") for e in root.iter("use")] == ["#q-m", None]
    assert not any(set("{}") & set(rule) for rule in made.rules.values())
    assert {e.tag for e in root.iter()} == {"svg", "defs", "path", "clipPath", "rect", "g", "use", "text"}


@pytest.mark.parametrize("text", ["", "<svg", "<html/>", '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><svg>&a;'
                                                        "</svg>"])
def test_what_is_no_drawing_is_refused(text):
    with pytest.raises(UserError, match="Draw it again"):
        drawing(text, "p-", "a figure")


def test_a_scale_of_colours_keeps_them_on_white():
    colours = [f"#00{10 * i:02x}ff" for i in range(13)]
    for n, themed in ((12, True), (13, False)):
        parts = "".join(f'<path style="fill: {colour}"/>' for colour in [*colours[:n], "#000000"])
        made = drawing(f'<svg xmlns="http://www.w3.org/2000/svg">{parts}</svg>', "p-", "a map")
        assert ("plate" in ElementTree.fromstring(made.markup).get("class")) is not themed
        assert ("fill:#0000ff" in made.rules.values()) is not themed
        assert ("fill:var(--c0000ff)" in made.rules.values()) is themed


# --- colours on a dark ground -----------------------------------------------------------------------------------


def rgb(text):
    return tuple(int(text.lstrip("#")[i:i + 2], 16) for i in (0, 2, 4))


@given(st.integers(0, 255), st.integers(0, 255), st.integers(0, 255))
def test_colours_stand_out_from_a_dark_ground_and_tints_do_not(red, green, blue):
    parts = (red, green, blue)
    made = contrast(rgb(on_dark("".join(f"{p:02x}" for p in parts))), PAPER)
    if max(parts) - min(parts) >= 12:
        assert made < 1.4 if min(parts) > 200 else made >= 4.5


@given(st.integers(0, 254))
def test_greys_turn_round(grey):
    darker, lighter = (contrast(rgb(on_dark(f"{g:02x}" * 3)), PAPER) for g in (grey, grey + 1))
    assert darker >= lighter - 0.01
    assert contrast(rgb(on_dark("000000")), PAPER) > 12 and contrast(rgb(on_dark("ffffff")), PAPER) == 1


@pytest.mark.parametrize(("a", "b", "ratio"), [("000000", "ffffff", 21), ("777777", "ffffff", 4.48),
                                             ("ff0000", "ffffff", 4.0)])
def test_contrast_is_that_of_wcag(a, b, ratio):
    assert contrast(rgb(a), rgb(b)) == pytest.approx(ratio, abs=0.005)


def test_palettes_name_each_colour_once():
    light, dark = palettes({"a": "fill:var(--c0072b2)", "b": "stroke:var(--c0072b2);fill:var(--c000000)"})
    assert light == "--c000000:#000000;--c0072b2:#0072b2"
    assert dark.startswith("--c000000:#e4e6e8;--c0072b2:#")
