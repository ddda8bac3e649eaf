"""The sampler against its schedule said a second time, late results, shards that mix, and that no step waits."""

import numpy as np
import pytest
import tiny
import torch
from tokenizers_by_kind import tokenizer

from canopy_stats import open_run
from canopy_stats.generation.line import Line, Pending
from canopy_stats.generation.processors import Past
from canopy_stats.generation.randomness import rollout_key
from canopy_stats.generation.terms import Draws, step_terms
from canopy_stats.generation.torch_engine import load_engine
from canopy_stats.generation.torch_options import TorchOptions
from canopy_stats.runs import generate
from canopy_stats.schema import STEP_TERMS, STOP, ModelSource, Prompt, SamplingPolicy, UserError
from canopy_stats.store import RunWriter

CAP = 24
STRINGS = ["op", "at", "é", "\n", " t", "the c"]
FULL = SamplingPolicy(max_new_tokens=CAP)
MIXED = SamplingPolicy(temperature=0.9, top_k=90, top_p=0.95, min_p=0.001, repetition_penalty=1.1, min_new_tokens=3,
                       max_new_tokens=CAP)
LAWS = pytest.mark.parametrize("policy", [FULL, MIXED], ids=["full", "mixed"])


@pytest.fixture(scope="module")
def engine():
    return tiny.engine("llama")


@torch.inference_mode()
def said_again(engine, prompts, pairs, policy, size) -> dict:
    """Token ids and terms (N, terms) of each pair: one step after the other, in lists, all on the host."""
    decoder, endings = engine.decoder, engine.endings(policy)
    slots = decoder.batch(min(size, len(pairs)), max(len(p.token_ids) for p in prompts) + policy.max_new_tokens - 1)
    waiting, rows, done = list(pairs), [], {}
    while rows or waiting:
        logits = [decoder.step(slots, torch.tensor([row["ids"][-1] for row in rows]))] if rows else []
        while waiting and len(rows) < size:
            pair = waiting.pop(0)
            prompt = prompts[pair[0]]
            prefilled = decoder.prefill(prompt.token_ids)
            slots.load(len(rows), prefilled)
            logits.append(prefilled.logits)
            rows.append({"pair": pair, "text": list(prompt.token_ids), "ids": [], "terms": [],
                         "key": rollout_key(tiny.KEY, prompt.prompt_hash, pair[1])})
        slots.active = len(rows)
        steps, longest = torch.tensor([len(row["ids"]) for row in rows]), max(len(row["text"]) for row in rows)
        texts = torch.tensor([row["text"] + row["text"][:1] * (longest - len(row["text"])) for row in rows])
        drawn, terms = step_terms(torch.cat(logits), policy, torch.tensor(endings.ids), past=Past(steps, texts),
                                  draws=Draws(torch.tensor([row["key"] for row in rows]), steps))
        for slot, row in reversed(list(enumerate(rows))):
            token = int(drawn[slot])
            row["ids"].append(token)
            row["text"].append(token)
            row["terms"].append(terms[slot].numpy())
            if token in endings.ids or len(row["ids"]) == policy.max_new_tokens:
                done[row["pair"]] = np.array(row["ids"]), np.stack(row["terms"])
                if slot < len(rows) - 1:
                    slots.move(len(rows) - 1, slot)
                    rows[slot] = rows[-1]
                rows.pop()
        slots.active = len(rows)
    return done


@LAWS
def test_bits_are_those_of_the_plain_schedule(engine, policy):
    """What was drawn before stays: every bit of tokens and terms, with fewer slots than rollouts."""
    asked = tiny.prompts(engine, (3, 12, 9))
    ours = tiny.draw(engine, asked, tiny.pairs(3, 5), policy, 4)
    want = said_again(engine, asked, tiny.pairs(3, 5), policy, 4)
    assert len({len(r.token_ids) for r in ours.values()}) > 3 and set(ours) == set(want)
    for pair, (ids, terms) in want.items():
        assert ours[pair].token_ids.tolist() == ids.tolist()
        for i, name in enumerate(STEP_TERMS):
            assert ours[pair].steps[name].tobytes() == np.ascontiguousarray(terms[:, i]).tobytes(), name


def assert_same(drawn, reference):
    """The same tokens, and terms up to the rounding of other batches."""
    assert set(drawn) == set(reference)
    for pair, rollout in drawn.items():
        assert rollout.token_ids.tolist() == reference[pair].token_ids.tolist()
        assert rollout.finish_reason == reference[pair].finish_reason
        for name in STEP_TERMS:
            np.testing.assert_allclose(rollout.steps[name], reference[pair].steps[name], atol=1e-4, err_msg=name)


