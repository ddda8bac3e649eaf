"""Pooling across prompts against hand calculation, and the three-level identity."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from canopy_stats.metrics import pool, three_level, tree_metrics
from canopy_stats.schema import UserError

A = {"CE": 10.0, "mean_length": 5.0, "mean_rate": 1.0, "cov_NR": 5.0, "rho_pearson": 0.5, "rho_spearman": 0.4,
     "rho_kendall": 0.3}
B = {"CE": 20.0, "mean_length": 10.0, "mean_rate": 2.0, "cov_NR": 0.0, "rho_pearson": -0.5, "rho_spearman": 1.0,
     "rho_kendall": -0.1}
FLAT = {"CE": 3.0, "mean_length": 3.0, "mean_rate": 1.0, "cov_NR": 0.0, "rho_pearson": np.nan, "rho_spearman": np.nan,
        "rho_kendall": np.nan}


def test_by_hand():
    out = pool([A, B, FLAT], [10, 23, 7])
    assert out["CE"] == pytest.approx(11.0)
    assert out["mean_length"] == pytest.approx(6.0)
    assert out["mean_rate"] == pytest.approx(4 / 3)
    assert out["cov_NR"] == pytest.approx(5 / 3)  # zero is a value
    assert out["cov_NR_paper"] == pytest.approx((10 / 9 * 5.0) * 9 / (9 + 22 + 6))
    assert out["BF"] == pytest.approx(np.exp(4 / 3))
    assert out["GenPPL"] == pytest.approx(np.exp(11 / 6))
    assert out["rho_pearson"] == pytest.approx(np.tanh((7 * np.arctanh(0.5) - 20 * np.arctanh(0.5)) / 27))
    assert out["rho_spearman"] == pytest.approx(np.tanh((7 * np.arctanh(0.4) + 20 * np.arctanh(0.999999)) / 27))
    assert out["rho_kendall"] == pytest.approx((45 * 0.3 - 253 * 0.1) / 298)
    assert [out[f"{n}_left_out"] for n in ("rho_pearson", "rho_spearman", "rho_kendall")] == [1, 1, 1]


def test_prompts_without_fisher_weight_are_counted():
    out = pool([A, B], [3, 3])
    assert np.isnan(out["rho_pearson"]) and out["rho_pearson_left_out"] == 2
    assert out["rho_kendall"] == pytest.approx(0.1) and out["rho_kendall_left_out"] == 0


def test_panel_names_and_data_frames_are_understood():
    panel = pd.DataFrame([A, B]).rename(columns={"mean_length": "N_bar", "mean_rate": "R_bar"})
    assert pool(panel, [10, 23]) == pool([A, B], [10, 23])


prompts = st.lists(st.tuples(st.integers(2, 20), st.integers(0, 9999)), min_size=1, max_size=8)


def simulated(sizes):
    out = []
    for m, seed in sizes:
        rng = np.random.default_rng(seed)
        length = rng.integers(1, 300, m)
        out.append(tree_metrics(length, length * rng.uniform(0, 5, m)))
    return out


@given(prompts)
def test_three_levels_add_up(sizes):
    out = three_level(simulated(sizes))
    assert out["CE"] == pytest.approx(out["product"] + out["cov_within"] + out["cov_between"], rel=1e-11, abs=1e-9)


@given(prompts)
def test_a_single_prompt_pools_to_itself(sizes):
    one = simulated(sizes[:1])
    out = pool(one, [sizes[0][0]])
    for name in ("CE", "mean_length", "mean_rate", "cov_NR", "BF", "GenPPL"):
        assert out[name] == pytest.approx(one[0][name], rel=1e-12)
    assert three_level(one)["cov_between"] == 0


@pytest.mark.slow
@given(prompts)
def test_order_of_prompts_does_not_matter(sizes):
    forward, backward = simulated(sizes), simulated(sizes)[::-1]
    counts = [m for m, _ in sizes]
    assert pool(forward, counts) == pytest.approx(pool(backward, counts[::-1]), nan_ok=True, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("metrics, counts, message", [
    ([], [], "no prompt was given"),
    ([{"CE": 1.0}], [5], "missing: mean_length"),
    ([A, B], [5], "one number of rollouts, at least 1, for each prompt"),
    ([A, B], [5, 0], "at least 1"),
    ([A, {**B, "CE": np.nan}], [5, 5], r"1 prompt\(s\) have NaN in CE, .*first in row 1"),
])
def test_bad_input_is_named(metrics, counts, message):
    with pytest.raises(UserError, match=message):
        pool(metrics, counts)
