"""Confidence sets of ratios: by testing every ratio, by coverage, and from the coefficients of a fit."""

from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

from canopy_stats.mixed.inference.ratios import RatioSet, delta_interval, delta_se, fieller, ratio, set_in_words
from canopy_stats.schema import UserError

Z = stats.norm.ppf(0.975)
COVARIANCE = np.array([[0.04, 0.01], [0.01, 0.02]])


@pytest.mark.parametrize(("top", "bottom", "kind"), [
    (3.0, 1.0, "bounded"), (1.0, 0.1, "exclusive"), (0.1, 0.1, "whole"), (0.0, 1.0, "bounded"),
    (-2.0, 0.05, "exclusive"),
])
def test_fieller_is_the_set_of_ratios_not_rejected(top, bottom, kind):
    found = fieller(top, bottom, COVARIANCE, Z)
    assert found.kind == kind
    for rho in np.linspace(-40, 40, 1601):
        variance = np.array([1, -rho]) @ COVARIANCE @ np.array([1, -rho])
        accepted = abs(top - rho * bottom) <= Z * np.sqrt(variance)
        assert found.contains(rho) == accepted or min(abs(rho - found.low), abs(rho - found.high)) < 1e-9


def test_delta_agrees_with_fieller_far_from_zero():
    small = COVARIANCE * 1e-6
    found = fieller(3.0, 1.0, small, Z)
    assert delta_interval(3.0, 1.0, small, Z) == pytest.approx((found.low, found.high), rel=1e-4)


def test_delta_by_hand():
    """Gradient of a/b at (3, 2): (1/2, -3/4)."""
    expected = np.sqrt(0.04 / 4 + 2 * 0.01 * (-3 / 8) + 0.02 * 9 / 16)
    assert delta_se(3.0, 2.0, COVARIANCE) == pytest.approx(expected)
    assert delta_interval(3.0, 2.0, COVARIANCE, 2.0) == pytest.approx((1.5 - 2 * expected, 1.5 + 2 * expected))


def test_sets_say_what_they_are():
    whole = fieller(0.1, 0.1, COVARIANCE, Z)
    assert (whole.estimate, whole.low, whole.high, whole.kind) == (1.0, -np.inf, np.inf, "whole")
    assert np.isnan(fieller(1.0, 0.0, COVARIANCE, Z).estimate)
    assert fieller(1.0, 2.0, np.eye(2), 2.0).kind == "whole"  # the denominator just reaches zero
    assert set_in_words(1e-9, 2e-9) == "[1e-09, 2e-09]"
    assert str(RatioSet(1.5, 1.0, 2.0, "bounded")) == "1.5, 95% set [1, 2]"
    assert str(RatioSet(1.5, 1.0, 2.0, "exclusive")) == "1.5, 95% set outside (1, 2)"
    assert str(whole) == "1, 95% set any number"
    for kind, ends, inside in (("bounded", True, True), ("exclusive", True, False), ("whole", True, True)):
        found = RatioSet(1.5, 1.0, 2.0, kind)
        assert (found.contains(1.0), found.contains(2.0), found.contains(1.5)) == (ends, ends, inside)
        assert found.contains(0.5) == found.contains(2.5) == (kind != "bounded")


def test_a_known_denominator_leaves_the_numerators_interval():
    """The numerator's interval over it."""
    found = fieller(0.6, 0.5, np.array([[0.04, 0.0], [0.0, 0.0]]), 2.0)
    assert (found.low, found.high, found.kind) == (pytest.approx(0.4), pytest.approx(2.0), "bounded")


FIT = SimpleNamespace(beta=np.array([2.0, 0.5, 0.3]), design=SimpleNamespace(
    fixed=SimpleNamespace(names=["Intercept", "x", "x:f[T.b]"])),
    covariance=np.block([[np.array([[0.04, 0.0, 0.0], [0.0, 0.01, -0.004], [0.0, -0.004, 0.02]]), np.ones((3, 1))],
                         [np.ones((1, 4))]]),
    degrees_of_freedom=lambda rows: np.array([30.0, 7.0]))


def test_ratio_of_combinations_of_coefficients():
    """Variances of 0.5 + 0.3 and of 0.5, their covariance, and the smaller of the degrees of freedom."""
    found = ratio(FIT, {"x": 1, "x:f[T.b]": 1}, {"x": 1}, level=0.9)
    expected = fieller(0.8, 0.5, np.array([[0.022, 0.006], [0.006, 0.01]]), stats.t.ppf(0.95, 7))
    assert (found.estimate, found.low, found.high) == pytest.approx((1.6, expected.low, expected.high))
    assert ratio(FIT, {"x": 2}, {"Intercept": 1}).estimate == pytest.approx(0.5)


@pytest.mark.parametrize("wrong", [{"z": 1}, {"x": 0}, {}, {"x": 1, "z": 2}])
def test_combinations_name_coefficients(wrong):
    with pytest.raises(UserError, match=r"^ratio\(\) needs combinations of Intercept, x, x:f\[T\.b\]; got \{.*\}\.$"):
        ratio(FIT, wrong, {"x": 1})


def test_fieller_covers():
    rng = np.random.default_rng(2)
    draws = rng.multivariate_normal([0.3, 0.15], COVARIANCE, 4000)
    hits = [fieller(a, b, COVARIANCE, Z).contains(2.0) for a, b in draws]
    assert abs(np.mean(hits) - 0.95) < 4 * np.sqrt(0.95 * 0.05 / 4000)


@pytest.mark.parametrize(("low", "high", "kind", "words"), [
    (1, 2.126, "bounded", "[1.00, 2.13]"), (1, 2, "exclusive", "outside (1.00, 2.00)"),
    (-np.inf, np.inf, "whole", "any number"), (np.nan, np.nan, "not modelled", "–")])
def test_sets_in_words(low, high, kind, words):
    assert set_in_words(low, high, kind, "{:.2f}") == words
