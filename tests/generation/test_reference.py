"""The reference that stored runs are checked against: bits of plain transformers, and what 16 bits cost."""

import sys
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from transformers import AutoModelForCausalLM

from canopy_stats.generation.reference import dtype_drift, fits_in_memory, load_reference
from canopy_stats.schema import ModelSource

sys.path.insert(0, str(Path(__file__).parents[1]))
from tiny_models import save_tiny_llama

IDS = torch.arange(1, 26)[None]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return save_tiny_llama(tmp_path_factory.mktemp("model") / "tiny")


@pytest.mark.slow
@torch.no_grad()
def test_it_is_what_transformers_loads(checkpoint):
    for dtype in ("float32", "bfloat16"):
        own = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=getattr(torch, dtype))
        assert torch.equal(load_reference(ModelSource(checkpoint), dtype=dtype)(IDS).logits, own(IDS).logits)


@pytest.mark.slow
@torch.no_grad()
def test_an_adapter_is_merged_by_peft_alone(checkpoint, tmp_path):
    from peft import LoraConfig, PeftModel, get_peft_model

    base = AutoModelForCausalLM.from_pretrained(checkpoint)
    get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)).save_pretrained(tmp_path)
    own = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(checkpoint), tmp_path)
    found = load_reference(ModelSource(checkpoint, adapter=tmp_path), dtype="float32")
    torch.testing.assert_close(found(IDS).logits, own(IDS).logits, atol=1e-4, rtol=0)


def test_a_model_in_memory_is_its_own_reference():
    net = tiny.model("llama")
    assert load_reference(ModelSource(net), dtype="float32") is net
    assert load_reference(ModelSource(net), dtype="bfloat16").dtype == torch.bfloat16 and net.dtype == torch.float32


@pytest.mark.slow
def test_drift_is_that_of_the_two_laws():
    net = tiny.model("llama")
    short = load_reference(ModelSource(net), dtype="bfloat16")
    texts = [([10, 11, 12], np.array([20, 30, 40])), ([13], [50])]
    drift = dtype_drift(short, net, texts)
    with torch.no_grad():
        first, second = torch.tensor([[10, 11, 12, 20, 30]]), torch.tensor([[13]])
        low, high = (torch.log_softmax(torch.cat([m(first).logits[0, 2:], m(second).logits[0]]).double(), -1)
                     for m in (short, net))
    drawn = torch.tensor([20, 30, 40, 50])[:, None]
    assert drift.steps == 4
    divergence = torch.nn.functional.kl_div(low, high, log_target=True, reduction="sum") / 4
    assert drift.divergence == pytest.approx(divergence.item())
    assert drift.logprob == pytest.approx((low - high).gather(1, drawn).abs().max().item())
    entropy = [torch.distributions.Categorical(logits=law).entropy() for law in (low, high)]
    assert drift.entropy == pytest.approx((entropy[0] - entropy[1]).abs().max().item(), rel=1e-6)
    nothing = dtype_drift(net, net, texts)
    assert (nothing.divergence, nothing.entropy, nothing.logprob) == (0, 0, 0)


@pytest.mark.parametrize(("free", "fits"), [(10, False), (1 << 40, True)])
def test_a_second_model_must_fit_what_is_free(monkeypatch, free, fits):
    monkeypatch.setattr("os.sysconf", lambda name: 1 if name == "SC_PAGE_SIZE" else free)
    assert fits_in_memory(tiny.model("llama")) is fits
