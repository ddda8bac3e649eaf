"""Batched teacher forcing gives what one forward pass a rollout gives, for every way in which it may batch."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from canopy_stats.generation.plain import plain_end_ids, plain_logits
from canopy_stats.generation.plain_law import law_terms
from canopy_stats.generation.teacher import Teacher, batches
from canopy_stats.generation.torch_engine import load_engine
from canopy_stats.schema import STEP_TERMS, ModelSource, SamplingPolicy

sys.path.insert(0, str(Path(__file__).parents[1]))

from tiny_models import save_tiny_llama

LAWS = {"full": {}, "filtered": {"temperature": 0.8, "top_k": 9, "top_p": 0.95},
        "penalised": {"repetition_penalty": 1.2}, "late end": {"min_new_tokens": 4},
        "stop string": {"stop_strings": ["dog sat"]}}


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    return load_engine(ModelSource(save_tiny_llama(tmp_path_factory.mktemp("m") / "tiny"), chat=False))


def some_texts(seed=0):
    rng = np.random.default_rng(seed)
    prompts = [engine_ids.tolist() for engine_ids in (rng.integers(6, 27, n) for n in (1, 4, 9))]
    return [(p, rng.integers(6, 27, n).tolist()) for p in prompts for n in (1, 3, 8, 12, 12)]


@pytest.mark.slow
@pytest.mark.parametrize("shares", [True, False], ids=["one pass over the prompt", "whole texts"])
@pytest.mark.parametrize("law", LAWS)
def test_terms_are_those_of_single_passes_in_numpy(engine, law, shares):
    policy = SamplingPolicy(max_new_tokens=20, **LAWS[law])
    teacher = Teacher(engine, policy, batch_size=4)
    assert teacher.together and teacher.shares
    teacher.shares = shares
    texts, ends = some_texts(), plain_end_ids(engine.model, engine.tokenizer)
    pieces = engine.endings(policy).strings.pieces if policy.stop_strings else ()
    found = dict(teacher.terms(texts))
    assert sorted(found) == list(range(len(texts)))
    for i, (prompt, own) in enumerate(texts):
        logits = plain_logits(engine.model, prompt, own).numpy()
        expected = law_terms(logits, own, ends, policy, prompt_ids=prompt, pieces=pieces)
        for name, column in zip(STEP_TERMS, found[i].T, strict=True):
            np.testing.assert_allclose(column[~expected.near], expected.steps[name][~expected.near], atol=2e-5)


def test_a_prompt_is_read_once_for_all_its_batches(engine, monkeypatch):
    teacher, read = Teacher(engine, SamplingPolicy(), 2), []
    prefill = engine.decoder.prefill
    monkeypatch.setattr(engine.decoder, "prefill", lambda ids: read.append(list(ids)) or prefill(ids))
    texts = some_texts()
    assert len(dict(teacher.terms(texts))) == len(texts)
    assert sorted(read) == sorted(list(p) for p in {tuple(p) for p, _ in texts})


def test_a_model_whose_batches_differ_is_scored_row_by_row(engine, monkeypatch):
    monkeypatch.setattr(Teacher, "_logits", lambda self, texts: [torch.zeros(len(texts), 5, 27)])
    teacher = Teacher(engine, SamplingPolicy(), 8)
    assert not teacher.together and len(dict(teacher.terms(some_texts()))) == len(some_texts())


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 9)), min_size=1, max_size=30), st.integers(1, 6),
       st.integers(1, 30), st.booleans())
@settings(max_examples=100, deadline=None)
def test_batches_hold_each_text_once_within_their_limits(shape, rows, tokens, by_prompt):
    texts = [([p], [0] * n) for p, n in shape]
    found = list(batches(texts, rows, tokens, by_prompt=by_prompt))
    assert sorted(i for batch in found for i in batch) == list(range(len(texts)))
    for batch in found:
        sizes = [len(texts[i][1]) + (0 if by_prompt else 1) for i in batch]
        assert len(batch) <= rows and (len(batch) == 1 or len(batch) * max(sizes) <= tokens)
        assert not by_prompt or len({texts[i][0][0] for i in batch}) == 1
