"""What is no seed is refused by name, by every function that takes one; a seed gives numpy's own streams."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import canopy_stats as cs
from canopy_stats.schema import UserError
from canopy_stats.seeds import generator, seed_sequence
from canopy_stats.slope.simulate import simulate_panel

NO_SEEDS = [-1, 1.5, True, 2**63, "3", None]


@pytest.mark.parametrize("seed", NO_SEEDS, ids=str)
def test_what_is_no_seed(seed):
    with pytest.raises(UserError, match="^seed is .*; give a whole number from 0 to"):
        seed_sequence(seed)


def test_seeds_are_numpys():
    assert generator(np.int32(7)).random() == np.random.default_rng(7).random()
    assert generator(7, 2).random() == np.random.default_rng([7, 2]).random()
    assert generator(2**63 - 1).random() == np.random.default_rng(2**63 - 1).random()


@pytest.fixture(scope="module")
def fit():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"g": [f"g{i // 6}" for i in range(36)], "x": rng.normal(size=36)})
    frame["y"] = frame["x"] + rng.normal(size=36) + frame["g"].str[1:].astype(float)
    return cs.lmm("y ~ x + (1|g)", frame)


@pytest.mark.parametrize("ask", [
    lambda fit, panel: cs.bootstrap(fit, 5, seed=-1),
    lambda fit, panel: cs.quantile_residuals(fit, seed=-1),
    lambda fit, panel: cs.power(fit, effect="x", seed=-1, n=10),
    lambda fit, panel: cs.slope_rivals(panel, seed=-1),
    lambda fit, panel: cs.slope_power(panel, effect=0.1, prompts=[25], rollouts=[5], seed=-1),
    lambda fit, panel: cs.paired_bootstrap(panel, seed=-1, replicates=200),
    lambda fit, panel: simulate_panel(cs.Scenario(), -1),
], ids=["bootstrap", "residuals", "power", "rivals", "slope_power", "paired", "simulate"])
def test_every_function_that_takes_one(fit, ask):
    with pytest.raises(UserError, match="seed is -1"):
        ask(fit, cs.load_demo_panel())


def test_before_anything_is_drawn(tmp_path):
    with pytest.raises(UserError, match="seed is -1"):
        cs.generate("no-such-model", ["a"], tmp_path / "run", family="f", variant="base", task="t", seed=-1)
    assert not (tmp_path / "run").exists()
