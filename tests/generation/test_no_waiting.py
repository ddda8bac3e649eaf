"""No step makes the host wait: the sampler runs on a device with shapes and no numbers, where asking for one fails."""

import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from torch.overrides import TorchFunctionMode
from transformers import LlamaConfig, LlamaForCausalLM

from canopy_stats.generation import processors, sampler
from canopy_stats.generation.decoding import SlotDecoder
from canopy_stats.generation.ending import Endings
from canopy_stats.generation.fixed_slots import FixedSlotDecoder
from canopy_stats.generation.line import Line, asked_of
from canopy_stats.generation.sampler import Sampler
from canopy_stats.schema import Prompt, SamplingPolicy

NOWHERE = torch.device("meta")
LAWS = [SamplingPolicy(max_new_tokens=9),
        SamplingPolicy(temperature=0.8, top_k=50, top_p=0.9, min_p=0.01, repetition_penalty=1.2, min_new_tokens=3,
                       suppress_tokens=[4], stop_strings=["ab", "b"], max_new_tokens=9)]


class Sent(TorchFunctionMode):
    """Where numbers of the host become tensors, or tensors change their device: file names."""

    def __init__(self):
        super().__init__()
        self.files = Counter()

    def __torch_function__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        moved = function is torch.Tensor.to and out.device != args[0].device
        made = function in (torch.tensor, torch.as_tensor, torch.from_numpy)
        if (moved or made) and out.numel():
            self.files[Path(sys._getframe(1).f_code.co_filename).name] += 1
        return out


class Late:
    """Stands for results on their way; which tokens they hold is made up, some of them ends. Reads no step before the
    next one is launched."""

    launched = read_at = 0

    def __init__(self, sent):
        assert sent.device == NOWHERE
        self.rows = len(sent)
        self.number = Late.launched = Late.launched + 1

    def read(self):
        Late.read_at += Late.launched > self.number
        values = np.zeros((self.rows, 9), dtype=np.float32)
        ids = [7 if (self.number + i) % 4 == 0 else 5 for i in range(self.rows)]
        values[:, 0] = np.array(ids, dtype=np.int32).view(np.float32)
        return values


@pytest.mark.slow
@pytest.mark.parametrize("made", [SlotDecoder, FixedSlotDecoder])
@pytest.mark.parametrize("policy", LAWS, ids=["full", "mixed"])
def test_a_shard_where_no_number_can_be_asked_for(policy, made, monkeypatch):
    monkeypatch.setattr(sampler, "Returning", Late)
    monkeypatch.setattr(Late, "launched", 0)
    monkeypatch.setattr(Late, "read_at", 0)
    processors._ids.cache_clear()
    prompts = [Prompt(str(n), f"hash {n}", [], tuple(range(3, 3 + n))) for n in (4, 7)]
    with NOWHERE:
        net = LlamaForCausalLM(LlamaConfig(**tiny.COMMON)).eval()
    pieces = [b"a", b"b", b"ba", *[b"c"] * (tiny.VOCABULARY - 3)]
    endings = Endings(tiny.ENDS, policy.stop_strings, pieces)
    line = Line(asked_of(0, (prompts, tiny.pairs(2, 6)), tiny.KEY))
    drawing = Sampler(made(net), line, policy, endings, NOWHERE, size=3, columns=16, lag=1)
    with Sent() as sent:
        drawn = list(drawing.run())
    assert len(drawn) == 12 and len({len(r.token_ids) for _, r in drawn}) > 1
    assert 0 < Late.launched - Late.read_at <= 1  # the last one alone has none after it
    assert set(sent.files) == {"transfer.py"}


@pytest.mark.parametrize("ask", [
    lambda x: x[0].item(), lambda x: bool(x.sum() > 1), lambda x: x[x > 0], lambda x: x.nonzero(),
    lambda x: x.tolist(), lambda x: x.cpu(), lambda x: x.numpy(), lambda x: x + torch.ones(3)],
    ids=["item", "bool", "mask", "nonzero", "list", "cpu", "numpy", "added"])
def test_asking_fails_there(ask):
    """So the test above has teeth."""
    with pytest.raises((RuntimeError, NotImplementedError, TypeError, ValueError)):
        ask(torch.ones(3, device=NOWHERE))
