"""Densities of every family and link: against scipy, against differences, against their own draws; and refusals."""

import copy
import pickle
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats

from canopy_stats.mixed.families import FAMILIES, get_family, others
from canopy_stats.mixed.families.links import POSITIVE, REAL, SHARES
from canopy_stats.mixed.families.rising import rising
from canopy_stats.schema import UserError

LINKS = {
    "beta": SHARES, "ordbeta": ["logit"], "gaussian": REAL, "binomial": SHARES,
    "betabinomial": ["logit", "probit", "cloglog"], "poisson": POSITIVE, "nbinom1": POSITIVE, "nbinom2": POSITIVE,
    "gamma": POSITIVE, "lognormal": ["log"], "cumulative": ["logit", "probit", "cloglog"],
    "hurdle_poisson": ["log"], "hurdle_nbinom2": ["log"],
}
CASES = [(family, link, False) for family, links in LINKS.items() for link in links]
CASES += [(family, "log", True) for family in ("poisson", "nbinom1", "nbinom2")]
CUTS = {"ordbeta": np.array([-1.5, np.log(2.7)]), "cumulative": np.array([-1.2, np.log(0.8), np.log(1.5)])}


def made(name, link=None, inflated=False):
    family = get_family(name, link, zero_inflation=inflated)
    return family.for_response(np.arange(1.0, 5.0)) if name == "cumulative" else family


def point(name, link, rng, n=40):
    """Random predictors where the link is defined, and everything else."""
    eta = rng.normal(0.2, 0.8, n)
    if link == "identity" and name != "gaussian":
        eta = rng.uniform(0.1, 0.9, n)
    if link == "log" and name in ("beta", "binomial"):
        eta = -rng.uniform(0.1, 3, n)
    trials = rng.integers(1, 12, n).astype(float) if name in ("binomial", "betabinomial") else np.ones(n)
    return eta, others(n, kappa=rng.normal(1.0, 0.8, n), zeta=rng.normal(-0.5, 1, n), cut=CUTS.get(name, np.empty(0)),
                       trials=trials)


def close(ours, function, step=1e-3):
    """Equal to the sixth-order central difference of ``function`` of a scalar shift."""
    near, mid, far = (function(k * step) - function(-k * step) for k in (1, 2, 3))
    expected = (45 * near - 9 * mid + far) / (60 * step)
    np.testing.assert_allclose(ours, expected, rtol=2e-6, atol=2e-7 * (1 + np.abs(expected).max()))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "link", "inflated"), CASES)
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_derivatives(name, link, inflated, seed):
    rng = np.random.default_rng(seed)
    family, (eta, rest) = made(name, link, inflated), point(name, link, rng)
    y = family.draw(eta, rest, rng)
    at = family.bind(y, rest)(eta, 3)
    two = family.bind(y, rest)(eta, 2)
    for field in ("value", "d1", "d2", "fisher"):
        np.testing.assert_allclose(getattr(two, field), getattr(at, field), rtol=1e-12, atol=1e-13)
    assert np.all(at.fisher >= 0)
    assert two.d3 is None or all((getattr(two, f) is None) == (getattr(at, f) is None) for f in at.__slots__)
    for field, before in (("d1", "value"), ("d2", "d1"), ("d3", "d2")):
        close(getattr(at, field), lambda h, before=before: getattr(family.bind(y, rest)(eta + h, 3), before))
    moved = lambda part, h, field: getattr(  # noqa: E731
        family.bind(y, others(len(y), **{**parts, part: parts[part] + h}))(eta, 3), field)
    parts = {key: getattr(rest, key) for key in ("kappa", "zeta", "cut", "trials")}
    asked = [("kappa", "k1 kk dk ddk")] * family.has_dispersion + [("zeta", "z1 zz dz ddz")] * bool(family.zero)
    for part, fields in asked:
        for field, before in zip(fields.split(), ("value", fields.split()[0], "d1", "d2"), strict=True):
            close(getattr(at, field), partial(moved, part, field=before))
    for j in range(family.n_cut):
        unit = np.eye(family.n_cut)[j]
        for field, before in (("cut1", "value"), ("dcut", "d1"), ("ddcut", "d2")):
            close(getattr(at, field)[:, j], lambda h, b=before, u=unit: moved("cut", h * u, b))


