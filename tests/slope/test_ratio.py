import numpy as np
import pytest
from scipy import stats

from canopy_stats.mixed.inference.ratios import delta_interval, fieller, set_in_words

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
