"""vLLM on a CPU (runner V1) against the torch engine and plain transformers: the same tokens, the same terms."""

from __future__ import annotations

import birch
import numpy as np
import pytest

pytest.importorskip("vllm.v1", reason="vLLM is not installed: make test-vllm has an environment for it")

from canopy_stats.checks import check
from canopy_stats.generation.torch_engine import load_engine as load_torch
from canopy_stats.generation.vllm.engine import load_engine
from canopy_stats.runs import generate
from canopy_stats.schema import LENGTH, STEP_TERMS, STOP, ModelSource, Prompt, SamplingPolicy, UserError

ROWS, M = 8, 12


@pytest.fixture(scope="module")
def engine():
    made = load_engine(ModelSource(birch.BASE), variant="base", options=birch.EAGER)
    for prompt in birch.prompts(made, ROWS):
        made.check_length(prompt, SamplingPolicy(max_new_tokens=200))
    yield made
    made.close()


@pytest.fixture(scope="module")
def reference():
    return load_torch(ModelSource(birch.BASE), variant="base")


@pytest.fixture(scope="module")
def drawn(engine, reference):
    """Rollouts of both engines under each law."""
    asked, wanted = birch.prompts(engine, ROWS), birch.pairs(ROWS, M)
    return {name: tuple(birch.by_pair(e.sample(asked, wanted, law, birch.KEY, 32)) for e in (engine, reference))
            for name, law in birch.LAWS.items()}


def test_tokens_are_those_of_the_torch_engine(drawn):
    """A flip needs two tokens closer than rounding: a few in a million."""
    tokens = sum(len(r.token_ids) for _, theirs in drawn.values() for r in theirs.values())
    flipped = {name: birch.flips(ours, theirs) for name, (ours, theirs) in drawn.items()}
    assert tokens >= 20_000
    assert sum(flipped.values()) <= 1, flipped


@pytest.mark.parametrize("law", birch.LAWS)
def test_terms_are_those_of_plain_transformers(engine, reference, drawn, law):
    asked = birch.prompts(engine, ROWS)
    some = {pair: r for pair, r in drawn[law][0].items() if pair[1] < 3}
    worst, near, steps = birch.from_transformers(reference.model, asked, some, engine.end_ids, birch.LAWS[law])
    assert worst < 1e-4 and near <= 0.02 * steps and steps > 1000


def test_every_part_of_a_law(engine, reference):
    law = SamplingPolicy(temperature=0.9, top_k=300, top_p=0.98, min_p=0.001, max_new_tokens=60, stop_token_ids=(40,),
                         stop_strings=(" was", "the "), repetition_penalty=1.2, min_new_tokens=10,
                         suppress_tokens=(50, 60))
    asked = birch.prompts(engine, ROWS)
    ours, theirs = (birch.by_pair(e.sample(asked, birch.pairs(ROWS, 4), law, birch.KEY, 16))
                    for e in (engine, reference))
    assert birch.flips(ours, theirs) == 0 and birch.apart(ours, theirs) < 1e-4
    assert len({r.token_ids[-1] for r in ours.values()}) > 2
    assert {r.finish_reason for r in ours.values()} >= {STOP}


def test_stop_strings_alone(engine, reference):
    """A cap in the midst of a stop string's way, prompts that begin one, and rollouts that nothing ends."""
    asked = birch.prompts(engine, 4)
    for strings, cap in ((("e",), 5), (("and then it", "\n\n"), 40)):
        law = SamplingPolicy(max_new_tokens=cap, stop_strings=strings)
        ours, theirs = (birch.by_pair(e.sample(asked, birch.pairs(4, 6), law, birch.KEY, 32))
                        for e in (engine, reference))
        assert birch.flips(ours, theirs) == 0 and birch.apart(ours, theirs) < 1e-4
    assert {r.finish_reason for r in ours.values()} == {STOP, LENGTH}


def test_batches_change_no_token(engine, drawn):
    asked = birch.prompts(engine, ROWS)
    for batch in (1, 7):
        again = birch.by_pair(engine.sample(asked, birch.pairs(2, 5), birch.LAWS["full"], birch.KEY, batch))
        assert birch.flips(again, {pair: drawn["full"][0][pair] for pair in again}) == 0
        assert engine.batch_size_used == batch


def test_the_same_shard_has_the_same_bits(engine):
    """Whatever the cache holds of prompts drawn before."""
    asked, wanted = birch.prompts(engine, 2), birch.pairs(2, 4)
    first = birch.by_pair(engine.sample(asked, wanted, birch.LAWS["top-k"], birch.KEY, 4))
    list(engine.sample(birch.prompts(engine, 4), birch.pairs(4, 2), birch.LAWS["full"], birch.KEY, 3))
    second = birch.by_pair(engine.sample(asked, wanted, birch.LAWS["top-k"], birch.KEY, 4))
    for pair in first:
        for term in STEP_TERMS:
            np.testing.assert_array_equal(first[pair].steps[term], second[pair].steps[term])


