"""Penalty, minimum length, suppressed tokens and the ends, against transformers' own processors and generate."""

import numpy as np
import pytest
import tiny
import torch
from tokenizers_by_kind import tokenizer
from transformers import (
    LogitsProcessorList,
    MinNewTokensLengthLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SuppressTokensLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
)

from canopy_stats.generation.plain import plain_logits, score
from canopy_stats.generation.plain_law import law_terms
from canopy_stats.generation.processors import Past, TokenTable, process
from canopy_stats.generation.terms import step_terms
from canopy_stats.generation.token_bytes import token_bytes
from canopy_stats.generation.torch_engine import load_engine
from canopy_stats.schema import LENGTH, STEP_TERMS, STOP, ModelSource, SamplingPolicy

ENTROPY, LOGPROB, HAZARD = (STEP_TERMS.index(n) for n in ("entropy", "logprob", "stop_probability"))
STRINGS = ["op", "at", "é", "\n", " t", "the c"]
LAWS = [{"repetition_penalty": 1.3}, {"repetition_penalty": 0.7}, {"min_new_tokens": 6},
        {"suppress_tokens": [11, 12, 200]}, {"stop_token_ids": [40, 41, 42]}, {"stop_strings": STRINGS},
        {"repetition_penalty": 1.1, "min_new_tokens": 4, "suppress_tokens": [50], "stop_token_ids": [60],
         "stop_strings": STRINGS[:2], "temperature": 0.9, "top_k": 90, "top_p": 0.95, "min_p": 0.001}]


def law(values, cap=30):
    return SamplingPolicy(max_new_tokens=cap, **values)


@pytest.fixture(scope="module")
def engine():
    """A random Llama whose ids are those of a byte-level tokenizer, rarely ended by its own end tokens."""
    words = tokenizer("byte level")
    net = tiny.model("llama", ends=(7, 100))
    return load_engine(ModelSource(net, tokenizer=words), variant="base")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_processed_logits_are_those_of_transformers(dtype):
    rng = np.random.default_rng(0)
    x = torch.tensor(rng.normal(0, 4, (3, 50)), dtype=dtype)
    x[0, 3] = -torch.inf
    text = torch.tensor(rng.integers(0, 50, (3, 9)))
    ends = torch.tensor([5, 6])
    policy = SamplingPolicy(repetition_penalty=1.4, min_new_tokens=4, suppress_tokens=(1, 2), temperature=0.7, top_k=20)
    theirs = LogitsProcessorList([
        RepetitionPenaltyLogitsProcessor(1.4), MinNewTokensLengthLogitsProcessor(6, 4, [5, 6]),
        SuppressTokensLogitsProcessor([1, 2])])
    got = process(x, policy, ends, Past(torch.full((3,), 3), text), out=torch.empty(3, 50))
    torch.testing.assert_close(got, theirs(text, x.float()), atol=0, rtol=0)
    late = process(x, policy, ends, Past(torch.full((3,), 4), text), out=torch.empty(3, 50))
    assert late[:, 5:7].isfinite().all() and not got[:, 5:7].isfinite().any()


@pytest.mark.parametrize("columns", [1, 128])
def test_a_table_of_texts_follows_its_rows(columns, monkeypatch):
    """Also where columns are added on the way."""
    monkeypatch.setattr("canopy_stats.generation.processors._COLUMNS", columns)
    table = TokenTable(3, torch.device("cpu"))
    table.load(0, [4, 5])
    table.load(1, [6, 7, 8])
    table.append(torch.tensor([1, 2]))
    table.move(1, 0)
    table.load(1, [9])
    table.append(torch.tensor([3, 3]))
    assert table.first(2).tolist() == [[6, 7, 8, 2, 3], [9, 3, 9, 9, 9]]


@pytest.mark.slow
@pytest.mark.parametrize("values", LAWS, ids=lambda v: SamplingPolicy(**v).label())
def test_drawn_terms_are_those_of_the_law_in_double_precision(engine, values):
    policy = law(values)
    asked = tiny.prompts(engine, (3, 12))
    drawn = tiny.draw(engine, asked, tiny.pairs(2, 12), policy, 5)
    pieces = token_bytes(engine.tokenizer, tiny.VOCABULARY)
    ends = {*engine.end_ids, *policy.stop_token_ids}
    stopped = 0
    for (prompt, _), rollout in drawn.items():
        logits = plain_logits(engine.model, asked[prompt].token_ids, rollout.token_ids).numpy()
        want = law_terms(logits, rollout.token_ids, engine.end_ids, policy, prompt_ids=asked[prompt].token_ids,
                         pieces=pieces)
        for term in STEP_TERMS:
            np.testing.assert_allclose(rollout.steps[term][~want.near], want.steps[term][~want.near], atol=1e-4,
                                       err_msg=term)
        assert not want.ended[:-1].any()
        assert rollout.finish_reason == (STOP if want.ended[-1] else LENGTH)
        assert len(rollout.token_ids) == 30 or want.ended[-1]
        assert not np.isin(rollout.token_ids, policy.suppress_tokens).any()
        assert not np.isin(rollout.token_ids[:policy.min_new_tokens], list(ends)).any()
        again = score(engine.model, asked[prompt].token_ids, rollout.token_ids, engine.endings(policy), policy)
        np.testing.assert_allclose(again[~want.near, ENTROPY], want.steps["entropy"][~want.near], atol=1e-4)
        stopped += rollout.finish_reason == STOP
    assert stopped or "repetition_penalty" in values


