"""Likelihoods, gradients and Hessians of the random-effects integral against differences and closed forms."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, special, stats

from canopy_stats.mixed.algebra import blocks
from canopy_stats.mixed.families import get_family, others
from canopy_stats.mixed.families.polygamma import polygammas
from canopy_stats.mixed.fitting import laplace, modes
from canopy_stats.mixed.formulas.formula import build_design
from canopy_stats.mixed.models import glmm

FAMILIES = ["beta", "ordbeta", "gaussian", "binomial", "betabinomial", "poisson", "nbinom1", "nbinom2", "gamma",
            "lognormal", "cumulative", "hurdle_poisson", "hurdle_nbinom2", "inflated poisson", "inflated nbinom2"]
CUTS = {"ordbeta": np.array([-2.0, np.log(3.0)]), "cumulative": np.array([-1.0, 0.1, 0.2])}
FORMULAS = ["y ~ x", "y ~ x + (1|g)", "y ~ x + (1+x|g) + (1|h)", "y ~ x + (x||g) + (1+x|h) + (1|f)"]


LINKS = [("beta", "probit"), ("beta", "cloglog"), ("beta", "log"), ("beta", "identity"), ("gaussian", "log"),
         ("binomial", "probit"), ("binomial", "cloglog"), ("binomial", "log"), ("binomial", "identity"),
         ("betabinomial", "probit"), ("betabinomial", "cloglog"), ("poisson", "identity"), ("nbinom1", "identity"),
         ("nbinom2", "identity"), ("gamma", "identity"), ("cumulative", "probit"), ("cumulative", "cloglog"),
         ("inflated nbinom1", "log")]
WHERE = {"log": (-1.5, 0.1), "identity": (0.5, 0.05)}
"""Intercept and size of everything else where means near the usual ones would be outside the range of a link."""


def random_problem(name, formula, seed, quadrature=1, link=None):
    """A problem with prior weights and an offset, and a random point near plausible values."""
    rng = np.random.default_rng(seed)
    n = 150
    data = pd.DataFrame({"x": rng.normal(size=n), "g": rng.integers(0, 15, n), "h": rng.integers(0, 5, n),
                         "f": rng.integers(0, 4, n)})
    family = get_family(name.removeprefix("inflated "), link, zero_inflation=name.startswith("inflated"))
    if name == "cumulative":
        family = family.for_response(np.arange(4.0))
    middle, size = WHERE.get(link if link != "log" or name in ("beta", "binomial") else None, (-0.4, 1.0))
    eta = middle - 0.1 + size * (0.3 * data["x"].to_numpy() + 0.5 * rng.normal(size=15)[data["g"]])
    trials = rng.integers(1, 9, n).astype(float) if family.trials else np.ones(n)
    kappa, zeta, cut = np.full(n, 2.0 if "nbinom" not in name else 0.5), np.full(n, -0.7), CUTS.get(name, np.empty(0))
    y = family.draw(eta, others(n, kappa=kappa, zeta=zeta, cut=cut, trials=trials), rng)
    design = build_design(formula, data.assign(y=y))
    layout = blocks.make_layout(design.factors) if design.factors else None
    both = np.column_stack([np.ones(n), data["x"]])
    problem = laplace.Problem(
        family.for_response(y), y, design.fixed.matrix, both if family.has_dispersion else both[:, :0], design.factors,
        layout, 0.1 * size * rng.normal(size=n), rng.uniform(0.5, 2, n), trials, both if family.zero else None,
        quadrature)
    start = np.concatenate([
        [middle, 0.2 * size], [kappa[0] - 0.2, 0.1][: 2 * family.has_dispersion], [-0.5, 0.2][: 2 * bool(family.zero)],
        cut[: problem.family.n_cut], 0.5 * size * rng.normal(size=problem.sizes.theta)])
    return problem, start + 0.1 * size * rng.normal(size=len(start))


def slope(function, x, i, size):
    """Fourth-order central difference in coordinate i."""
    move = np.eye(len(x))[i] * size
    near, far = function(x + move) - function(x - move), function(x + 2 * move) - function(x - 2 * move)
    return (8 * near - far) / (12 * size)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("formula", FORMULAS)
@settings(max_examples=2, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_gradient(family, formula, seed):
    problem, omega = random_problem(family, formula, seed)
    found = laplace.evaluate(problem, omega)
    if found is None:
        return
    value = lambda x: laplace.evaluate(problem, x).value  # noqa: E731
    # Near a point without an inner maximum, as zero parts have them, a step of 1e-4 bends the difference by 1e-4.
    expected = np.array([slope(value, omega, i, 2e-5) for i in range(len(omega))])
    np.testing.assert_allclose(found.gradient, expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max())


@pytest.mark.slow
@pytest.mark.parametrize(("family", "link"), LINKS)
@pytest.mark.parametrize("seed", [1, 2])
def test_gradient_with_every_other_link(family, link, seed):
    problem, omega = random_problem(family, FORMULAS[2], seed, link=link)
    value = lambda x: laplace.evaluate(problem, x).value  # noqa: E731
    expected = np.array([slope(value, omega, i, 2e-5) for i in range(len(omega))])
    np.testing.assert_allclose(laplace.evaluate(problem, omega).gradient, expected, rtol=1e-6,
                               atol=1e-6 * np.abs(expected).max())


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("formula", FORMULAS)
def test_hessian(family, formula):
    problem, omega = random_problem(family, formula, 3)
    found = laplace.evaluate(problem, omega)
    expected = np.stack([slope(lambda x: laplace.evaluate(problem, x).gradient, omega, i, 1e-3)
                         for i in range(len(omega))])
    ours = laplace.hessian(problem, omega, found, np.full(len(omega), 1e-6))
    np.testing.assert_allclose(ours, expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_quadrature_has_an_exact_gradient_and_hessian(family):
    problem, omega = random_problem(family, "y ~ x + (0 + x|g)", 8, quadrature=5)
    found = laplace.evaluate(problem, omega)
    value = lambda x: laplace.evaluate(problem, x).value  # noqa: E731
    expected = np.array([slope(value, omega, i, 1e-4) for i in range(len(omega))])
    np.testing.assert_allclose(found.gradient, expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max())
    expected = np.stack([slope(lambda x: laplace.evaluate(problem, x).gradient, omega, i, 1e-3)
                         for i in range(len(omega))])
    ours = laplace.hessian(problem, omega, found, np.full(len(omega), 1e-6))
    np.testing.assert_allclose(ours, expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.slow
@pytest.mark.parametrize("family", ["binomial", "poisson", "cumulative", "inflated nbinom2"])
def test_quadrature_approaches_the_integral(family):
    """Each group's likelihood is one integral: 25 nodes give it to 1e-8, Laplace does not."""
    problem, omega = random_problem(family, "y ~ x + (1|g)", 9, quadrature=25)
    omega[-1] = 1.2
    parts = laplace.split(problem, omega)
    density, fixed, codes = modes.weighted(problem, parts), laplace.fixed_eta(problem, parts), problem.factors[0].codes

    def integrand(u, level):
        inside = codes == level
        return np.exp(density(fixed + 1.2 * u, 2).value[inside].sum()) * stats.norm.pdf(u)

    exact = sum(np.log(integrate.quad(integrand, -8, 8, (level,), epsabs=0, epsrel=1e-10)[0]) for level in range(15))
    assert laplace.evaluate(problem, omega).value == pytest.approx(exact, abs=1e-6)
    assert abs(laplace.evaluate(replace(problem, quadrature=1), omega).value - exact) > 1e-3


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_start_without_an_inner_maximum_is_drawn_in():
    """Nearly all responses at the squeezed edge: the joint likelihood is not concave at the first random effects."""
    rng = np.random.default_rng(6)
    x, n = rng.normal(size=180), 180
    data = pd.DataFrame({"x": x, "g": np.repeat(np.arange(15), 12), "f": rng.choice(["a", "b"], n),
                         "h": rng.choice(["u", "v", "w"], n)})
    data["y"] = np.clip(np.where(rng.random(n) < 0.97, 0, rng.beta(0.3, 0.3, n)), 1e-6, 1 - 1e-6)
    with pytest.warns(UserWarning, match="may not have converged"):  # the likelihood has no maximum: that is said
        fit = glmm("y ~ x*f + (1|g)", data, dispersion="~ x*f + h")
    assert np.isfinite(fit.llf) and "suspect separation" in str(fit.certificate)
