"""The law against its definition: temperature, then top-k, then top-p, then min-p, ties at a boundary kept."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from canopy_stats.generation.policy import apply_filters, scaled
from canopy_stats.schema import SamplingPolicy, UserError

P = np.array([0.4, 0.2, 0.2, 0.1, 0.1, 0.0])


def law(probabilities: np.ndarray, **filters) -> np.ndarray:
    """Probabilities after the filters, through the package."""
    policy = SamplingPolicy(**filters)
    logits = torch.tensor(probabilities, dtype=torch.float64).log().float()[None]
    z = torch.empty_like(logits)
    scaled(logits, policy.temperature, out=z)
    weights = z.exp()
    apply_filters(z, weights, policy, torch.empty_like(z))
    law = weights[0].double().numpy()
    return law / law.sum()


def by_definition(p: np.ndarray, temperature=1.0, top_k=None, top_p=None, min_p=None) -> np.ndarray:
    """The same, one filter after the other on renormalised probabilities."""
    p = p ** (1 / temperature) / (p ** (1 / temperature)).sum()
    if top_k is not None and top_k < len(p):
        p = np.where(p >= np.sort(p)[-top_k], p, 0)
        p = p / p.sum()
    if top_p is not None:
        ordered = np.sort(p)[::-1]
        reached = np.flatnonzero(np.cumsum(ordered) >= top_p - 1e-12)
        p = np.where(p >= (ordered[reached[0]] if len(reached) else 0), p, 0)
        p = p / p.sum()
    if min_p is not None:
        p = np.where(p >= min_p * p.max(), p, 0)
    return p / p.sum()


@pytest.mark.parametrize(("filters", "support"), [
    ({}, 5),
    ({"top_k": 1}, 1),
    ({"top_k": 2}, 3),  # the third ties with the second
    ({"top_k": 3}, 3),
    ({"top_k": 6}, 5),
    ({"top_k": 99}, 5),
    ({"top_p": 0.3}, 1),
    ({"top_p": 0.5}, 3),  # reached by the second, which the third ties
    ({"top_p": 0.85}, 5),
    ({"top_p": 1.0}, 5),
    ({"min_p": 0.6}, 1),
    ({"min_p": 0.3}, 3),
    ({"min_p": 0.0}, 5),
    ({"min_p": 1.0}, 1),
    ({"top_k": 3, "top_p": 0.45}, 1),  # of the renormalised .5, .25, .25
    ({"top_k": 3, "top_p": 0.55}, 3),
    ({"top_p": 0.85, "min_p": 0.4}, 3),
    ({"temperature": 0.5, "min_p": 0.3}, 1),
], ids=str)
def test_cases(filters, support):
    got = law(P, **filters)
    assert (got > 0).sum() == support
    np.testing.assert_allclose(got, by_definition(P, **filters), atol=1e-6)


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 10**6), size=st.integers(2, 700), spread=st.floats(0.1, 6), temperature=st.floats(0.3, 3),
       top_k=st.none() | st.integers(1, 800), top_p=st.none() | st.floats(0.05, 0.999),
       min_p=st.none() | st.floats(0.001, 0.9))
def test_any_filters(seed, size, spread, temperature, top_k, top_p, min_p):
    p = np.exp(np.random.default_rng(seed).normal(0, spread, size)).astype(np.float32).astype(float)
    filters = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
    ours, reference = law(p / p.sum(), **filters), by_definition(p / p.sum(), **filters)
    # Float32 may put a token that lies within rounding of a boundary on its other side.
    changed = ((ours > 0) != (reference > 0)) & (np.maximum(ours, reference) > 1e-30)
    assert changed.sum() <= 1
    if not changed.any():
        np.testing.assert_allclose(ours, reference, atol=1e-5)


def test_a_filter_never_removes_the_likeliest_token():
    for seed in range(20):
        p = np.random.default_rng(seed).dirichlet(np.full(50, 0.2))
        assert law(p, top_k=1, top_p=1e-6, min_p=1.0).argmax() == p.argmax()


def test_rows_that_need_more_looks_than_others_are_each_filtered_as_alone():
    """700 tokens: one row reaches top-p within the first 64, one within 512, two only in the whole vocabulary."""
    rng = np.random.default_rng(3)
    rows = np.stack([rng.dirichlet(np.full(700, a)) for a in (0.01, 0.5, 50.0, 0.01, 200.0)]) + 1e-12
    rows /= rows.sum(axis=1, keepdims=True)
    z = torch.empty(5, 700)
    scaled(torch.tensor(rows).log().float(), 1.0, out=z)
    weights = z.exp()
    apply_filters(z, weights, SamplingPolicy(top_p=0.9), torch.empty_like(z))
    expected = [by_definition(row, top_p=0.9) for row in rows]
    assert [np.sum(row > 0) for row in expected] == [(w > 0).sum().item() for w in weights]
    assert np.sum(expected[0] > 0) < 64 < np.sum(expected[1] > 0) < 512 < np.sum(expected[2] > 0)
    np.testing.assert_allclose(weights / weights.sum(dim=1, keepdim=True), expected, atol=1e-6)


def test_top_p_of_one_keeps_what_rounding_does_not_see():
    p = np.array([0.5, 0.5 - 1e-25, 1e-25, 1e-30])
    assert (law(p, top_p=1.0) > 0).sum() == 4 and (law(p, top_p=1.0, top_k=3) > 0).sum() == 3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_logits_of_any_type_are_scaled_in_single_precision(dtype):
    logits = torch.tensor([[30.25, -7.5, 0.0078125, -torch.inf, -3000.0]]).to(dtype)
    z = torch.empty(1, 5)
    top = scaled(logits, 0.7, out=z)
    wide = logits.double().numpy()
    np.testing.assert_allclose(z, np.maximum((wide - wide.max()) / 0.7, -200), rtol=1e-6)
    assert top.item() == 30.25 and z.dtype == torch.float32


@pytest.mark.parametrize("values", [
    {"temperature": 0}, {"temperature": -1}, {"temperature": float("inf")}, {"temperature": float("nan")},
    {"top_k": 0}, {"top_k": 2.5}, {"top_k": True}, {"top_p": 0}, {"top_p": 1.5}, {"min_p": -0.1}, {"min_p": 1.1},
    {"max_new_tokens": 0}, {"max_new_tokens": 1.5}], ids=str)
def test_values_out_of_range_are_refused_by_name(values):
    with pytest.raises(UserError, match=f"^{next(iter(values))} is .*; it must be "):
        SamplingPolicy(**values)
