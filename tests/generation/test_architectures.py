"""Every architecture that was tried: rollouts against plain transformers, batches against single rows."""

import architectures
import numpy as np
import pytest
import tiny
import torch

from canopy_stats.generation.own_cache import OwnCacheDecoder
from canopy_stats.generation.plain import plain_logits, score
from canopy_stats.generation.plain_law import law_terms
from canopy_stats.generation.torch_engine import load_engine
from canopy_stats.schema import ModelSource, SamplingPolicy

ENTROPY, LOGPROB = 2e-5, 6e-5
POLICY = SamplingPolicy(max_new_tokens=32)
FEW = ("gpt_neo", "mamba2", "rwkv", "deepseek_v32", "granitemoehybrid")
pytestmark = pytest.mark.filterwarnings("ignore:.* is decoded")


def assert_exact(net) -> object:
    """Terms against transformers, and the same tokens alone and in a batch; the engine."""
    engine = load_engine(ModelSource(net), variant="base")
    asked = tiny.prompts(engine, (3, 14))
    drawn = tiny.draw(engine, asked, tiny.pairs(2, 4), POLICY, 3)
    alone = tiny.draw(engine, asked, tiny.pairs(2, 2), POLICY, 1)
    assert max(len(r.token_ids) for r in drawn.values()) > 20
    for pair, rollout in drawn.items():
        logits = plain_logits(net, asked[pair[0]].token_ids, rollout.token_ids, one_shot=engine.decoder.one_shot)
        want = law_terms(logits.float().numpy(), rollout.token_ids, engine.end_ids, POLICY)
        np.testing.assert_allclose(rollout.steps["entropy"], want.steps["entropy"], atol=ENTROPY)
        np.testing.assert_allclose(rollout.steps["logprob"], want.steps["logprob"], atol=LOGPROB)
        if pair in alone:
            assert alone[pair].token_ids.tolist() == rollout.token_ids.tolist()
    assert engine.suggest_batch_size(asked, POLICY) >= 1
    return engine


@pytest.mark.slow
@pytest.mark.parametrize("name", FEW)
def test_a_few_kinds(name):
    assert_exact(architectures.build(name, **architectures.ARCHITECTURES[name]))


@pytest.mark.architectures
@pytest.mark.parametrize("name", sorted(set(architectures.ARCHITECTURES) - set(FEW)))
def test_all_architectures(name):
    assert_exact(architectures.build(name, **architectures.ARCHITECTURES[name]))


@pytest.mark.slow
@pytest.mark.parametrize("name", list(architectures.LENGTH_DEPENDENT))
def test_frequencies_that_change_at_a_length(name):
    """Rollouts cross the switch at 16 tokens; the law is that of generate, and one forward pass has another."""
    engine = assert_exact(architectures.build(name, **architectures.LENGTH_DEPENDENT[name]))
    assert engine.decoder.cache == OwnCacheDecoder.cache and not engine.decoder.one_shot
    prompt = tiny.prompts(engine, (10,))[0]
    rollout = tiny.draw(engine, [prompt], [(0, 0)], SamplingPolicy(max_new_tokens=20), 1)[0, 0]
    plain = law_terms(plain_logits(engine.model, prompt.token_ids, rollout.token_ids).numpy(), rollout.token_ids,
                      engine.end_ids, POLICY)
    assert np.abs(plain.steps["entropy"] - rollout.steps["entropy"]).max() > 0.01
    again = score(engine.model, prompt.token_ids, rollout.token_ids, engine.endings(POLICY), POLICY, one_shot=False)
    np.testing.assert_allclose(again[:, 0], rollout.steps["entropy"], atol=ENTROPY)


@pytest.mark.slow
def test_slots_are_refused_in_16_bits_as_in_float32():
    """The trial runs in float32 whatever the model's type, and leaves the weights' bits as they were."""
    net = architectures.build("llama", **architectures.LENGTH_DEPENDENT["llama"]).bfloat16()
    before = {name: p.clone() for name, p in net.state_dict().items()}
    engine = load_engine(ModelSource(net), variant="base")
    assert engine.decoder.cache == OwnCacheDecoder.cache and engine.decoder.dtype == torch.bfloat16
    assert all(torch.equal(before[name], p) and before[name].dtype == p.dtype for name, p in net.state_dict().items())


@pytest.mark.slow
def test_one_row_at_a_time_is_said():
    with pytest.warns(UserWarning, match="RwkvForCausalLM is decoded one rollout at a time"):
        assert load_engine(ModelSource(architectures.build("rwkv")), variant="base").decoder.most_rows == 1
