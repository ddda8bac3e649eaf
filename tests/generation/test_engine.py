"""The engine against plain transformers, its invariances, and what it refuses."""

import numpy as np
import pytest
import tiny
import torch

from canopy_stats.generation.cache import SlotCache
from canopy_stats.generation.decoding import SlotDecoder
from canopy_stats.generation.own_cache import OwnCacheDecoder
from canopy_stats.generation.plain import plain_logits
from canopy_stats.generation.plain_law import law_terms
from canopy_stats.generation.sampler import Sampler
from canopy_stats.generation.torch_engine import TorchEngine, load_engine
from canopy_stats.generation.trial import slots_agree
from canopy_stats.schema import LENGTH, STEP_TERMS, STOP, ModelSource, Prompt, RunKey, SamplingPolicy, UserError

CAP = 40
LAWS = [SamplingPolicy(max_new_tokens=CAP), SamplingPolicy(temperature=0.8, top_k=25, max_new_tokens=CAP),
        SamplingPolicy(top_p=0.9, max_new_tokens=CAP), SamplingPolicy(min_p=0.05, max_new_tokens=CAP),
        SamplingPolicy(temperature=1.2, top_k=100, top_p=0.95, min_p=0.01, max_new_tokens=CAP)]
SLOTTED = [name for name in tiny.BUILDERS if name != "mamba"]


@pytest.fixture(scope="module")
def engines() -> dict[str, TorchEngine]:
    """Engines by name, made on first use."""

    class Made(dict):
        def __missing__(self, name):
            self[name] = tiny.engine(name)
            return self[name]

    return Made()