def reference(name, link, y, eta, rest):
    """scipy's log density."""
    mu = {"logit": special.expit, "probit": stats.norm.cdf, "cloglog": lambda e: 1 - np.exp(-np.exp(e)), "log": np.exp,
          "identity": lambda e: e}[link](eta)
    phi, n = np.exp(rest.kappa), rest.trials
    if name == "ordbeta":
        low, high = special.expit(eta + 1.5), special.expit(eta - 1.2)
        inner = stats.beta.logpdf(np.clip(y, 1e-9, 1 - 1e-9), mu * phi, (1 - mu) * phi)
        return np.where(y == 0, np.log1p(-low), np.where(y == 1, np.log(high), np.log(low - high) + inner))
    if name == "cumulative":
        tau = np.concatenate([[-np.inf], np.cumsum([-1.2, 0.8, 1.5]), [np.inf]])
        f = {"logit": special.expit, "probit": stats.norm.cdf, "cloglog": lambda e: 1 - np.exp(-np.exp(e))}[link]
        k = y.astype(int)
        return np.log(f(tau[k] - eta) - f(tau[k - 1] - eta))
    return {
        "beta": lambda: stats.beta.logpdf(y, mu * phi, (1 - mu) * phi),
        "gaussian": lambda: stats.norm.logpdf(y, mu, np.sqrt(phi)),
        "lognormal": lambda: stats.lognorm.logpdf(y, np.sqrt(phi), scale=mu),
        "gamma": lambda: stats.gamma.logpdf(y, phi, scale=mu / phi),
        "binomial": lambda: stats.binom.logpmf(y, n, mu),
        "betabinomial": lambda: stats.betabinom.logpmf(y, n, mu * phi, (1 - mu) * phi),
        "poisson": lambda: stats.poisson.logpmf(y, mu),
        "nbinom1": lambda: stats.nbinom.logpmf(y, mu / phi, 1 / (1 + phi)),
        "nbinom2": lambda: stats.nbinom.logpmf(y, phi, phi / (phi + mu)),
    }[name]()


@pytest.mark.parametrize(("name", "link", "inflated"), CASES)
def test_log_densities(name, link, inflated):
    rng = np.random.default_rng(1)
    family, (eta, rest) = made(name, link, inflated), point(name, link, rng, 200)
    y = family.draw(eta, rest, rng)
    base, p = name.removeprefix("hurdle_"), special.expit(rest.zeta)
    expected = reference(base, link, y, eta, rest)
    if inflated:
        expected = np.log(p * (y == 0) + (1 - p) * np.exp(expected))
    elif family.zero:
        none = np.exp(reference(base, link, 0 * y, eta, rest))
        expected = np.where(y == 0, np.log(p), np.log1p(-p) + expected - np.log1p(-none))
    np.testing.assert_allclose(family.bind(y, rest)(eta, 2).value, expected, rtol=1e-9, atol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "link", "inflated"), CASES)
def test_mean_variance_and_distribution_are_those_of_the_draws(name, link, inflated):
    rng, n = np.random.default_rng(2), 100_000
    family = made(name, link, inflated)
    eta = np.full(n, {"log": -0.6, "identity": 0.55}.get(link, 0.4))
    trials = 4.0 if family.trials else 1.0
    rest = others(n, kappa=np.full(n, 0.9 if name not in ("gaussian", "lognormal") else -1.0), zeta=np.full(n, -0.8),
                  cut=CUTS.get(name, np.empty(0)), trials=np.full(n, trials))
    y = family.draw(eta, rest, rng)
    share = y / trials
    assert share.mean() == pytest.approx(family.mean(eta, rest)[0], abs=4.5 * share.std() / np.sqrt(n))
    assert share.var() == pytest.approx(family.variance(eta, rest)[0], rel=0.05)
    for at in np.unique(np.quantile(y, [0, 0.2, 0.5, 0.9, 1])):
        below, upto = (p[0] for p in family.cdf(np.full(1, at), eta[:1], rest.at(np.arange(1))))
        assert (np.mean(y < at), np.mean(y <= at)) == pytest.approx((below, upto), abs=0.008)


@pytest.mark.parametrize("link", LINKS["cumulative"])
def test_categories_have_probabilities(link):
    rng = np.random.default_rng(3)
    family, (eta, rest) = made("cumulative", link), point("cumulative", link, rng)
    table = family.probabilities(eta, rest)
    np.testing.assert_allclose(table.sum(axis=1), 1, rtol=1e-12)
    for k in range(4):
        at = family.bind(np.full(len(eta), k + 1.0), rest)(eta, 2).value
        np.testing.assert_allclose(np.log(table[:, k]), at, rtol=1e-10)


