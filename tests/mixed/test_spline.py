import numpy as np
import pytest

from canopy_stats.mixed.formulas.spline import natural_basis, natural_knots
from canopy_stats.schema import UserError

X = np.array([0.3, 1.2, 2.2, 2.9, 4.5, 5.1, 6.6, 8, 9.5, 10.1])
# R: b <- splines::ns(X, 4); b[c(4, 9), ]; predict(b, c(-1, 5, 12))
INSIDE = [
    [0.24917961273133196, -0.156043926107667, 0.498240468690730, -0.340732191491725],
    [0.00215334347697679, 0.107249706776617, 0.381833380479591, 0.508763569266815],
]
NEW = [
    [0.0, 0.142822469578442, -0.451785362952214, 0.308962893373772],
    [0.648758667116663, 0.130544874259158, 0.165161265000980, -0.112880655297229],
    [0.0, -0.927937974616324, 0.608783389092454, 1.319154585523870],
]


def test_basis_is_that_of_r():
    knots = natural_knots(X, 4)
    np.testing.assert_allclose(knots, [0.3, 2.375, 4.8, 7.65, 10.1])
    np.testing.assert_allclose(natural_basis(X, knots)[[3, 8]], INSIDE, atol=1e-13)
    np.testing.assert_allclose(natural_basis(np.array([-1.0, 5.0, 12.0]), knots), NEW, atol=1e-12)


def test_linear_beyond_the_range():
    basis = natural_basis(np.array([11.0, 12.0, 13.0, -1.0, -2.0, -3.0]), natural_knots(X, 3))
    np.testing.assert_allclose(basis[0] - basis[1], basis[1] - basis[2], atol=1e-12)
    np.testing.assert_allclose(basis[3] - basis[4], basis[4] - basis[5], atol=1e-12)


def test_too_few_values_for_the_knots():
    with pytest.raises(UserError, match="Lower df"):
        natural_knots(np.array([0.0, 0.0, 0.0, 1.0]), 4)
