"""Slots of fixed sizes, as they are and through torch.compile, against the slots of growing sizes."""

import numpy as np
import pytest
import tiny
import torch
from torch._dynamo.utils import counters

from canopy_stats.generation import fixed_slots
from canopy_stats.generation.fixed_slots import FixedSlotDecoder
from canopy_stats.generation.torch_options import TorchOptions
from canopy_stats.generation.trial import slots_agree
from canopy_stats.schema import SamplingPolicy, UserError

POLICY = SamplingPolicy(max_new_tokens=24)
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("qwen3-sliding", "gemma3", "gemma2-eager", "gpt2")]


def assert_close(drawn, reference):
    assert set(drawn) == set(reference)
    for pair, rollout in drawn.items():
        assert rollout.token_ids.tolist() == reference[pair].token_ids.tolist()
        np.testing.assert_allclose(rollout.steps["entropy"], reference[pair].steps["entropy"], atol=1e-4)


@pytest.mark.parametrize("name", ["llama", *SLOW])
def test_fixed_slots_are_exact(name, monkeypatch):
    """Rows of other lengths, refilled, moved, and in buffers that an earlier batch has left full."""
    monkeypatch.setattr(fixed_slots, "_COLUMNS", 16)
    engine = tiny.engine(name)
    asked = tiny.prompts(engine, (3, 12, 25))
    reference = tiny.draw(engine, asked, tiny.pairs(3, 5), POLICY, 4)
    fixed = engine.__dict__["decoder"] = FixedSlotDecoder(engine.model)
    assert slots_agree(fixed)
    assert_close(tiny.draw(engine, asked, tiny.pairs(3, 5), POLICY, 4), reference)
    slots = fixed.batch(2, 0)
    assert (slots.slots, slots.room, slots.active) == (4, 64, 0)  # those of before, doubled twice


@pytest.mark.slow
def test_a_compiled_step_draws_the_same_tokens(monkeypatch):
    """Traced whole; once for each number of columns, and not for another batch in the same slots."""
    monkeypatch.setattr(fixed_slots, "_COLUMNS", 32)
    engine = tiny.engine("llama")
    asked = tiny.prompts(engine, (3, 12))
    reference = tiny.draw(engine, asked, tiny.pairs(2, 5), POLICY, 4)
    del engine.__dict__["decoder"]
    engine.options, engine.lag = TorchOptions(compile="eager"), 1
    torch._dynamo.reset()
    counters.clear()
    assert_close(tiny.draw(engine, asked, tiny.pairs(2, 5), POLICY, 4), reference)
    traced = counters["stats"]["unique_graphs"]
    assert traced == 2 and not counters["graph_break"]
    assert_close(tiny.draw(engine, asked, tiny.pairs(2, 5), POLICY, 4), reference)
    assert counters["stats"]["unique_graphs"] == traced
    assert engine.describe()["cache"] == "slots of fixed sizes, compiled (eager)"


def test_what_has_no_slots_cannot_be_compiled():
    engine = tiny.engine("mamba")
    engine.options = TorchOptions(compile="default")
    with pytest.raises(UserError, match="this model is decoded through the model's own .*; leave compile out"):
        engine.describe()