@pytest.mark.parametrize(("name", "eta", "y"), [
    ("binomial", 45.0, 0.0), ("binomial", -800.0, 1.0), ("poisson", -600.0, 3.0), ("nbinom2", -300.0, 1.0),
    ("cumulative", 60.0, 1.0), ("cumulative", -60.0, 4.0), ("cumulative", 60.0, 2.0)])
@pytest.mark.parametrize("link", [None, "probit"])
def test_tails_keep_their_digits(name, eta, y, link):
    """log-densities far out are those of the leading term, not minus infinity."""
    if link == "probit" and name not in ("binomial", "cumulative"):
        return
    family = made(name, link)
    eta = eta if link is None else np.sign(eta) * 37.0
    rest = others(1, cut=CUTS.get(name, np.empty(0)))
    at = family.bind(np.array([y]), rest)(np.array([eta]), 3)
    assert all(np.isfinite(v).all() for v in (at.value, at.d1, at.d2, at.d3))
    expected = {"binomial": -abs(eta), "poisson": 3 * eta - np.log(6), "nbinom2": eta}.get(name)
    if link == "probit" or name == "cumulative":
        assert at.value[0] < -30
    else:
        assert at.value[0] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("name", "limit"), [("nbinom1", "poisson"), ("nbinom2", "poisson"),
                                             ("betabinomial", "binomial")])
def test_without_overdispersion_the_limit_is_reached(name, limit):
    rng = np.random.default_rng(4)
    eta, trials = rng.normal(1, 1, 50), np.full(50, 9.0)
    kappa = np.full(50, -24.0 if name == "nbinom1" else 24.0)
    plain = get_family(limit)
    y = plain.draw(eta, others(50, trials=trials), rng)
    limit_at = plain.bind(y, others(50, trials=trials))(eta, 3)
    at = get_family(name).bind(y, others(50, kappa=kappa, trials=trials))(eta, 3)
    for field in ("value", "d1", "d2", "d3"):
        np.testing.assert_allclose(getattr(at, field), getattr(limit_at, field), rtol=1e-7, atol=1e-7)
    assert np.abs(at.k1).max() < 1e-6


def test_rising_factorial_keeps_its_digits():
    """Sums of logarithms and of inverse powers for whole m."""
    rng = np.random.default_rng(5)
    x, m = 10 ** rng.uniform(-3, 12, 300), rng.integers(0, 30, 300)
    steps = np.arange(30)[:, None]
    terms = x + steps
    inside = steps < m
    expected = [np.sum(inside * values, axis=0) for values in (np.log(terms), 1 / terms, -1 / terms**2, 2 / terms**3)]
    for ours, theirs in zip(rising(x, m.astype(float)), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("name", FAMILIES)
def test_families_are_copied_by_what_made_them(name):
    family = made(name)
    for twin in (copy.deepcopy(family), pickle.loads(pickle.dumps(family))):
        assert (twin.name, twin.link, twin.zero, twin.facts, twin.labels) == (
            family.name, family.link, family.zero, family.facts, family.labels)
    inflated = pickle.loads(pickle.dumps(get_family("poisson", zero_inflation=True)))
    assert inflated.zero == "inflation"


@pytest.mark.parametrize(("name", "y", "words"), [
    ("beta", [0.2, 1.0], "exactly 0 or 1"), ("beta", [0.2, 1.5], "outside"), ("ordbeta", [0, 1.0], "binomial"),
    ("binomial", [0, 2.0], "not 0 or 1"), ("poisson", [1, 0.5], "not a count"), ("nbinom1", [-1, 2.0], "not a count"),
    ("gamma", [0, 2.0], "not positive"), ("lognormal", [-1, 2.0], "not positive"), ("cumulative", [1, 1.5], "whole"),
    ("hurdle_poisson", [1, 2.0], "no zero"), ("hurdle_nbinom2", [0, 0.0], "nothing but zeros"),
])
def test_refusals(name, y, words):
    y = np.array(y, dtype=float)
    said = [text for mask, text in get_family(name).for_response(y).refuse(y, np.ones(2)) if mask.any()]
    assert any(words in text for text in said)


@pytest.mark.parametrize(("name", "y", "refused"), [
    ("beta", [0.2, 1.0, 0.0, 0.5], [0, 1, 1, 0]), ("beta", [-0.1, 0.1, 1.1, 0.5], [1, 0, 1, 0]),
    ("ordbeta", [0.0, 1.0, 1.2, 0.5], [0, 0, 1, 0]), ("poisson", [0.0, 1.0, 2.5, -1.0], [0, 0, 1, 1]),
    ("cumulative", [1.0, 2.0, 2.5, 3.0], [0, 0, 1, 0]),
])
def test_the_rows_that_are_refused_are_named_and_no_others(name, y, refused):
    y = np.array(y)
    family = get_family(name).for_response(y)
    found = np.any([mask for mask, _ in family.refuse(y, np.ones(4)) if not mask.all()], axis=0)
    np.testing.assert_array_equal(found, np.array(refused, dtype=bool))


@pytest.mark.parametrize("name", FAMILIES)
def test_what_a_family_draws_it_takes(name):
    family, (eta, rest) = made(name), point(name, get_family(name).link, np.random.default_rng(6), 400)
    y = family.draw(eta, rest, np.random.default_rng(7))
    assert not any(mask.any() for mask, _ in family.refuse(y, rest.trials))
    assert family.link == next(iter(LINKS[name])) and family.name == name


def test_categories_that_the_model_does_not_know_or_that_are_missing_are_named():
    family = get_family("cumulative").for_response(np.array([1.0, 2.0, 4.0, 7.0]))
    said = [(mask.tolist(), text) for mask, text in family.refuse(np.array([1.0, 3.0, 2.0]), np.ones(3)) if mask.any()]
    assert said == [
        ([False, True, False], "{name} has categories in {rows} that the model does not know. Mend these rows."),
        ([True] * 3, "{name} has nothing in category 4, 7, so its thresholds are not defined.")]
    many = np.arange(60.0)
    assert any("60 different values" in text for mask, text in get_family("cumulative").for_response(many).refuse(
        many, np.ones(60)) if mask.all())


# --- starting values ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "link"),
                         [(name, link) for name in ("beta", "poisson", "nbinom1", "nbinom2") for link in LINKS[name]])
