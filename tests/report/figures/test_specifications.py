"""The specification curve as drawn: every estimate, every choice, and the failures, counted in its headline."""

import numpy as np
import pandas as pd
import pytest

from canopy_stats.figure_style import BLUE, GREY, ORANGE, VERMILLION
from canopy_stats.report.figures.specifications import headline, shortened, specification_figure
from canopy_stats.report.figures.style import save
from canopy_stats.schema import UserError


@pytest.fixture
def table():
    """Three models x two responses: two clearly larger, one clearly smaller, two unclear, one failed."""
    return pd.DataFrame({
        "spec": range(6), "response": ["D", "D", "D", "Vendi", "Vendi", "Vendi"], "model": ["beta", "linear", "x"] * 2,
        "estimate": [0.5, 0.2, -0.3, 0.1, 0.4, np.nan], "conf_low": [0.4, -0.1, -0.4, -0.2, 0.3, np.nan],
        "conf_high": [0.6, 0.5, -0.2, 0.4, 0.5, np.nan], "p_value": [0.001, 0.2, 0.01, 0.5, 0.001, np.nan],
        "usable": [True] * 5 + [False], "paper": [True] + [False] * 5})


def series(figure):
    """Points of the upper axes by legend label."""
    return {line.get_label(): line for line in figure.axes[0].lines if not line.get_label().startswith("_")}


@pytest.mark.slow
def test_estimates_are_in_order_and_coloured_by_sign_and_significance(table):
    drawn = series(specification_figure(table))
    assert list(drawn) == ["significantly larger (2)", "significantly smaller (1)", "not significant (2)",
                           "not usable (1)", "the paper's own model"]
    assert [line.get_color() for line in drawn.values()][:4] == [BLUE, VERMILLION, GREY, ORANGE]
    assert drawn["significantly larger (2)"].get_xydata().tolist() == [[3, 0.4], [4, 0.5]]
    assert drawn["significantly smaller (1)"].get_xydata().tolist() == [[0, -0.3]]
    assert drawn["not significant (2)"].get_xydata().tolist() == [[1, 0.1], [2, 0.2]]
    assert drawn["the paper's own model"].get_xydata().tolist() == [[4, 0.5]]
    assert drawn["not usable (1)"].get_xdata()[0] > 5


@pytest.mark.slow
def test_intervals_are_the_tables(table):
    figure = specification_figure(table)
    spans = {tuple(path.vertices[:, 1]) for part in figure.axes[0].collections for path in part.get_paths()}
    assert spans == {(0.4, 0.6), (-0.1, 0.5), (-0.4, -0.2), (-0.2, 0.4), (0.3, 0.5)}


@pytest.mark.slow
def test_every_specification_has_a_mark_under_each_choice(table):
    below = specification_figure(table).axes[1]
    marks = [(path.vertices[0, 0], round(path.vertices[:, 1].mean(), 6)) for part in below.collections
             for path in part.get_paths()]
    assert len(marks) == len(set(marks)) == 12
    assert [text.get_text() for text in below.get_yticklabels()] == ["D", "Vendi", "beta", "linear", "x"]
    heights = dict(zip(["D", "Vendi", "beta", "linear", "x"], below.get_yticks(), strict=True))
    assert {x for x, y in marks if y == pytest.approx(heights["beta"])} == {4, 1}
    assert {x for x, y in marks if y == pytest.approx(heights["D"])} == {4, 2, 0}


@pytest.mark.slow
def test_counts_stand_beside_the_options(table):
    texts = [text.get_text() for text in specification_figure(table).axes[1].texts]
    # Vendi: estimates 0.1 (not significant), 0.4 (significant), one failed.
    assert texts.count("0.25") == 1 and texts.count("50%") >= 1
    assert "response" in texts and "model" in texts


def test_headline_counts(table):
    assert headline(table) == ("The slope is larger after fine-tuning in 4 of 5 specifications, significantly in 2; it"
                               " is significantly smaller in 1. 1 more are not usable")
    assert "usable" not in headline(table.iloc[:5])


@pytest.mark.slow
def test_everything_lies_inside_the_page(table, tmp_path):
    table["embedder"] = ["all-MiniLM-L6-v2@c4a57a7f2011", "a-very-long-name-of-an-embedder"] * 3
    figure = specification_figure(table)
    figure.canvas.draw()
    for text in [*figure.axes[1].texts, *figure.axes[1].get_yticklabels(), figure._suptitle]:
        box = text.get_window_extent()
        assert figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 + 1
    save(figure, tmp_path / "curve")
    assert (tmp_path / "curve.png").exists() and (tmp_path / "curve.svg").exists()


@pytest.mark.slow
def test_one_specification_or_none_usable_can_be_drawn(table, tmp_path):
    assert len(specification_figure(table.iloc[:1]).axes) == 1
    save(specification_figure(table.iloc[5:]), tmp_path / "failed")


def test_long_names_are_shortened():
    assert shortened("all-MiniLM-L6-v2@c4a57a7f2011") == "all-MiniLM-L6-v2"
    assert shortened("x" * 40) == "x" * 15 + "…"


def test_what_is_no_curve_is_refused(table):
    with pytest.raises(UserError, match="needs the columns conf_low, conf_high"):
        specification_figure(table.drop(columns=["conf_low", "conf_high"]))
    with pytest.raises(UserError, match="no specifications"):
        specification_figure(table.iloc[:0])
