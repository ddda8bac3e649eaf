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


@pytest.mark.parametrize("values", [
    {"temperature": 0}, {"temperature": -1}, {"temperature": float("inf")}, {"temperature": float("nan")},
    {"top_k": 0}, {"top_k": 2.5}, {"top_k": True}, {"top_p": 0}, {"top_p": 1.5}, {"min_p": -0.1}, {"min_p": 1.1},
    {"max_new_tokens": 0}, {"max_new_tokens": 1.5}], ids=str)
def test_values_out_of_range_are_refused_by_name(values):
    with pytest.raises(UserError, match=f"^{next(iter(values))} is .*; it must be "):
        SamplingPolicy(**values)