def test_the_predictor_starts_at_the_response(name, link):
    """Its mean there is the response itself; a count of zero is taken for one half."""
    family = get_family(name, link)
    y = np.array([0.1, 0.4, 0.9]) if name == "beta" else np.array([0.0, 1.0, 2.0, 9.0])
    mean = family.mean(family.start(y, np.ones(len(y))), others(len(y)))
    np.testing.assert_allclose(mean, y if name == "beta" else [0.5, 1.0, 2.0, 9.0], rtol=1e-10)


def test_rows_at_the_edges_tell_nothing_of_the_mean_between():
    start = get_family("ordbeta").start(np.array([0.0, 0.2, 1.0]), np.ones(3))
    np.testing.assert_allclose(start, [np.nan, special.logit(0.2), np.nan])


def test_dispersion_starts_at_the_moments():
    """Mean 2 and variance 4: nbinom1's phi is 4/2 - 1, nbinom2's 2^2 / (4 - 2). A beta's variance on the logit scale is
    1 / (mu (1 - mu) (1 + phi)) by the delta method. Each is kept within what a search can start from."""
    two = np.array([0.0, 4.0] * 50)
    flat, wild = np.full(100, 3.0), np.array([0.0] * 99 + [1e6])
    for name, expected in (("nbinom1", (1.0, 0.1, 100.0)), ("nbinom2", (2.0, 100.0, 0.1))):
        start = get_family(name).start_kappa
        found = [np.exp(start(y, np.ones(100), np.zeros(100))) for y in (two, flat, wild)]
        np.testing.assert_allclose(found, expected)
    y, residual = np.array([0.3, 0.5]), np.array([-0.5, 0.5])
    for name in ("beta", "ordbeta"):
        start = get_family(name).start_kappa
        assert np.exp(start(y, np.ones(2), residual)) == pytest.approx(1 / (0.25 * 0.4 * 0.6) - 1)
        assert np.exp(start(y, np.ones(2), 100 * residual)) == pytest.approx(0.5)


