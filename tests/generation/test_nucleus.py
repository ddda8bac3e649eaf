"""The largest of a row and where top-p cuts, each found in two ways."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from canopy_stats.generation.largest import kth_largest, select
from canopy_stats.generation.nucleus import by_halving, by_looking
from canopy_stats.generation.policy import FLOOR, scaled

ROWS = st.tuples(st.integers(0, 2**31), st.integers(1, 3), st.integers(2, 9000), st.sampled_from([0.0, 0.5, 4.0, 60.0]),
                 st.sampled_from([None, 1, 0]))


def table(seed, rows, columns, spread, decimals) -> torch.Tensor:
    """Random logits as z; few decimals make ties."""
    x = np.random.default_rng(seed).normal(0, spread, (rows, columns))
    x = torch.tensor(x if decimals is None else x.round(decimals), dtype=torch.float32)
    z = torch.empty_like(x)
    scaled(x, 1.0, out=z)
    return z


@settings(max_examples=60, deadline=None)
@given(ROWS, st.floats(0, 1))
def test_the_kth_largest_is_that_of_topk(given, share):
    z = table(*given)
    k = max(1, int(share**3 * z.shape[1]))
    assert kth_largest(z, k, torch.empty_like(z)).tolist() == z.topk(k, dim=-1).values[:, -1].tolist()


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_rows_are_shared_out_among_threads(threads, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    z = table(0, 4, 500, 3.0, None)
    rows = z.clone()
    select(rows.numpy(), 30)
    assert rows[:, -30:].sort().values.tolist() == z.topk(30).values.flip(1).tolist()
    assert rows.sort().values.tolist() == z.sort().values.tolist()


@settings(max_examples=60, deadline=None)
@given(ROWS, st.sampled_from([1e-6, 0.3, 0.5, 0.9, 0.95, 0.999, 1 - 1e-9]), st.sampled_from([FLOOR, -3.0]))
def test_both_ways_cut_at_one_number(given, top_p, least):
    """Also where an earlier filter has removed the less likely tokens."""
    z = table(*given)
    weights = z.exp() * (z >= least)
    wanted = top_p * weights.sum(dim=-1, dtype=torch.float64)
    looking = by_looking(z, torch.full_like(z[:, 0], least), wanted, FLOOR, torch.empty_like(z))
    halving = by_halving(z, weights, wanted, FLOOR, torch.empty_like(z))
    for row, (a, b) in enumerate(zip(looking.tolist(), halving.tolist(), strict=True)):
        if a != b:  # then both hold the share, up to the order in which masses are summed
            held = [weights[row, z[row] >= cut].sum(dtype=torch.float64).item() for cut in (a, b)]
            np.testing.assert_allclose(held, wanted[row].item(), rtol=1e-12)


@settings(max_examples=40, deadline=None)
@given(ROWS, st.sampled_from([0.5, 0.95, 0.999]))
def test_looking_finds_what_sorting_the_whole_row_finds(given, top_p):
    """To the last bit: masses are exp of the same numbers wherever these lie, and are summed in one order."""
    z = table(*given)
    weights = z.exp()
    wanted = top_p * weights.sum(dim=-1, dtype=torch.float64)
    ordered = z.sort(dim=-1, descending=True)
    mass = weights.gather(1, ordered.indices).double().cumsum(dim=-1)
    first = (mass < wanted[:, None]).sum(dim=-1, keepdim=True).clamp(max=z.shape[1] - 1)
    want = ordered.values.gather(1, first)[:, 0].where(mass[:, -1] >= wanted, torch.tensor(FLOOR))
    found = by_looking(z, torch.full_like(z[:, 0], FLOOR), wanted, FLOOR, torch.empty_like(z))
    assert found.tolist() == want.tolist()


def test_a_share_that_rounding_never_reaches_keeps_everything():
    z = torch.tensor([[0.0, -1.0, -5.0, FLOOR]])
    wanted = z.exp().sum(dim=-1, dtype=torch.float64) * (1 + 1e-9)
    assert by_looking(z, torch.tensor([FLOOR]), wanted, FLOOR, torch.empty_like(z)).tolist() == [FLOOR]
    assert by_halving(z, z.exp(), wanted, FLOOR, torch.empty_like(z)).tolist() == [FLOOR]


def test_ties_are_cut_together():
    z = torch.tensor([[-1.0, 0.0, -1.0, -2.0, -1.0]])
    for top_p, cut in [(0.4, 0.0), (0.5, -1.0), (0.8, -1.0), (0.99, -2.0)]:
        wanted = top_p * z.exp().sum(dim=-1, dtype=torch.float64)
        assert by_halving(z, z.exp(), wanted, FLOOR, torch.empty_like(z)).tolist() == [cut]