@pytest.mark.parametrize(("name", "policy", "size"), [
    ("llama", FULL, 4), ("llama", MIXED, 32), ("llama", SamplingPolicy(max_new_tokens=1), 2), ("mamba", FULL, 4)],
    ids=["refilled", "mixed law", "one token", "own cache"])
def test_results_that_come_late_change_nothing(name, policy, size):
    """An ended rollout goes on for a step, which is nobody's."""
    engine = tiny.engine(name)
    asked = tiny.prompts(engine, (3, 12))
    reference = tiny.draw(engine, asked, tiny.pairs(2, 6), policy, size)
    engine.lag = 1
    assert_same(tiny.draw(engine, asked, tiny.pairs(2, 6), policy, size), reference)


def test_stop_strings_are_found_late_too():
    """By tables, and in texts: the same ends, and the same probabilities of ending."""
    source = ModelSource(tiny.model("llama", ends=(7, 100)), tokenizer=tokenizer("byte level"))
    engine = load_engine(source, variant="base")
    asked, policy = tiny.prompts(engine, (3, 12)), SamplingPolicy(stop_strings=STRINGS, max_new_tokens=CAP)
    reference = tiny.draw(engine, asked, tiny.pairs(2, 9), policy, 4)
    ends = [r.token_ids[-1] not in (7, 100) for r in reference.values() if r.finish_reason == STOP]
    assert sum(ends) > 5
    engine.lag = 1
    assert_same(tiny.draw(engine, asked, tiny.pairs(2, 9), policy, 4), reference)


def test_a_bad_row_is_seen_late_and_only_while_it_counts(engine, monkeypatch):
    """NaN in the step after a rollout's end is nobody's; in a step of its own it is an error."""
    late = tiny.engine("llama")
    late.lag = 1
    asked = tiny.prompts(late, (3,))
    reference = tiny.draw(late, asked, [(0, 0)], FULL, 1)
    length = len(reference[0, 0].token_ids)
    assert 1 < length < CAP
    forward, calls = type(late.decoder).forward, []

    def spoilt(self, slots, tokens, first_bad):
        calls.append(1)
        return forward(self, slots, tokens) * (torch.nan if len(calls) >= first_bad else 1.0)

    monkeypatch.setattr(type(late.decoder), "forward", lambda *a: spoilt(*a, first_bad=length))
    assert_same(tiny.draw(late, asked, [(0, 0)], FULL, 1), reference)
    assert len(calls) == length  # one forward pass fewer than tokens, and the step that is nobody's
    calls.clear()
    monkeypatch.setattr(type(late.decoder), "forward", lambda *a: spoilt(*a, first_bad=length - 1))
    with pytest.raises(UserError, match=f"not numbers .* step {length - 1} of prompt '0'"):
        tiny.draw(late, asked, [(0, 0)], FULL, 1)


# -------------------------------------------------------------------------------------------------------- many shards


def shards_of(engine):
    """Four shards: two prompts each, some prompts in two of them."""
    asked = tiny.prompts(engine, (3, 12, 9, 5))
    places = [((0, 1), range(3)), ((1, 2), range(3, 6)), ((3,), range(5)), ((2, 0), range(6, 8))]
    return [([asked[i] for i in prompts], [(p, r) for p in range(len(prompts)) for r in rollouts])
            for prompts, rollouts in places]


def by_shard(drawn) -> dict:
    return {(number, r.prompt_index, r.rollout): r for number, rollouts in drawn for r in rollouts}


@pytest.mark.parametrize("lag", [0, 1])
def test_shards_fill_each_others_tails(engine, lag, monkeypatch):
    shards, steps = shards_of(engine), []
    step = type(engine.decoder).step
    monkeypatch.setattr(type(engine.decoder), "step", lambda *a: (steps.append(a[1].active), step(*a))[1])
    apart = by_shard((i, engine.sample(*shard, FULL, tiny.KEY, 4)) for i, shard in enumerate(shards))
    alone = len(steps)
    monkeypatch.setattr(engine, "lag", lag)
    numbers = []
    mixed = by_shard((numbers.append(n), (n, rollouts))[1]
                     for n, rollouts in engine.sample_shards(iter(shards), FULL, tiny.KEY, 4))
    assert_same(mixed, apart)
    assert sorted(numbers) == [0, 1, 2, 3]
    assert len(steps) - alone < alone
    # Slots are idle for one step when something enters, and in the very last tail.
    assert min(steps[alone:alone + 20]) >= 2


