"""D and the Vendi score: closed forms, sklearn's kernel, invariants; the jackknife against brute force."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics.pairwise import cosine_similarity

from canopy_stats.metrics import diversity_metrics
from canopy_stats.metrics.diversity import dispersion, dispersion_without_each, unit_rows
from canopy_stats.metrics.jackknife import covariance, uncertainty
from canopy_stats.schema import UserError


def unit(m, d, seed=0, dtype=np.float64):
    rows = np.random.default_rng(seed).standard_normal((m, d)) + 0.5
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(dtype)


shapes = st.tuples(st.integers(2, 30), st.integers(1, 40), st.integers(0, 10_000))


@pytest.mark.parametrize("m, d", [(8, 30), (30, 8)])
def test_against_the_pairwise_definition(m, d):
    e = unit(m, d)
    kernel = cosine_similarity(e)
    values = np.linalg.eigvalsh(kernel / m)
    values = values[values > 1e-12]
    out = diversity_metrics(e)
    assert out["D"] == pytest.approx(1 - kernel[np.triu_indices(m, 1)].mean(), abs=1e-12)
    assert out["log_VS"] == pytest.approx(-(values * np.log(values)).sum(), abs=1e-9)
    assert out["VS"] == pytest.approx(np.exp(out["log_VS"]))


def test_closed_forms():
    assert diversity_metrics(np.eye(5)) == pytest.approx({"D": 1.0, "log_VS": np.log(5), "VS": 5.0})
    opposite = diversity_metrics([[1.0, 0.0], [-1.0, 0.0]])
    assert opposite == pytest.approx({"D": 2.0, "log_VS": 0.0, "VS": 1.0})  # D above 1 is reported as it is
    angle = np.pi / 3
    two = diversity_metrics([[1.0, 0.0], [np.cos(angle), np.sin(angle)]])
    share = np.array([0.75, 0.25])  # eigenvalues (1 ± cos)/2
    assert two["D"] == pytest.approx(0.5)
    assert two["log_VS"] == pytest.approx(-(share * np.log(share)).sum())


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_equal_texts_have_no_diversity_and_no_negative_one(dtype):
    out = diversity_metrics(np.tile(unit(1, 384, dtype=dtype), (100, 1)))
    assert 0 <= out["D"] < 1e-14
    assert 0 <= out["log_VS"] < 1e-11


@given(shapes)
def test_rotation_and_order_change_nothing(shape):
    m, d, seed = shape
    e = unit(m, d, seed)
    rng = np.random.default_rng(seed)
    rotation = np.linalg.qr(rng.standard_normal((d, d)))[0]
    assert diversity_metrics(e[rng.permutation(m)] @ rotation) == pytest.approx(diversity_metrics(e), abs=1e-9)


@pytest.mark.slow
@given(shapes)
def test_duplicating_every_text_keeps_vendi_and_shrinks_d_as_computed(shape):
    m, d, seed = shape
    e = unit(m, d, seed)
    once, twice = diversity_metrics(e), diversity_metrics(np.vstack([e, e]))
    assert twice["log_VS"] == pytest.approx(once["log_VS"], abs=1e-9)
    # Of the 2m(2m − 1)/2 pairs, m are of a text with its copy (cosine 1), the others come four for one.
    assert twice["D"] == pytest.approx(once["D"] * 4 * (m * (m - 1) / 2) / (m * (2 * m - 1)), abs=1e-9)


@given(shapes)
def test_bounds(shape):
    m = shape[0]
    out = diversity_metrics(unit(*shape))
    assert 0 <= out["D"] <= m / (m - 1) + 1e-9
    assert -1e-12 <= out["log_VS"] <= np.log(m) + 1e-9


@pytest.mark.parametrize("embeddings, message", [
    (np.ones((1, 1)), "at least two rollouts"),
    (np.ones(3), r"embeddings have shape \(3,\)"),
    (np.array([[1.0, 0.0], [np.nan, 1.0]]), "NaN or infinity in row 1"),
    (2 * np.eye(3), "has length 2, not 1: divide each row"),
    (np.array([[1.0, 0.0], [0.0, 0.0]]), "row 1 of the embeddings has length 0"),
])
def test_bad_input_is_named(embeddings, message):
    with pytest.raises(UserError, match=message):
        diversity_metrics(embeddings)


def test_leave_one_out_is_the_closed_form_of_brute_force():
    e = unit_rows(unit(12, 7))
    brute = [dispersion(np.delete(e, i, axis=0)) for i in range(12)]
    np.testing.assert_allclose(dispersion_without_each(e), brute, atol=1e-13)


def test_jackknife_against_brute_force():
    rng = np.random.default_rng(5)
    e, n, r = unit_rows(unit(15, 6)), rng.integers(1, 90, 15).astype(float), rng.uniform(0, 3, 15)
    deleted = np.array([[dispersion(np.delete(e, i, axis=0)), np.delete(r, i).mean(), np.delete(n, i).mean()]
                        for i in range(15)])
    c = np.cov(deleted.T, bias=True) * 14
    out = uncertainty(n, r, e)
    expected = {"se_D": c[0, 0]**0.5, "se_R": c[1, 1]**0.5, "se_N": c[2, 2]**0.5, "cov_DR": c[0, 1],
                "cov_DN": c[0, 2], "cov_RN": c[1, 2]}
    assert out == pytest.approx(expected, rel=1e-10)


def test_jackknife_of_means_is_the_textbook_error():
    n, r = np.array([3.0, 8, 1, 4]), np.array([0.5, 0.2, 0.9, 0.1])
    out = uncertainty(n, r)
    assert out["se_N"] == pytest.approx(n.std(ddof=1) / 2)
    assert out["cov_RN"] == pytest.approx(np.cov(n, r)[0, 1] / 4)
    assert np.isnan([out["se_D"], out["cov_DR"], out["cov_DN"]]).all()


def test_jackknife_error_of_d_covers():
    """The jackknife error of D is near the spread of D over repeated samples."""
    rng = np.random.default_rng(0)
    centre = np.array([2.0, 0, 0, 0])
    values, errors = [], []
    for _ in range(300):
        e = rng.standard_normal((20, 4)) + centre
        e = unit_rows(e / np.linalg.norm(e, axis=1, keepdims=True))
        values.append(dispersion(e))
        errors.append(uncertainty(np.ones(20), np.ones(20), e)["se_D"])
    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(np.std(values), rel=0.2)


def test_covariance_of_one_statistic_is_a_variance():
    assert covariance(np.array([[1.0], [2.0], [3.0]])) == pytest.approx(2 / 3 * 2)
