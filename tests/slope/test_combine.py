"""Combining cells: against the analysis of variance of a balanced two-way layout, and closed forms."""

import numpy as np
import pytest

from canopy_stats.slope.combine import CellGrid, average, combine

FAMILIES, TASKS = 5, 4
FAMILY, TASK = np.repeat(np.arange(FAMILIES), TASKS), np.tile(np.arange(TASKS), FAMILIES)


def anova(table):
    """Mean squares of families, tasks and the rest of a two-way table without replicates."""
    f, t = table.shape
    rows, columns, grand = table.mean(axis=1), table.mean(axis=0), table.mean()
    rest = table - rows[:, None] - columns[None] + grand
    return (t * np.sum((rows - grand) ** 2) / (f - 1), f * np.sum((columns - grand) ** 2) / (t - 1),
            np.sum(rest**2) / ((f - 1) * (t - 1)))


def test_balanced_layout_is_the_two_way_analysis_of_variance():
    rng = np.random.default_rng(4)
    table = 0.5 + 0.4 * rng.standard_normal(FAMILIES)[:, None] + 0.5 * rng.standard_normal(TASKS) + 0.1 * (
        rng.standard_normal((FAMILIES, TASKS)))
    between_families, between_tasks, rest = anova(table)
    assert min(between_families, between_tasks) > rest  # all components are inside
    found = combine(table.ravel(), 1e-9 * np.eye(FAMILIES * TASKS), CellGrid(FAMILY, TASK))
    variance = (between_families + between_tasks - rest) / (FAMILIES * TASKS)
    df = (between_families + between_tasks - rest) ** 2 / (
        between_families**2 / (FAMILIES - 1) + between_tasks**2 / (TASKS - 1)
        + rest**2 / ((FAMILIES - 1) * (TASKS - 1)))
    assert found.value == pytest.approx(table.mean(), abs=1e-6)
    assert found.se == pytest.approx(np.sqrt(variance), rel=1e-6)
    assert found.df == pytest.approx(max(df, TASKS - 1), rel=1e-5)
    assert found.spread["family"] == pytest.approx(np.sqrt((between_families - rest) / TASKS), rel=1e-6)
    assert found.spread["task"] == pytest.approx(np.sqrt((between_tasks - rest) / FAMILIES), rel=1e-6)


def test_without_variation_the_sampling_covariance_decides():
    sampling = np.diag(np.linspace(0.01, 0.04, FAMILIES * TASKS))
    found = combine(np.full(FAMILIES * TASKS, 0.7), sampling, CellGrid(FAMILY, TASK))
    weights = 1 / np.diag(sampling)
    assert found.value == pytest.approx(0.7)
    np.testing.assert_allclose(found.weights, weights / weights.sum(), rtol=1e-6)
    assert found.se == pytest.approx(1 / np.sqrt(weights.sum()), rel=1e-6)
    assert max(found.spread.values()) < 1e-4


def test_one_task_is_a_random_effects_meta_analysis():
    """Equal sampling variances: the restricted estimate is the observed variance less the sampling variance."""
    values, s2 = np.array([0.1, 0.5, 0.9, 0.2, 0.75]), 0.01
    found = combine(values, s2 * np.eye(5), CellGrid(np.arange(5), np.zeros(5, int)))
    assert list(found.spread) == ["cell"]
    assert found.spread["cell"] == pytest.approx(np.sqrt(values.var(ddof=1) - s2), rel=1e-6)
    assert found.se == pytest.approx(np.sqrt(values.var(ddof=1) / 5), rel=1e-6)
    assert found.df == pytest.approx(4, rel=1e-6)