@pytest.mark.slow
@pytest.mark.parametrize("values", LAWS, ids=lambda v: SamplingPolicy(**v).label())
def test_martingales(engine, values):
    """Surprisal minus entropy, and stops minus hazards, have mean zero under the law."""
    drawn = tiny.draw(engine, tiny.prompts(engine, (4,)), tiny.pairs(1, 300), law(values, cap=12), 100)
    surprise = np.array([-(r.steps["logprob"] + r.steps["entropy"]).sum() for r in drawn.values()])
    hazard = np.array([(r.finish_reason == STOP) - r.steps["stop_probability"].sum() for r in drawn.values()])
    for values_ in (surprise, hazard):
        assert abs(values_.mean()) <= 4 * values_.std(ddof=1) / len(values_) ** 0.5 + 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("values", LAWS, ids=lambda v: SamplingPolicy(**v).label())
def test_the_law_is_that_of_generate(engine, values):
    """transformers draws with the same options: our terms of its tokens are those of its scores, and it stops where we
    would."""
    policy, prompt = law(values), tiny.prompts(engine, (6,))[0].token_ids
    endings = engine.endings(policy)
    options = {"repetition_penalty": policy.repetition_penalty or 1.0, "min_new_tokens": policy.min_new_tokens,
               "suppress_tokens": list(policy.suppress_tokens) or None, "temperature": policy.temperature,
               "top_k": policy.top_k or 0, "top_p": policy.top_p or 1.0, "min_p": policy.min_p,
               "stop_strings": list(policy.stop_strings) or None, "eos_token_id": list(endings.ids)}
    ids = torch.tensor([prompt])
    for seed in range(12):
        torch.manual_seed(seed)
        out = engine.model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=True, max_new_tokens=30,
                                    pad_token_id=1, output_scores=True, return_dict_in_generate=True,
                                    tokenizer=engine.tokenizer, **options)
        tokens = out.sequences[0, len(prompt):].tolist()
        theirs = torch.cat(out.scores).double().log_softmax(dim=-1)
        ours = score(engine.model, prompt, tokens, endings, policy)
        kept = theirs.exp() * theirs.masked_fill(theirs.isneginf(), 0)
        np.testing.assert_allclose(ours[:, ENTROPY], -kept.sum(dim=-1), atol=1e-4)
        np.testing.assert_allclose(ours[:, LOGPROB], theirs[torch.arange(len(tokens)), tokens], atol=1e-4)
        ended = [endings.ended([*prompt, *tokens[:t]], token) for t, token in enumerate(tokens)]
        assert not any(ended[:-1]) and (ended[-1] or len(tokens) == 30)


@pytest.mark.slow
def test_the_draw_does_not_depend_on_the_batch(engine):
    asked, policy = tiny.prompts(engine, (3, 12)), law(LAWS[-1])
    reference = tiny.draw(engine, asked, tiny.pairs(2, 6), policy, 12)
    for batch in (1, 5):
        again = tiny.draw(engine, asked, tiny.pairs(2, 6), policy, batch)
        assert all(again[p].token_ids.tolist() == reference[p].token_ids.tolist() for p in reference)


def test_top_k_comes_after_the_penalty():
    """Temperature and filters act on what the processors leave: the largest logit is suppressed, the second halved."""
    x = torch.tensor([[5.0, 4.0, 3.0, 1.0]])
    text = torch.tensor([[1]])
    past = Past(torch.zeros(1, dtype=torch.long), text)
    policy = SamplingPolicy(repetition_penalty=2.0, suppress_tokens=[0], top_k=1, temperature=0.5)
    _, got = step_terms(x, policy, torch.tensor([3]), tokens=torch.tensor([2]), past=past)
    assert got[0, LOGPROB] == 0 and got[0, ENTROPY] == 0
    want = torch.tensor([2.0, 3.0, 1.0]).div(0.5).softmax(-1)
    assert got[0, STEP_TERMS.index("kept_mass")].item() == pytest.approx(want[1].item(), abs=1e-6)
    theirs = LogitsProcessorList([
        RepetitionPenaltyLogitsProcessor(2.0), SuppressTokensLogitsProcessor([0]), TemperatureLogitsWarper(0.5),
        TopKLogitsWarper(1)])
    assert theirs(text, x).isfinite().tolist() == [[False, False, True, False]]
