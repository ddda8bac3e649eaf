"""What a notebook shows: tables as HTML, and figures whose marks stand where the estimates are."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from canopy_stats.mixed import glmm, lmm, means, plot_effects, quantile_residuals
from canopy_stats.schema import UserError


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(11)
    frame = pd.DataFrame({"g": np.repeat(np.arange(15), 8), "f": np.tile(["a<b", "c"], 60), "x": rng.normal(size=120)})
    return frame.assign(y=frame["x"] + (frame["f"] == "c") + rng.normal(size=15)[frame["g"]] + rng.normal(size=120))


@pytest.fixture(scope="module")
def fit(data):
    return lmm("y ~ x * f + (1 + x | g)", data)


def test_html_of_a_fit(fit):
    shown = fit._repr_html_()
    assert "a&lt;b" in shown or "a<b" not in shown
    for text in ("lmm: y ~ x * f", "120", "15 levels", "Residual", "converged", f"{fit.params['x']:.4g}"):
        assert text in shown
    assert "<script" not in lmm("y ~ x + (1|g)", fit.design.data, reml=False)._repr_html_()


def test_html_of_certificates_and_residuals(fit):
    assert fit.certificate._repr_html_().startswith("<p><b>converged")
    assert "uniformity" in quantile_residuals(fit, n=20, reference=19)._repr_html_()


def test_coefficients_are_drawn_where_they_are(fit):
    axes = fit.plot().axes[0]
    terms = [label.get_text() for label in axes.get_yticklabels()]
    drawn = dict(zip(terms, axes.lines[0].get_xdata(), strict=True))
    assert drawn == pytest.approx(fit.params.drop("Intercept").to_dict())
    assert len(fit.plot(intercept=True).axes[0].get_yticklabels()) == 4


def test_components_have_panels_of_their_own(data):
    fit = glmm("y ~ x + (1|g)", data, family="gaussian", dispersion="~ f")
    assert [axes.get_title().split(":")[0] for axes in fit.plot().axes] == ["mean", "dispersion"]
    with pytest.raises(UserError, match="intercept=True"):
        glmm("y ~ 1 + (1|g)", data, family="gaussian").plot()


def test_random_effects_are_drawn_in_order(fit):
    panels = fit.plot_ranef().axes
    assert [axes.get_title() for axes in panels] == ["Intercept | g", "x | g"]
    drawn = panels[0].lines[0].get_xdata()
    np.testing.assert_allclose(drawn, np.sort(fit.ranef()["g"]["Intercept"]))
    with pytest.raises(UserError, match="grouping variables are: g"):
        fit.plot_ranef("h")


@pytest.mark.slow
def test_pictures_of_one_panel_are_drawn_where_they_are_wanted(fit):
    figure = Figure()
    left, right = figure.subplots(1, 2)
    assert plot_effects(fit, "x", "f", ax=left) is figure and fit.plot_influence("g", ax=right) is figure
    assert len(left.lines) == 2 and left.get_legend().get_title().get_text() == "f" and not figure.legends
    assert right.get_xlabel() == "Cook's distance" and right.lines


@pytest.mark.slow
def test_effects_are_the_means(fit, data):
    axes = plot_effects(fit, "f").axes[0]
    np.testing.assert_allclose(axes.lines[0].get_ydata(), means(fit, "f")["estimate"])
    curves = plot_effects(fit, "x", "f").axes[0].lines
    slopes = [np.ptp(line.get_ydata()) / np.ptp(line.get_xdata()) for line in curves]
    assert slopes == pytest.approx([fit.params["x"], fit.params["x"] + fit.params["x:f[T.c]"]])
    with pytest.raises(UserError, match="does not use z"):
        plot_effects(fit, "z")
    with pytest.raises(UserError, match="for factors"):
        plot_effects(fit, "x", marginal=True)
