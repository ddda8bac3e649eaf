"""Keyed randomness: a function of the key, uniform, and different for keys that differ anywhere."""

import dataclasses

import numpy as np
import pytest
import torch
from scipy import stats

from canopy_stats.generation.randomness import gumbels, rollout_key, uniforms
from canopy_stats.schema import RunKey

RUN = RunKey(seed=1, family="a", variant="base")
PINNED_KEY = (2068601684889218856, -7530697994141060985)
PINNED_UNIFORMS = [0.11755650413107588, 0.43223765791815894]


def numbers(run=RUN, prompt="p", rollout=0, step=0, n=4):
    key = torch.tensor([rollout_key(run, prompt, rollout)])
    return uniforms(key, torch.tensor([step]), torch.arange(n))[0].numpy()


def reference(key: tuple[int, int], step: int, counter: int) -> float:
    """The same formula in unbounded integers."""
    word, golden = (1 << 64) - 1, 0x9E3779B97F4A7C15

    def mix(x):
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & word
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB & word
        return x ^ (x >> 31)

    stream = mix((key[0] + (step + 1) * golden) & word)
    mixed = mix(mix((stream + (counter + 1) * golden) & word) ^ (key[1] & word))
    return ((mixed >> 12) + 0.5) * 2.0**-52


def test_follows_the_formula():
    key = rollout_key(RUN, "p", 3)
    got = uniforms(torch.tensor([key]), torch.tensor([17]), torch.arange(50))[0]
    assert got.tolist() == [reference(key, 17, c) for c in range(50)]


def test_is_stable_across_releases():
    """Stored runs are redrawn from their keys: these numbers must never change."""
    assert rollout_key(RUN, "p", 0) == PINNED_KEY
    np.testing.assert_array_equal(numbers(n=2), PINNED_UNIFORMS)


@pytest.mark.parametrize("change", [
    {"run": dataclasses.replace(RUN, seed=2)}, {"run": dataclasses.replace(RUN, family="b")},
    {"run": dataclasses.replace(RUN, variant="instruct")}, {"run": RunKey(1, "ab", "ase")}, {"prompt": "q"},
    {"rollout": 1}, {"step": 1}], ids=str)
def test_every_part_of_the_key_matters(change):
    assert not np.intersect1d(numbers(n=64), numbers(**change, n=64)).size


def test_a_row_does_not_depend_on_its_neighbours():
    keys = torch.tensor([rollout_key(RUN, "p", r) for r in range(5)])
    together = uniforms(keys, torch.arange(5), torch.arange(9))
    alone = torch.cat([uniforms(keys[i : i + 1], torch.tensor([i]), torch.arange(9)) for i in range(5)])
    assert torch.equal(together, alone)


@pytest.mark.parametrize("axis", ["counters", "steps", "rollouts"])
def test_uniform_along_every_axis(axis):
    n = 20_000
    if axis == "rollouts":
        keys = torch.tensor([rollout_key(RUN, "p", r) for r in range(n)])
        u = uniforms(keys, torch.zeros(n, dtype=torch.long), torch.arange(1))[:, 0].numpy()
    elif axis == "steps":
        key = torch.tensor([rollout_key(RUN, "p", 0)]).expand(n, 2)
        u = uniforms(key, torch.arange(n), torch.arange(1))[:, 0].numpy()
    else:
        u = numbers(n=n)
    assert u.min() > 0 and u.max() < 1
    assert stats.kstest(u, "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(u[:-1], u[1:])[0, 1]) < 4 / n**0.5


def test_gumbels_have_the_gumbel_distribution():
    g = gumbels(torch.tensor([rollout_key(RUN, "p", 1)]), torch.tensor([0]), torch.arange(20_000))[0].numpy()
    assert stats.kstest(g, "gumbel_r").pvalue > 1e-3