def test_several_shards_at_a_time(engine, drawn):
    """No shard waits for another one's longest rollout, and each comes when it is whole."""
    asked = birch.prompts(engine, ROWS)
    shards = [(asked[:3], birch.pairs(3, 4)), (asked[3:5], birch.pairs(2, 4)), (asked[5:], birch.pairs(3, 4))]
    found = dict(engine.sample_shards(shards, birch.LAWS["full"], birch.KEY, 16))
    assert sorted(found) == [0, 1, 2]
    for number, first in ((0, 0), (1, 3), (2, 5)):
        ours = {(r.prompt_index + first, r.rollout): r for r in found[number]}
        assert birch.flips(ours, {pair: drawn["full"][0][pair] for pair in ours}) == 0


def test_a_run_is_stored_checked_and_says_where_it_was_drawn(engine, tmp_path):
    law = SamplingPolicy(top_p=0.95, max_new_tokens=80)
    asked = ["Once there was a", "The old bridge", [5, 9, 14, 60]]
    run = generate(birch.BASE, asked, tmp_path, family="birch", variant="base", task="t", n_rollouts=8, policy=law,
                   engine=engine, drift_tokens=200, progress=False)
    report = check(run, model=str(birch.BASE), n_sample=8)
    assert report.ok, str(report)
    assert all(again["flips"] == 0 for again in run.manifest["drift"]["redrawn"])
    assert run.manifest["engine"]["kv_blocks"] > 0 and run.manifest["engine"]["preemptions"] == 0
    said = run.config.model
    assert run.config.engine == "vllm" and said["vllm"]["runner"] == "V1" and said["versions"]["vllm"]
    assert said["vllm"]["batch_invariant"] is False and said["dtype"] == "float32"
    other = load_torch(ModelSource(birch.BASE), variant="base").describe()
    assert {k: v for k, v in said.items() if k not in ("vllm", "versions", "cache", "attention", "cautions")} == {
        k: v for k, v in other.items() if k not in ("versions", "cache", "attention")}


def test_mixed_shards_are_stored_like_others(engine, tmp_path, monkeypatch):
    law = SamplingPolicy(max_new_tokens=30)
    asked = [[5, 9, 14 + i] for i in range(9)]
    told = {"family": "birch", "variant": "base", "task": "t", "n_rollouts": 3, "policy": law, "engine": engine,
            "drift_tokens": 0, "progress": False}
    apart = generate(birch.BASE, asked, tmp_path / "apart", **told)
    monkeypatch.setattr(type(engine), "mixes_shards", True)
    mixed = generate(birch.BASE, asked, tmp_path / "mixed", **told)
    columns = ["prompt_id", "rollout", "token_ids", "finish_reason"]
    assert mixed.rollouts(columns).to_pylist() == apart.rollouts(columns).to_pylist()
    np.testing.assert_allclose(mixed.rollouts(["entropy_sum"])["entropy_sum"],
                               apart.rollouts(["entropy_sum"])["entropy_sum"], atol=1e-3)


def test_a_rollout_that_is_left_leaves_vllm(engine):
    asked = birch.prompts(engine, 2)
    first = next(iter(engine.sample(asked, birch.pairs(2, 4), birch.LAWS["full"], birch.KEY, 8)))
    assert len(first.token_ids)
    assert not engine.llm.has_unfinished_requests()


def test_a_text_longer_than_the_engine_was_started_for(engine):
    prompt = Prompt("long", "hash", [5] * 200, (5,) * 200)
    with pytest.raises(UserError, match="needs 257 tokens with its rollout.*make a new engine"):
        engine.check_length(prompt, SamplingPolicy(max_new_tokens=57))


@pytest.mark.parametrize(("options", "message"), [
    ({"speculative_config": {"method": "ngram"}}, "Speculative decoding .* without exact terms"),
    ({"logprobs_mode": "raw_logprobs"}, "decided by the other arguments"),
    ({"colour": "red"}, "does not know")], ids=["speculative", "decided", "unknown"])
def test_options_that_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        load_engine(ModelSource(birch.BASE), options=options)


def test_an_unknown_interface_is_refused(monkeypatch):
    from vllm.v1.sample.logits_processor import LogitsProcessor

    from canopy_stats.generation.vllm import launch

    launch.refuse_an_unknown_interface("V1")
    launch.refuse_an_unknown_interface("V2")
    monkeypatch.setattr(LogitsProcessor, "apply", lambda self, logits, more: logits)
    with pytest.raises(UserError, match="runner V1 in an unknown way .apply.; install vllm 0.32 or 0.33"):
        launch.refuse_an_unknown_interface("V1")


def test_a_device_that_this_vllm_does_not_run_on():
    with pytest.raises(UserError, match="computes on a CPU"):
        load_engine(ModelSource(birch.BASE, device="cuda"))
