"""Prompts as clusters: scores against derivatives of the density, and reactions that families share."""

import numpy as np
import pytest
from scipy import stats
from scipy.special import expit

import canopy_stats as cs
from canopy_stats.slope.clusters import Influence, cluster_df, influence
from canopy_stats.slope.coefficients import row_derivatives
from canopy_stats.slope.robust_words import extreme_notes

LAW = cs.Scenario(families=4, tasks=1, prompts=40, tied=0.6)


def fitted(law, seed=1):
    return cs.slope_change(cs.simulate_panel(law, np.random.default_rng(seed)), model="robust")


def log_density(y, eta, phi, cutpoints):
    """Beta, or ordered beta with these cutpoints."""
    mu = expit(eta)
    inside = stats.beta.logpdf(np.clip(y, 1e-9, 1 - 1e-9), mu * phi, (1 - mu) * phi)
    if not len(cutpoints):
        return inside
    none, one = expit(cutpoints[0] - eta), expit(eta - cutpoints[1])
    return np.where(y <= 0, np.log(none), np.where(y >= 1, np.log(np.maximum(one, 1e-300)),
                                                   inside + np.log(1 - none - one)))


@pytest.mark.slow
@pytest.mark.parametrize("zeros", [0.0, 0.4])
def test_scores_are_derivatives_of_the_log_density(zeros):
    change = fitted(LAW.but(zeros=zeros))
    fit, step = change.fit, 1e-5
    y, eta = np.asarray(fit.design.y), np.asarray(fit.predict(scale="link"))
    phi = np.exp(fit.dispersion.matrix @ fit.delta)
    ahead, behind = (log_density(y, eta + move, phi, fit.thresholds.to_numpy()) for move in (step, -step))
    np.testing.assert_allclose(row_derivatives(fit).d1, (ahead - behind) / (2 * step), rtol=1e-5, atol=1e-6)
    assert bool(extreme_notes(fit)) == (zeros > 0) == bool((y == 0).any())


def test_correlation_of_cells_of_one_task():
    rng = np.random.default_rng(0)
    shared, own = rng.standard_normal((400, 1)), rng.standard_normal((400, 4))
    own[:, 2:] = rng.standard_normal((400, 2))
    moved = np.sqrt(0.3) * np.hstack([shared, shared, -shared, 0 * shared]) + np.sqrt(0.7) * own
    found = Influence(moved, np.array(["a", "a", "b", "c"]))
    eye = np.eye(4)
    assert found.correlation(eye) == pytest.approx(0.3, abs=0.1)  # only the two cells of task a are a pair
    raised = found.clustered(eye, 1e3 * np.diag([1.0, 4.0, 1.0, 1.0]))
    assert raised[0, 1] == pytest.approx(2e3 * found.correlation(eye)) and raised[0, 2] == 0
    np.testing.assert_allclose(np.diag(raised), [1e3, 4e3, 1e3, 1e3])
    already = 1e3 * (np.eye(4) + 0.5 * (np.ones((4, 4)) - np.eye(4)))
    np.testing.assert_array_equal(found.clustered(eye, already), already)


def test_variances_rise_to_what_prompts_show():
    moved = np.random.default_rng(1).standard_normal((200, 3)) * np.sqrt([1.0, 2.0, 3.0]) / np.sqrt(200)
    found, eye = Influence(moved, np.array(["a", "b", "c"])), np.eye(3)
    model = np.diag([0.5, 1.0, 1.5])
    shown = (moved**2).sum(axis=0)
    assert found.inflation(eye, model) == pytest.approx(np.mean(shown / np.diag(model)))
    np.testing.assert_allclose(found.clustered(eye, model), model * found.inflation(eye, model))
    np.testing.assert_array_equal(found.clustered(eye, 4 * model), 4 * model)


@pytest.mark.slow
def test_prompts_show_the_clustered_errors_of_the_fit():
    """CR3 of the whole model, which clubSandwich vouches for: at the modes and in the predictor's units errors differ
    by a tenth and in no direction; without a correction they would be a quarter smaller."""
    fit = fitted(LAW.but(reaction_slope_sd=0.4)).fit
    p = len(fit.beta)
    shown = influence(fit)
    clustered, plain = (np.diag(fit.robust("prompt_uid", kind=kind).cov_params())[:p] for kind in ("CR3", "CR0"))
    ratio = np.sqrt((shown**2).sum(axis=0) / clustered)
    assert np.median(ratio) == pytest.approx(1, abs=0.06) and np.abs(ratio - 1).max() < 0.2
    assert np.median(np.sqrt((shown**2).sum(axis=0) / plain)) > 1.15


@pytest.mark.slow
def test_reactions_that_families_share_widen_the_interval(monkeypatch):
    """Against the same fit with prompts taken as clusters no further than their random intercept goes."""
    law = LAW.but(families=6, reaction_sd=0.8)
    found = fitted(law).difference
    monkeypatch.setattr(Influence, "correlation", lambda self, rows: 0.0)
    assert found.se > 1.25 * fitted(law).difference.se


@pytest.mark.slow
def test_zeros_do_not_move_the_slopes():
    """Exact zeros at low rates in both variants: squeezed they would more than double the base slope."""
    found = fitted(LAW.but(zeros=0.3, tasks=3, tied=0.0, prompts=60))
    assert any("are exactly 0 or 1" in note for note in found.notes)
    assert found.base.estimate == pytest.approx(0.3, abs=0.15) and found.difference.pvalue > 0.05
    low, high = found.response["difference"].interval
    assert low < 0.05 and high > -0.05 and 0 < found.response["base"].estimate < found.base.estimate / 3


def test_degrees_of_freedom_are_as_many_as_prompts_that_decide():
    rng = np.random.default_rng(0)
    equal = np.mean([cluster_df(rng.standard_normal(2000)) for _ in range(20)])
    assert equal == pytest.approx(2000, rel=0.05)
    scale = np.append(np.full(2000, 1e-3), np.ones(200))
    few = np.mean([cluster_df(scale * rng.standard_normal(2200)) for _ in range(20)])
    assert few == pytest.approx(200, rel=0.1)
    assert cluster_df(np.array([0.0, 0.0, 5.0, 0.0])) == 3.0 and cluster_df(np.ones(5)) == 4.0
