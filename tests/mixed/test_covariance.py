import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from canopy_stats.mixed.algebra.blocks import templates
from canopy_stats.mixed.algebra.covariance import boundary_slopes, canonical_theta, vanished
from canopy_stats.mixed.formulas.formula import build_design


@pytest.fixture(scope="module")
def factors():
    rng = np.random.default_rng(1)
    data = pd.DataFrame({"y": rng.normal(size=60), "x": rng.normal(size=60), "z": rng.normal(size=60),
                         "g": np.repeat(np.arange(10), 6), "h": np.tile(np.arange(4), 15)})
    return build_design("y ~ x + (1 + x + z|g) + (1|h)", data).factors


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), zeros=st.lists(st.integers(0, 2), max_size=3))
def test_canonical_form_keeps_the_covariance(factors, seed, zeros):
    theta = np.random.default_rng(seed).normal(size=7)
    for j in zeros:
        theta[factors[0].pattern[j, j]] = 0.0
    found = canonical_theta(factors, theta, np.full(7, 1e-6))
    for before, after in zip(templates(factors, theta), templates(factors, found), strict=True):
        np.testing.assert_allclose(after @ after.T, before @ before.T, atol=1e-12)
        assert np.all(np.diag(after) >= 0)
        for j in np.flatnonzero(np.diag(after) < 1e-6):
            np.testing.assert_allclose(after[:, j], 0, atol=1e-12)


def test_vanished_columns_are_named(factors):
    theta = np.array([1.0, 0.5, 0.0, 0.2, 0.0, 0.3, 0.0])
    columns = vanished(factors, theta, np.full(7, 1e-6))
    assert columns == {"x | g": [2, 4], "Intercept | h": [6]}
    slopes = boundary_slopes(columns, np.diag([1.0, 1, 8, 1, 6, 1, -4.0]))
    assert slopes == {"x | g": -3.0, "Intercept | h": 2.0}
