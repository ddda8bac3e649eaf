"""Densities, gradients and Hessians against differences and closed forms."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, special, stats

from canopy_stats.mixed import blocks, laplace
from canopy_stats.mixed.family import get_family
from canopy_stats.mixed.formula import build_design
from canopy_stats.mixed.polygamma import polygammas

FAMILIES = ["beta", "ordbeta", "gaussian"]
FORMULAS = ["y ~ x", "y ~ x + (1|g)", "y ~ x + (1+x|g) + (1|h)", "y ~ x + (x||g) + (1+x|h) + (1|f)"]


def random_problem(family, formula, seed):
    """A problem with prior weights and an offset, and a random point near plausible values."""
    rng = np.random.default_rng(seed)
    n = 150
    data = pd.DataFrame({"x": rng.normal(size=n), "g": rng.integers(0, 15, n), "h": rng.integers(0, 5, n),
                         "f": rng.integers(0, 4, n)})
    eta = 0.3 * data["x"].to_numpy() - 0.5 + 0.5 * rng.normal(size=15)[data["g"]]
    y = get_family(family).draw(eta, np.full(n, 2.0), np.array([-2.0, 1.0]), rng)
    design = build_design(formula, data.assign(y=y))
    layout = blocks.make_layout(design.factors) if design.factors else None
    w = np.column_stack([np.ones(n), data["x"]])
    problem = laplace.Problem(get_family(family, y), y, design.fixed.matrix, w, design.factors, layout,
                              0.1 * rng.normal(size=n), rng.uniform(0.5, 2, n))
    sizes = problem.sizes
    start = np.concatenate([[-0.4, 0.2], [1.8, 0.1], [-2.0, 1.0][: sizes[2]], 0.5 * rng.normal(size=sizes[3])])
    return problem, start + 0.1 * rng.normal(size=len(start))


def slope(function, x, i, size):
    """Fourth-order central difference in coordinate i."""
    move = np.eye(len(x))[i] * size
    near, far = function(x + move) - function(x - move), function(x + 2 * move) - function(x - 2 * move)
    return (8 * near - far) / (12 * size)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("formula", FORMULAS)
@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_gradient(family, formula, seed):
    problem, omega = random_problem(family, formula, seed)
    found = laplace.evaluate(problem, omega)
    if found is None:
        return
    value = lambda x: laplace.evaluate(problem, x).value  # noqa: E731
    expected = np.array([slope(value, omega, i, 1e-4) for i in range(len(omega))])
    np.testing.assert_allclose(found.gradient, expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("formula", FORMULAS)
def test_hessian(family, formula):
    problem, omega = random_problem(family, formula, 3)
    found = laplace.evaluate(problem, omega)
    expected = np.stack([slope(lambda x: laplace.evaluate(problem, x).gradient, omega, i, 1e-3)
                         for i in range(len(omega))])
    ours = laplace.hessian(problem, omega, found, np.full(len(omega), 1e-6))
    np.testing.assert_allclose(ours, expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("family", FAMILIES)
def test_densities(family):
    rng = np.random.default_rng(1)
    eta, kappa = rng.normal(size=50), rng.normal(2, 0.5, 50)
    cut = np.array([-1.5, 1.2])
    y = get_family(family).draw(eta, kappa, cut, rng)
    parameters = {"ordbeta": np.array([-1.5, np.log(2.7)])}.get(family, np.empty(0))
    at = get_family(family, y).bind(y, kappa, parameters)(eta, 3)
    mu, phi = special.expit(eta), np.exp(kappa)
    inner = stats.beta.logpdf(np.clip(y, 1e-9, 1 - 1e-9), mu * phi, (1 - mu) * phi)
    low, high = special.expit(eta - cut[0]), special.expit(eta - cut[1])
    expected = {
        "beta": inner,
        "ordbeta": np.where(y == 0, np.log1p(-low), np.where(y == 1, np.log(high), np.log(low - high) + inner)),
        "gaussian": stats.norm.logpdf(y, eta, np.exp(kappa / 2)),
    }[family]
    np.testing.assert_allclose(at.value, expected, rtol=1e-9)


@pytest.mark.parametrize("family", FAMILIES)
def test_mean_variance_and_distribution_are_those_of_the_draws(family):
    chosen, rng = get_family(family), np.random.default_rng(2)
    eta, kappa, cut = np.full(200_000, 0.4), np.full(200_000, 1.5), np.array([-1.5, 1.7])
    y = chosen.draw(eta, kappa, cut, rng)
    assert y.mean() == pytest.approx(chosen.mean(eta, kappa, cut)[0], abs=4 * y.std() / np.sqrt(len(y)))
    assert y.var() == pytest.approx(chosen.variance(eta, kappa, cut)[0], rel=0.02)
    for at in (0.0, 0.3, 0.8, 1.0):
        below, upto = (p[0] for p in chosen.cdf(np.full(1, at), eta[:1], kappa[:1], cut))
        assert (np.mean(y < at), np.mean(y <= at)) == pytest.approx((below, upto), abs=0.006)


def test_laplace_is_exact_for_gaussian():
    """One group: the marginal density is a normal one in closed form, and the integral of the conditional one."""
    problem, omega = random_problem("gaussian", "y ~ x + (1|g)", 5)
    omega[-1] = 0.7
    total = 0.0
    parts = laplace.split(problem, omega)
    eta, kappa = laplace.fixed_eta(problem, parts), problem.w @ parts.delta
    for level in range(15):
        rows = problem.factors[0].codes == level
        variance = np.exp(kappa[rows]) / problem.weights[rows]

        def density(u, rows=rows):
            logs = stats.norm.logpdf(problem.y[rows], eta[rows] + 0.7 * u, np.exp(kappa[rows] / 2))
            return np.exp(problem.weights[rows] @ logs) * stats.norm.pdf(u)

        assert variance.size
        total += np.log(integrate.quad(density, -8, 8, epsabs=0, epsrel=1e-10, limit=400)[0])
    assert laplace.evaluate(problem, omega).value == pytest.approx(total, abs=1e-6)


def test_sign_of_a_covariance_column_does_not_matter():
    problem, omega = random_problem("beta", "y ~ x + (1+x|g) + (1|h)", 6)
    turned = omega.copy()
    turned[-4:-2] *= -1
    assert laplace.evaluate(problem, turned).value == pytest.approx(laplace.evaluate(problem, omega).value, abs=1e-9)


def test_polygammas():
    x = np.concatenate([10 ** np.random.default_rng(0).uniform(-8, 8, 5000), np.linspace(0.5, 3, 500)])
    ours = polygammas(x)
    expected = [special.gammaln(x), special.psi(x), special.polygamma(1, x), special.polygamma(2, x)]
    for a, b in zip(ours, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-11)