@pytest.mark.parametrize(("zeros", "ones"), [(20, 10), (20, 0), (0, 10), (0, 0)])
def test_thresholds_of_ordered_beta_start_at_the_observed_shares(zeros, ones):
    """P(0) = expit(c1 - eta), P(1) = expit(eta - c2); without zeros or ones that cutpoint is infinite."""
    y = np.concatenate([np.zeros(zeros), np.ones(ones), np.full(200 - zeros - ones, 0.4)])
    family = get_family("ordbeta").for_response(y)
    cuts, eta = family.cuts, np.full(200, 0.3)
    assert family.facts == (zeros > 0, ones > 0) and len(cuts.parameters) == (zeros > 0) + (ones > 0)
    start = cuts.start(y, eta)
    low, high = cuts.points(start)
    assert (special.expit(low - 0.3), special.expit(0.3 - high)) == pytest.approx((zeros / 200, ones / 200))
    rest = others(200, cut=start)
    assert family.cdf(np.zeros(200), eta, rest)[1][0] == pytest.approx(zeros / 200)
    assert family.cdf(np.ones(200), eta, rest)[0][0] == pytest.approx(1 - ones / 200)
    jacobian = cuts.jacobian(start)
    assert jacobian.shape == (2, len(start))
    for j, step in enumerate(1e-6 * np.eye(len(start))):
        ends = cuts.points(start + step), cuts.points(start - step)
        slope = [(a - b) / 2e-6 if np.isfinite(a) else 0.0 for a, b in zip(*ends, strict=True)]
        np.testing.assert_allclose(jacobian[:, j], slope, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(family.bind(y, rest)(eta, 2).value[: zeros + ones],
                               np.log([zeros / 200] * zeros + [ones / 200] * ones))


@pytest.mark.parametrize("link", LINKS["cumulative"])
def test_thresholds_of_categories_start_at_the_observed_shares(link):
    y = np.repeat([1.0, 2.0, 4.0], [20, 50, 30])
    family = get_family("cumulative", link).for_response(y, ("low", "mid", "high"))
    eta = np.full(100, 0.7)
    table = family.probabilities(eta, others(100, cut=family.cuts.start(y, eta)))
    np.testing.assert_allclose(table[0], [0.2, 0.5, 0.3])
    np.testing.assert_array_equal(family.start(y, np.ones(100)), np.zeros(100))  # the thresholds say where it is
    assert family.cuts.names == ("low|mid", "mid|high") and family.labels == ("low", "mid", "high")
    assert family.cuts.parameters == ("threshold low|mid", "log gap before mid|high")
    assert get_family("cumulative", link).for_response(y).labels == ("1", "2", "4")
    # One of 20,000 rows, and none: kept away from infinity, and apart.
    rare = family.cuts.points(family.cuts.start(np.array([1.0] + 19_999 * [4.0]), np.zeros(20_000)))
    assert np.isfinite(rare).all() and rare[1] - rare[0] == pytest.approx(1e-3)


def test_beyond_its_range_of_dispersion_a_family_is_its_limit():
    """Negative binomial counts vary as Poisson ones there, which the fit then says."""
    for name in ("nbinom1", "nbinom2"):
        family = get_family(name)
        (edge,) = (end for end in family.kappa_range if np.isfinite(end))
        eta = np.array([0.5])
        assert family.variance(eta, others(1, kappa=np.array([edge])))[0] == pytest.approx(np.exp(0.5), rel=1e-4)
        assert family.eta_range == (-12.0, np.inf) and get_family(name, "identity").eta_range == (-np.inf, np.inf)
        assert family.counts and get_family(name, "identity").unit(np.zeros(2), np.array([1.0, 5.0])) == 2.0


@pytest.mark.parametrize(("name", "precision"), [("beta", 12.0), ("ordbeta", 12.0), ("binomial", np.inf),
                                                 ("betabinomial", 12.0), ("cumulative", np.inf)])
def test_probabilities_within_six_in_a_million_of_an_end_are_at_the_edge(name, precision):
    family = made(name)
    assert family.eta_range == (-12.0, 12.0) and family.kappa_range == (-np.inf, precision)


def test_what_a_family_lacks_is_refused():
    for name in FAMILIES:
        counted = name.removeprefix("hurdle_")
        with pytest.raises(UserError, match=f"^family='{counted}' has no link 'cauchit'; choose one of "):
            get_family(name, "cauchit")
    with pytest.raises(UserError, match="no zero inflation; it is for counts: poisson, nbinom1"):
        get_family("beta", zero_inflation=True)
    with pytest.raises(UserError, match="choose one of beta"):
        get_family("normal")


def test_thresholds_and_their_jacobian():
    for name, cut in CUTS.items():
        cuts = made(name).cuts
        points, jacobian = cuts.points(cut), cuts.jacobian(cut)
        assert np.all(np.diff(points) > 0) and len(points) == len(cuts.names)
        for j in range(len(cut)):
            step = 1e-6 * np.eye(len(cut))[j]
            slope = (cuts.points(cut + step) - cuts.points(cut - step)) / 2e-6
            np.testing.assert_allclose(jacobian[:, j], slope, rtol=1e-8)