@pytest.mark.slow
@pytest.mark.parametrize("policy", LAWS, ids=SamplingPolicy.label)
@pytest.mark.parametrize("name", ["llama", "qwen3-sliding", "gemma3"])
def test_terms_are_those_of_plain_transformers(engines, name, policy):
    """Prompts of several lengths, fewer slots than rollouts, windows shorter than the rollouts."""
    engine = engines[name]
    asked = tiny.prompts(engine, (3, 12, 25))
    drawn = tiny.draw(engine, asked, tiny.pairs(3, 6), policy, 4)
    assert len(drawn) == 18 and len({len(r.token_ids) for r in drawn.values()}) > 5
    near = 0
    for (prompt, _), rollout in drawn.items():
        logits = plain_logits(engine.model, asked[prompt].token_ids, rollout.token_ids).numpy()
        want = law_terms(logits, rollout.token_ids, engine.end_ids, policy)
        near += want.near.sum()
        for term in STEP_TERMS:
            np.testing.assert_allclose(rollout.steps[term][~want.near], want.steps[term][~want.near], atol=1e-4,
                                       err_msg=term)
    # Flat laws: a top-p boundary lies within 1e-5 of some cumulated mass in one to three of a hundred steps.
    assert near <= 0.05 * sum(len(r.token_ids) for r in drawn.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", list(tiny.BUILDERS))
def test_every_kind_of_cache(engines, name):
    engine = engines[name]
    assert engine.describe()["cache"] == ("slots" if name in SLOTTED else OwnCacheDecoder.cache)
    asked = tiny.prompts(engine, (2, 9))
    policy = SamplingPolicy(max_new_tokens=20)
    for (prompt, _), rollout in tiny.draw(engine, asked, tiny.pairs(2, 3), policy, 2).items():
        logits = plain_logits(engine.model, asked[prompt].token_ids, rollout.token_ids).numpy()
        want = law_terms(logits, rollout.token_ids, engine.end_ids, policy)
        np.testing.assert_allclose(rollout.steps["logprob"], want.steps["logprob"], atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["qwen3-sliding", "mistral"])
def test_a_wrong_window_would_be_seen(name):
    """The comparison above has teeth: without the window mask, terms differ by far more than its tolerance."""
    engine = tiny.engine(name)
    decoder = SlotDecoder(engine.model)
    decoder.windows = dict.fromkeys(decoder.windows)
    engine.__dict__["decoder"] = decoder
    asked = tiny.prompts(engine, (20,))
    rollout = tiny.draw(engine, asked, [(0, 0)], SamplingPolicy(max_new_tokens=30), 1)[0, 0]
    logits = plain_logits(engine.model, asked[0].token_ids, rollout.token_ids).numpy()
    want = law_terms(logits, rollout.token_ids, engine.end_ids, SamplingPolicy())
    assert np.abs(want.steps["logprob"] - rollout.steps["logprob"]).max() > 0.05


def test_the_trial_rejects_a_model_whose_masks_it_would_get_wrong(engines, monkeypatch):
    decoder = SlotDecoder(engines["llama"].model)
    assert slots_agree(decoder)
    monkeypatch.setattr(SlotCache, "move", lambda *a: None)
    monkeypatch.setattr(SlotCache, "load", lambda self, slot, prompt: self._set_length(slot, prompt.length))
    assert not slots_agree(decoder)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_tokens_do_not_depend_on_order_batch_or_company(engines, name):
    engine = engines[name]
    asked, policy = tiny.prompts(engine, (3, 12, 25)), LAWS[0]
    every = tiny.pairs(3, 5)
    reference = tiny.draw(engine, asked, every, policy, 32)
    shuffled = [every[i] for i in np.random.default_rng(0).permutation(len(every))]
    for order, batch in [(every, 1), (every, 7), (shuffled, 4), (every[::-1], 2), (every[7:9], 3)]:
        again = tiny.draw(engine, asked, order, policy, batch)
        assert set(again) == set(order)
        for pair, rollout in again.items():
            np.testing.assert_array_equal(rollout.token_ids, reference[pair].token_ids)
            np.testing.assert_allclose(rollout.steps["entropy"], reference[pair].steps["entropy"], atol=1e-4)


@pytest.mark.slow
def test_the_same_shard_twice_is_bit_identical(engines):
    asked = tiny.prompts(engines["llama"], (3, 12))
    first, second = (tiny.draw(engines["llama"], asked, tiny.pairs(2, 5), LAWS[1], 3) for _ in range(2))
    assert list(first) == list(second)
    for pair in first:
        for term in STEP_TERMS:
            np.testing.assert_array_equal(first[pair].steps[term], second[pair].steps[term])


@pytest.mark.slow
@pytest.mark.parametrize("change", [{"seed": 6}, {"family": "other"}, {"variant": "instruct"}], ids=str)
def test_another_key_draws_other_rollouts(engines, change):
    asked = tiny.prompts(engines["llama"], (5,))
    key = RunKey(**{"seed": tiny.KEY.seed, "family": tiny.KEY.family, "variant": tiny.KEY.variant, **change})
    ours = tiny.draw(engines["llama"], asked, tiny.pairs(1, 4), LAWS[0], 4)
    theirs = tiny.draw(engines["llama"], asked, tiny.pairs(1, 4), LAWS[0], 4, key)
    assert all(ours[p].token_ids[:5].tolist() != theirs[p].token_ids[:5].tolist() for p in ours)


def test_prompts_do_not_share_a_stream(engines):
    """The same text under two prompt hashes: other tokens."""
    ids = engines["llama"].encode([20, 30])
    asked = [Prompt("a", "hash a", [20, 30], ids), Prompt("b", "hash b", [20, 30], ids)]
    drawn = tiny.draw(engines["llama"], asked, tiny.pairs(2, 4), LAWS[0], 8)
    assert all(drawn[0, r].token_ids[:5].tolist() != drawn[1, r].token_ids[:5].tolist() for r in range(4))


@pytest.mark.slow
def test_every_end_token_ends_a_rollout(engines):
    engine = engines["llama"]
    assert engine.end_ids == tiny.ENDS
    drawn = tiny.draw(engine, tiny.prompts(engine, (3,)), tiny.pairs(1, 80), SamplingPolicy(max_new_tokens=60), 32)
    assert len({r.token_ids[-1] for r in drawn.values() if r.finish_reason == STOP}) > 5
    for rollout in drawn.values():
        assert not np.isin(rollout.token_ids[:-1], engine.end_ids).any()
        assert (rollout.finish_reason == STOP) == (rollout.token_ids[-1] in engine.end_ids)
        assert rollout.finish_reason == STOP or len(rollout.token_ids) == 60


def test_an_end_token_at_the_cap_is_a_stop(engines):
    drawn = tiny.draw(engines["llama"], tiny.prompts(engines["llama"], (3,)), tiny.pairs(1, 200),
                      SamplingPolicy(max_new_tokens=1), 50)
    reasons = {r.token_ids[0] in tiny.ENDS: r.finish_reason for r in drawn.values()}
    assert reasons == {True: STOP, False: LENGTH}


@pytest.mark.slow
def test_the_generation_config_never_changes_the_law(engines):
    asked = tiny.prompts(engines["llama"], (5,))
    plain = tiny.draw(engines["llama"], asked, tiny.pairs(1, 4), LAWS[0], 4)
    opinionated = tiny.engine("llama")
    opinionated.model.generation_config.update(temperature=0.1, top_k=2, top_p=0.5, repetition_penalty=1.5,
                                               do_sample=True, max_new_tokens=3)
    again = tiny.draw(opinionated, asked, tiny.pairs(1, 4), LAWS[0], 4)
    for pair in plain:
        np.testing.assert_array_equal(plain[pair].token_ids, again[pair].token_ids)
        np.testing.assert_array_equal(plain[pair].steps["entropy"], again[pair].steps["entropy"])


@pytest.mark.slow
def test_bfloat16_runs_and_says_so():
    engine = load_engine(ModelSource(tiny.model("llama"), dtype="bfloat16"))
    drawn = tiny.draw(engine, tiny.prompts(engine, (5,)), tiny.pairs(1, 4), LAWS[1], 4)
    assert engine.describe()["dtype"] == "bfloat16" and engine.describe()["cache"] == "slots"
    assert all(np.isfinite(r.steps["logprob"]).all() for r in drawn.values())


@pytest.mark.slow
@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"),
                                   RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")], ids=str)
def test_out_of_memory_halves_the_batch_and_goes_on(engines, monkeypatch, error):
    engine, policy = engines["llama"], LAWS[0]
    asked = tiny.prompts(engine, (3, 12))
    reference = tiny.draw(engine, asked, tiny.pairs(2, 6), policy, 3)
    step = SlotDecoder.step

    def limited(self, slots, tokens):
        if slots.active > 3:
            raise error
        return step(self, slots, tokens)

    monkeypatch.setattr(SlotDecoder, "step", limited)
    drawn = tiny.draw(engine, asked, tiny.pairs(2, 6), policy, 12)
    assert engine.batch_size_used == 3
    assert set(drawn) == set(reference)
    assert all(drawn[p].token_ids.tolist() == reference[p].token_ids.tolist() for p in drawn)


@pytest.mark.slow
def test_out_of_memory_with_one_rollout_says_what_to_do(engines, monkeypatch):
    def never(*args):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(SlotDecoder, "step", never)
    with pytest.raises(UserError, match="batch of one rollout; lower max_new_tokens"):
        tiny.draw(engines["llama"], tiny.prompts(engines["llama"], (3,)), tiny.pairs(1, 4), LAWS[0], 4)


def test_other_errors_pass_through(engines, monkeypatch):
    monkeypatch.setattr(Sampler, "_record", lambda *a: (_ for _ in ()).throw(RuntimeError("something else")))
    with pytest.raises(RuntimeError, match="something else"):
        tiny.draw(engines["llama"], tiny.prompts(engines["llama"], (3,)), tiny.pairs(1, 1), LAWS[0], 1)


@pytest.mark.parametrize(("dtype", "advice"), [("float32", "weights are damaged"), ("float16", "dtype='bfloat16'")])
def test_logits_that_are_not_numbers(dtype, advice):
    engine = load_engine(ModelSource(tiny.model("llama"), dtype=dtype))
    assert engine.decoder  # tried out before the weights go bad
    with torch.no_grad():
        engine.model.lm_head.weight[11] = torch.nan
    with pytest.raises(UserError, match=f"not numbers .* step 0 of prompt '0', in {dtype}; .*{advice}"):
        tiny.draw(engine, tiny.prompts(engine, (3,)), tiny.pairs(1, 2), LAWS[0], 2)


@pytest.mark.parametrize(("length", "advice"), [(230, "lower max_new_tokens to at most 26"),
                                                (256, "shorten the prompt")])
def test_a_prompt_too_long_for_the_context(engines, length, advice):
    asked = tiny.prompts(engines["llama"], (3, length))
    with pytest.raises(UserError, match=f"Prompt '1' has {length} tokens.*context of 256 tokens: {advice}"):
        tiny.draw(engines["llama"], asked, [(1, 0)], LAWS[0], 1)
    assert tiny.draw(engines["llama"], asked, [(0, 0)], LAWS[0], 1)


@pytest.mark.parametrize("ids", [[5, 320], [-1, 5]])
def test_token_ids_outside_the_vocabulary(engines, ids):
    with pytest.raises(UserError, match="ids run from 0 to 319"):
        engines["llama"].encode(ids)


def test_attention_without_masks_is_refused():
    engine = tiny.engine("llama")
    engine.model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(UserError, match="takes no mask per row; load it with attn_implementation='sdpa'"):
        engine.describe()


@pytest.mark.parametrize(("memory", "want"), [(1 << 40, 32), (9 << 17, 4), (0, 1)])
def test_the_automatic_batch_size_fits_the_memory(engines, monkeypatch, memory, want):
    """A row of 256 tokens takes 4 layers x 2 x 2 heads x 8 x 4 bytes a token, 128 KiB, and its logits."""
    footprint = engines["llama"].model.get_memory_footprint()
    monkeypatch.setattr("canopy_stats.generation.torch_engine._total_memory", lambda device: footprint + memory)
    asked = tiny.prompts(engines["llama"], (3, 56))
    assert engines["llama"].suggest_batch_size(asked, SamplingPolicy(max_new_tokens=200)) == want


def test_encoder_decoder_models_are_refused():
    from transformers import T5Config, T5ForConditionalGeneration

    net = T5ForConditionalGeneration(T5Config(vocab_size=50, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2))
    with pytest.raises(UserError, match="encoder-decoder"):
        load_engine(ModelSource(net)).describe()


def test_work_arrays_do_not_grow_with_the_rollout(engines):
    """Memory beside the cache: a few floats a token, whatever the vocabulary."""
    drawn = tiny.draw(engines["llama"], tiny.prompts(engines["llama"], (3,)), [(0, 0)], LAWS[0], 1)[0, 0]
    assert sum(a.nbytes for a in drawn.steps.values()) == 4 * len(STEP_TERMS) * len(drawn.token_ids)
