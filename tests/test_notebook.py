"""Results print in words and show themselves in a notebook."""

import re
from pathlib import Path

import pandas as pd
import pytest

import canopy_stats as cs
from canopy_stats.notebook import Shown, table_html

PUBLIC = ("SlopeChange", "Scrutiny", "SlopeRivals", "SpecificationCurve", "SlopePower", "TemplateFactorial",
          "RhoResult", "RhoChange", "Bootstrap", "StudyResult", "CheckReport", "Run")


class One(Shown):
    def _shown(self):
        return "A <title>", ["Words & more.", pd.DataFrame({"x": [1.23456], "who": ["<b>"]}), "", pd.DataFrame()]


def test_text_and_html_hold_the_same_and_strangers_stay_text():
    text, html = str(One()), One()._repr_html_()
    assert text.splitlines()[:2] == ["A <title>", "Words & more."] and "1.235" in text and len(text.splitlines()) == 4
    assert "<h4>A &lt;title&gt;</h4>" in html and "Words &amp; more." in html and "&lt;b&gt;" in html
    assert html.count("<table") == 1 and html.count("<p>") == 1


def test_missing_numbers_are_empty():
    assert "nan" not in table_html(pd.DataFrame({"a": [float("nan")]})).lower()


def _classes(root):
    for one in root.__subclasses__():
        yield one
        yield from _classes(one)


def test_every_public_result_shows_itself():
    import canopy_stats.checks
    import canopy_stats.metrics.rho_change
    import canopy_stats.mixed.inference.bootstraps
    import canopy_stats.slope.factorial
    import canopy_stats.slope.rivals
    import canopy_stats.study.result  # noqa: F401
    assert {one.__name__ for one in _classes(Shown)} >= set(PUBLIC)


@pytest.fixture(scope="module")
def panel():
    return cs.load_demo_panel()


@pytest.mark.slow
def test_a_slope_change_in_a_notebook(panel):
    """Every quantity stands in the table with the number that the record has."""
    change = cs.slope_change(panel, model="interaction")
    html = change._repr_html_()
    assert change.verdict.split(".")[0] in re.sub(r"&#x27;", "'", html)
    for name in ("base", "tuned", "difference"):
        assert f"{getattr(change, name).estimate:.4g}" in html, name


@pytest.mark.slow
def test_rivals_and_rho(panel):
    rivals = cs.slope_rivals(panel)
    assert str(rivals) == rivals.verdict and "r_squared" in rivals._repr_html_()
    change = cs.rho_change(panel)
    assert str(change) == change.verdict and "heterogeneity_p" in change._repr_html_()


def test_a_bootstrap_prints_its_intervals():
    data = pd.DataFrame({"y": [1.0, 2, 4, 3, 5, 7, 6, 8, 9, 12], "x": range(10), "g": list("aabbccddee")})
    fit = cs.lmm("y ~ x + (1|g)", data)
    boot = cs.bootstrap(fit, 20, seed=1)
    low = boot.conf_int().loc["x", "conf_low"]
    assert f"{low:.4g}" in str(boot) and "20 replicates" in str(boot) and "<table" in boot._repr_html_()


def test_a_figure_is_a_picture_without_pyplot():
    """IPython's own formatter takes PNG from it; the size that it is shown at is the figure's in inches."""
    data = pd.DataFrame({"y": [1.0, 2, 4, 3, 5, 7, 6, 8, 9, 12], "x": range(10), "g": list("aabbccddee")})
    figure = cs.lmm("y ~ x + (1|g)", data).plot()
    png, said = figure._repr_png_()
    assert png.startswith(b"\x89PNG\r\n\x1a\n") and said["width"] == round(96 * figure.get_figwidth())
    assert int.from_bytes(png[16:20]) == pytest.approx(1.5 * said["width"], abs=2)


def test_every_figure_of_the_package_is_such_a_picture():
    """Nothing makes a bare one, which a notebook would print as a line of text."""
    files = Path(cs.__file__).parent.rglob("*.py")
    assert not [path for path in files if re.search(r"\bFigure\(", path.read_text())]