@pytest.mark.slow
def test_memory_that_runs_out_among_mixed_shards(engine, monkeypatch):
    shards, step = shards_of(engine), type(engine.decoder).step
    apart = by_shard((i, engine.sample(*shard, FULL, tiny.KEY, 4)) for i, shard in enumerate(shards))

    def limited(self, slots, tokens):
        if slots.active > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return step(self, slots, tokens)

    monkeypatch.setattr(type(engine.decoder), "step", limited)
    assert_same(by_shard(engine.sample_shards(shards, FULL, tiny.KEY, 6)), apart)
    assert engine.batch_size_used == 3


def generated(out, engine, **changes):
    return generate(None, [[5, 9, 11]], out, family="tiny", variant="base", task="t", n_rollouts=100, engine=engine,
                    policy=SamplingPolicy(max_new_tokens=12), batch_size=24, drift_tokens=0, progress=False, **changes)


@pytest.mark.slow
def test_a_killed_run_of_mixed_shards_goes_on(tmp_path, monkeypatch):
    """To the tokens of a run that was drawn shard by shard, its terms up to rounding; resumed and not drawn anew."""
    apart = generated(tmp_path / "apart", tiny.engine("llama"))
    engine, write, written = tiny.engine("llama"), RunWriter.write_tables, []
    engine.options = TorchOptions(mix_shards=True)

    def killed(*args, **given):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(1)
        write(*args, **given)

    monkeypatch.setattr(RunWriter, "write_tables", killed)
    with pytest.raises(KeyboardInterrupt):
        generated(tmp_path / "mixed", engine)
    monkeypatch.setattr(RunWriter, "write_tables", write)
    kept = {s["number"]: s for s in open_run(tmp_path / "mixed", allow_partial=True).shards}
    mixed = generated(tmp_path / "mixed", engine)
    assert len(kept) == 2 and kept.items() <= {s["number"]: s for s in mixed.shards}.items()
    assert mixed.run_id == apart.run_id and mixed.config.model["mixes_shards"]
    theirs, ours = (run.steps().sort_by([("prompt_id", "ascending"), ("rollout", "ascending"), ("step", "ascending")])
                    for run in (apart, mixed))
    assert ours["token_id"] == theirs["token_id"]
    for name in STEP_TERMS:
        np.testing.assert_allclose(ours[name].to_numpy(), theirs[name].to_numpy(), atol=1e-4)


def test_slots_have_the_columns_that_their_rollouts_need(engine, monkeypatch):
    """Not those of the cap; and they are added in blocks, not one by one."""
    made, sizes, batch = [], [], type(engine.decoder).batch
    monkeypatch.setattr(type(engine.decoder), "batch", lambda *a: made.append(batch(*a)) or made[-1])
    step = type(engine.decoder).step
    monkeypatch.setattr(type(engine.decoder), "step", lambda *a: (step(*a), sizes.append(a[1].room))[0])
    drawn = tiny.draw(engine, tiny.prompts(engine, (3,)), tiny.pairs(1, 8), SamplingPolicy(max_new_tokens=200), 4)
    longest = 3 + max(len(r.token_ids) for r in drawn.values()) - 1
    assert longest <= made[0].room <= longest + max(16, longest // 8) and made[0].room < 150
    assert len(set(sizes)) <= longest // 16 + 1


def test_a_line_begins_again_in_its_order():
    prompt = Prompt("a", "hash", [1], (1,))
    line = Line(Pending(0, prompt, 0, r, (0, 0)) for r in range(6))
    assert [a.rollout for a in line.look(2)] == [0, 1]
    begun = [line.begin() for _ in range(4)]
    line.finish(begun[1])
    line.restart()
    assert [a.rollout for a in line.look(9)] == [0, 2, 3, 4, 5]


def test_who_mixes_shards():
    assert not tiny.engine("llama").mixes_shards and tiny.engine("llama").batch_decides_bits
    engine = tiny.engine("llama")
    engine.options = TorchOptions(mix_shards=True)
    assert engine.mixes_shards and not engine.batch_decides_bits and engine.describe()["mixes_shards"]


@pytest.mark.parametrize(("options", "message"), [
    ({"tensor_parallel_size": 2}, "no option 'tensor_parallel_size'; it has mix_shards and compile"),
    ({"mix_shards": 1}, "mix_shards is 1; it must be true, false"), ({"compile": "fast"}, "compile is 'fast'; choose")])
def test_options_that_are_none(options, message):
    with pytest.raises(UserError, match=message):
        TorchOptions.of(options)