def test_two_cells_by_hand():
    """Their difference, of variance S = s1 + s2 + 2v, is all that tells of v: its estimate has variance S^2 / 2."""
    s1, s2, gap = 0.25, 0.01, 0.8
    values, sampling, grid = np.array([0.0, gap]), np.diag([s1, s2]), CellGrid(np.zeros(2, int), np.arange(2))
    v = (gap**2 - s1 - s2) / 2
    found = combine(values, sampling, grid)
    np.testing.assert_allclose(found.weights, np.array([s2 + v, s1 + v]) / gap**2, rtol=1e-5)
    assert found.spread == {"cell": pytest.approx(np.sqrt(v), rel=1e-6)}
    first = combine(values, sampling, grid, np.array([1.0, 0.0]))
    assert (first.value, first.se) == pytest.approx((0.0, np.sqrt(s1 + v)), rel=1e-6)
    assert first.df == pytest.approx(4 * (s1 + v) ** 2 / gap**4, rel=1e-5)


def test_degrees_of_freedom_of_the_sampling_variance_enter():
    """Satterthwaite: the variance of the whole variance is the sum of its parts' variances."""
    values, sampling, grid = np.array([0.0, 0.8]), np.diag([0.25, 0.01]), CellGrid(np.zeros(2, int), np.arange(2))
    weights = np.array([1.0, 0.0])
    plain, few = (combine(values, sampling, grid, weights, known) for known in (None, lambda w: float(w[0]) * 3))
    assert (plain.value, plain.se) == (few.value, few.se)
    assert few.se**4 * 2 / few.df == pytest.approx(plain.se**4 * 2 / plain.df + 2 * 0.25**2 / 3)


def test_one_cell_is_what_it_is():
    found = combine(np.array([0.3]), np.array([[0.04]]), CellGrid(np.array([0]), np.array([0])))
    assert (found.value, found.se, found.df, found.spread) == (0.3, pytest.approx(0.2), 1.0, {"cell": 0.0})


def test_plain_average_of_these_cells():
    sampling = np.array([[0.04, 0.01, 0.0], [0.01, 0.09, 0.0], [0.0, 0.0, 0.16]])
    found = average(np.array([1.0, 2.0, 6.0]), sampling, lambda weights: 7.0)
    assert (found.value, found.se) == pytest.approx((3.0, np.sqrt(0.31) / 3))
    assert (found.df, found.spread) == (7.0, {})
    np.testing.assert_allclose(found.weights, 1 / 3)


def test_degrees_of_freedom_are_no_fewer_than_the_fewest_levels_leave():
    assert CellGrid(FAMILY, TASK).least_df == TASKS - 1
    assert CellGrid(np.array([0, 1]), np.array([0, 0])).least_df == 1
    assert CellGrid(np.array([0]), np.array([0])).least_df == 1


def test_given_weights_are_kept():
    weights = np.full(FAMILIES * TASKS, 1 / (FAMILIES * TASKS))
    values = np.random.default_rng(1).standard_normal(FAMILIES * TASKS)
    found = combine(values, np.diag(np.linspace(1, 9, FAMILIES * TASKS)), CellGrid(FAMILY, TASK), weights)
    assert found.value == pytest.approx(values.mean())


def test_order_of_cells_and_units_change_nothing():
    rng = np.random.default_rng(2)
    values = rng.standard_normal(FAMILIES * TASKS)
    root = rng.standard_normal((FAMILIES * TASKS, FAMILIES * TASKS)) / 10
    sampling = root @ root.T + 0.05 * np.eye(FAMILIES * TASKS)
    one = combine(values, sampling, CellGrid(FAMILY, TASK))
    p = rng.permutation(FAMILIES * TASKS)
    other = combine(1000 * values[p], 1e6 * sampling[np.ix_(p, p)], CellGrid(FAMILY[p], TASK[p]))
    assert (other.value / 1000, other.se / 1000, other.df) == pytest.approx((one.value, one.se, one.df), rel=1e-3)


@pytest.mark.parametrize(("own", "expected"), [(0.3, TASKS - 1), (50.0, 50.0)])
def test_degrees_of_freedom_have_a_floor(monkeypatch, own, expected):
    from canopy_stats.slope import combine as module

    monkeypatch.setattr(module, "_satterthwaite", lambda *_: own)
    values = np.random.default_rng(1).standard_normal(FAMILIES * TASKS)
    assert combine(values, np.eye(FAMILIES * TASKS), CellGrid(FAMILY, TASK)).df == expected
