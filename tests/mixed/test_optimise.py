import numpy as np
import pytest

from canopy_stats.mixed.algebra.optimise import Optimum, bfgs_update, leave_saddle, make_positive, minimise


def rosenbrock(x):
    if x[0] > 3:
        return None
    value = 100 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2
    return value, np.array([-400 * x[0] * (x[1] - x[0] ** 2) - 2 * (1 - x[0]), 200 * (x[1] - x[0] ** 2)])


def test_reaches_the_minimum_of_a_bent_valley():
    found = minimise(rosenbrock, np.array([-1.2, 1.0]), np.eye(2), decrement=1e-14)
    np.testing.assert_allclose(found.x, 1.0, atol=1e-5)
    assert found.message == "gradient is zero" and found.evaluations < 80


def test_undefined_regions_are_avoided():
    start = np.array([2.9, 8.0])
    assert minimise(rosenbrock, start, np.eye(2) * 1e-3, decrement=1e-12).value < 1e-8
    with pytest.raises(FloatingPointError):
        minimise(rosenbrock, np.array([4.0, 1.0]), np.eye(2))


def test_steps_are_limited():
    seen = []

    def watched(x):
        seen.append(x.copy())
        return rosenbrock(x)

    minimise(watched, np.array([-1.2, 1.0]), np.eye(2), limit=lambda x, step: min(1.0, 0.1 / np.abs(step).max()))
    assert max(np.abs(b - a).max() for a, b in zip(seen, seen[1:], strict=False)) < 0.21


def test_update_keeps_the_secant_and_positivity():
    step, change = np.array([1.0, 0.5]), np.array([2.0, 0.3])
    np.testing.assert_allclose(bfgs_update(np.eye(2), step, change) @ step, change)
    assert np.linalg.eigvalsh(bfgs_update(np.eye(2), step, -change))[0] > 0


def test_indefinite_and_unknown_curvature_become_positive():
    assert np.linalg.eigvalsh(make_positive(np.array([[1.0, 2.0], [2.0, 1.0]])))[0] > 0
    assert np.linalg.eigvalsh(make_positive(np.array([[np.nan, 0.0], [0.0, 2.0]])))[0] > 0
    good = np.array([[2.0, 0.5], [0.5, 1.0]])
    assert make_positive(good) is good


def test_saddles_are_left():
    def saddle(x):
        return float(x[0] ** 2 - x[1] ** 2 + x[1] ** 4), np.array([2 * x[0], -2 * x[1] + 4 * x[1] ** 3])

    at = Optimum(np.zeros(2), 0.0, np.zeros(2), np.diag([2.0, -2.0]), 1, "gradient is zero")
    assert saddle(leave_saddle(saddle, at))[0] < -0.05
    bowl = Optimum(np.zeros(2), 0.0, np.zeros(2), np.eye(2), 1, "gradient is zero")
    np.testing.assert_array_equal(leave_saddle(saddle, bowl), np.zeros(2))
