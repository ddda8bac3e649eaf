"""Generate: what is drawn, stored, refused and resumed. Rescore: given rollouts under another law or model."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from fake_engine import END, TABLE, FakeEngine

import canopy_stats as cs
from canopy_stats import open_run, rescore
from canopy_stats.progress import Progress, duration
from canopy_stats.runs import generate
from canopy_stats.schema import STEP_COLUMNS, STEP_TERMS, SamplingPolicy, UserError, names

sys.path.insert(0, str(Path(__file__).parents[1] / "analysis"))
PROMPTS = [[0], [1], [2], [3], [0, 1]]
POLICY = SamplingPolicy(max_new_tokens=12)


def draw(out, engine=None, **changes):
    settings = {"family": "fake", "variant": "base", "task": "chain", "n_rollouts": 100, "seed": 1, "policy": POLICY,
                "drift_tokens": 0, "progress": False, "engine": engine or FakeEngine()}
    return generate(None, changes.pop("prompts", PROMPTS), out, **{**settings, **changes})


@pytest.fixture(scope="module")
def oracle():
    return cs.oracle.MarkovLM(TABLE, end_state=END)


# ---------------------------------------------------------------------------------------------------------- generate


def test_every_rollout_of_every_prompt(tmp_path):
    run = draw(tmp_path / "run", n_rollouts=7)
    rollouts = run.rollouts().to_pandas()
    assert rollouts.groupby("prompt_id").size().to_dict() == {str(i): 7 for i in range(5)}
    assert run.complete and run.manifest["finished"]
    assert run.config.n_rollouts == 7 and run.config.policy == POLICY and run.config.batch_size == 32


def test_prompt_file_names_its_prompts(tmp_path):
    (tmp_path / "p.jsonl").write_text('{"id": "a", "prompt": "abc"}\n{"id": "b", "prompt": "abd"}\n')
    run = draw(tmp_path / "run", prompts=tmp_path / "p.jsonl", n_rollouts=2)
    assert [(p.prompt_id, p.source) for p in run.prompts()] == [("a", "abc"), ("b", "abd")]
    assert run.rollouts()["prompt_uid"].to_pylist() == ["chain/a", "chain/a", "chain/b", "chain/b"]


@pytest.mark.parametrize("n", [1, 0, -3])
def test_too_few_rollouts(tmp_path, n):
    with pytest.raises(UserError, match=f"n_rollouts is {n}; at least 2 .* compare rollouts of one prompt"):
        draw(tmp_path / "run", n_rollouts=n)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("size", [0, -1, "large"])
def test_bad_batch_size(tmp_path, size):
    with pytest.raises(UserError, match="batch_size is .* must be 'auto' or a whole number of at least 1"):
        draw(tmp_path / "run", batch_size=size)


def test_unknown_engine(tmp_path):
    with pytest.raises(UserError, match="There is no engine 'magic'"):
        draw(tmp_path / "run", engine="magic")


def test_vllm_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr("canopy_stats.drawing.find_spec", lambda name: None)
    with pytest.raises(UserError, match="environment of its own: pip install 'canopy-stats.vllm.'"):
        draw(tmp_path / "run", engine="vllm")


@pytest.mark.parametrize(("engine", "message"), [("torch", "no option 'tensor_parallel_size'.*for engine='vllm'"),
                                                 (None, "are for an engine by name")])
def test_engine_options_without_vllm(tmp_path, engine, message):
    with pytest.raises(UserError, match=message):
        draw(tmp_path / "run", engine, engine_options={"tensor_parallel_size": 2})


class MixingEngine(FakeEngine):
    """Draws several shards at a time, the last of three first, and counts."""

    mixes_shards, batch_size_used = True, 5

    def sample_shards(self, shards, policy, key, batch_size):
        held = []
        for number, (prompts, pairs) in enumerate(shards):
            held.insert(0, (number, list(self.sample(prompts, pairs, policy, key, batch_size))))
            if len(held) == 3:
                yield from held
                held = []
        yield from held

    def tally(self):
        return {"preemptions": 3}


def test_an_engine_may_mix_shards(tmp_path):
    apart, mixed = draw(tmp_path / "apart"), draw(tmp_path / "mixed", MixingEngine())
    assert len(mixed.shards) == len(apart.shards) > 3
    assert mixed.content_hash == apart.content_hash
    assert {s["batch_size"] for s in mixed.shards} == {5}
    assert open_run(tmp_path / "mixed").manifest["engine"] == {"preemptions": 3}
    assert "engine" not in apart.manifest


def test_a_killed_run_of_mixed_shards_goes_on(tmp_path):
    whole = draw(tmp_path / "whole")
    killed = MixingEngine()
    killed.sample_shards = lambda *given: (pair for i, pair in enumerate(MixingEngine.sample_shards(killed, *given))
                                           if i < 2 or _kill())
    with pytest.raises(KeyboardInterrupt):
        draw(tmp_path / "run", killed)
    assert len(open_run(tmp_path / "run", allow_partial=True).shards) == 2
    assert draw(tmp_path / "run", MixingEngine()).content_hash == whole.content_hash


def _kill():
    raise KeyboardInterrupt


def test_same_call_again_draws_nothing(tmp_path):
    first, again = draw(tmp_path / "run"), FakeEngine()
    second = draw(tmp_path / "run", again)
    assert again.sampled == [] and second.content_hash == first.content_hash
    assert second.manifest["finished"] == first.manifest["finished"]


def test_interrupted_run_resumes_to_the_same_content(tmp_path):
    whole = draw(tmp_path / "whole")

    class Dies(FakeEngine):
        def sample(self, *args):
            if len(self.sampled) == 1:
                raise KeyboardInterrupt
            yield from super().sample(*args)

    with pytest.raises(KeyboardInterrupt):
        draw(tmp_path / "run", Dies())
    assert len(open_run(tmp_path / "run", allow_partial=True).shards) == 1
    engine = FakeEngine()
    assert draw(tmp_path / "run", engine).content_hash == whole.content_hash
    assert len(engine.sampled) == 3


def test_changed_setting_is_refused_by_name(tmp_path):
    draw(tmp_path / "run")
    with pytest.raises(UserError, match=r"seed: stored 1, asked 2"):
        draw(tmp_path / "run", seed=2)
    with pytest.raises(UserError, match=r"n_rollouts: stored 100, asked 50"):
        draw(tmp_path / "run", n_rollouts=50)
    with pytest.raises(UserError, match=r"prompt '0' is now called '1'.*prompt '4' is no longer there"):
        draw(tmp_path / "run", prompts=[[1], [0]])


class Elsewhere(FakeEngine):
    """The same law on another machine."""

    def describe(self):
        return {**super().describe(), "device_name": "another", "threads": 7}


@pytest.mark.slow
@pytest.mark.parametrize(("n", "more"), [(100, 140), (32, 64), (20, 21)])
def test_a_run_grows_to_the_content_of_one_drawn_at_once(tmp_path, n, more):
    prompts, engine = [[i % 5, i // 5] for i in range(11)], FakeEngine()
    draw(tmp_path / "grown", prompts=prompts[:7], n_rollouts=n)
    grown = draw(tmp_path / "grown", engine, prompts=prompts, n_rollouts=more)
    whole = draw(tmp_path / "whole", prompts=prompts, n_rollouts=more)
    assert grown.content_hash == whole.content_hash == open_run(grown.path).content_hash
    assert grown.rollouts().equals(whole.rollouts()) and grown.steps().equals(whole.steps())
    assert sum(len(pairs) for pairs in engine.sampled) == 11 * more - 7 * n  # what is drawn stays
    assert [p.rollouts(["rollout"]).num_rows % more for p in grown.parts()] == [0] * len(list(grown.parts()))


@pytest.mark.slow
def test_the_torch_engine_grows_to_the_bits_of_a_run_drawn_at_once(tmp_path):
    from tiny_models import save_tiny_llama

    model = save_tiny_llama(tmp_path / "m")

    def grow(out, n, texts):
        return generate(model, texts, tmp_path / out, family="t", variant="base", task="t", n_rollouts=n,
                        policy=POLICY, progress=False, drift_tokens=0)

    grow("grown", 5, ["the cat", "a dog"])
    assert grow("grown", 9, ["the cat", "a dog", "it was"]).content_hash == grow(
        "whole", 9, ["the cat", "a dog", "it was"]).content_hash


def test_another_machine_may_go_on_and_is_counted(tmp_path):
    whole = draw(tmp_path / "whole")

    class Dies(FakeEngine):
        def sample(self, *args):
            if len(self.sampled) == 2:
                raise KeyboardInterrupt
            yield from super().sample(*args)

    with pytest.raises(KeyboardInterrupt):
        draw(tmp_path / "run", Dies())
    with pytest.raises(UserError, match=r"strict.*device_name: stored None, asked 'another'; threads"):
        draw(tmp_path / "run", Elsewhere(), strict=True)
    run = draw(tmp_path / "run", Elsewhere(), drift_tokens=50)
    assert run.content_hash == whole.content_hash
    assert [d["shards"] for d in run.manifest["drawn"]] == [2, 2]
    assert {v.get("device_name") for v in run.manifest["surroundings"].values()} == {None, "another"}
    (elsewhere,) = run.manifest["drift"]["elsewhere"].values()
    assert elsewhere["flips"] == 0 and elsewhere["tokens"] >= 50


def test_an_edited_prompt_is_refused_by_name(tmp_path):
    (tmp_path / "p.jsonl").write_text('{"id": "a", "prompt": "abc"}\n{"id": "b", "prompt": "abd"}\n')
    draw(tmp_path / "run", prompts=tmp_path / "p.jsonl", n_rollouts=2)
    (tmp_path / "p.jsonl").write_text('{"id": "a", "prompt": "abc"}\n{"id": "b", "prompt": "abe"}\n')
    with pytest.raises(UserError, match="other prompts; nothing was changed. Differing: prompt 'b' was edited"):
        draw(tmp_path / "run", prompts=tmp_path / "p.jsonl", n_rollouts=2)


def test_auto_batch_size_stays_that_of_the_stored_run(tmp_path):
    class Roomy(FakeEngine):
        room = 64

        def suggest_batch_size(self, prompts, policy):
            return self.room

    engine = Roomy()
    first = draw(tmp_path / "run", engine)
    assert first.config.batch_size == 64
    engine.room = 16
    assert draw(tmp_path / "run", engine).content_hash == first.content_hash


def test_halved_batch_is_recorded(tmp_path):
    class Halves(FakeEngine):
        batch_size_used = 4

    run = draw(tmp_path / "run", Halves())
    assert {s["batch_size"] for s in run.manifest["shards"]} == {4} and run.config.batch_size == 32


def test_engine_that_forgets_a_rollout_is_a_defect(tmp_path):
    class Forgets(FakeEngine):
        def sample(self, prompts, rollouts, *args):
            return super().sample(prompts, rollouts[1:], *args)

    with pytest.raises(RuntimeError, match="every rollout of the shard exactly once"):
        draw(tmp_path / "run", Forgets())


def test_drift_is_measured_and_stamped(tmp_path):
    stamp = draw(tmp_path / "run", drift_tokens=100).manifest["drift"]
    assert stamp["batch_size"] == 32 and [r["batch_size"] for r in stamp["redrawn"]] == [1, 7]
    assert all(r["flips"] == 0 and r["tokens"] >= 100 and r["entropy_difference"] == 0 for r in stamp["redrawn"])


def test_drift_counts_flips(tmp_path):
    class Unsteady(FakeEngine):
        """Draws from a slightly different law when the batch is small."""

        def sample(self, prompts, rollouts, policy, key, batch_size):
            self.drawn_at = 1.05 if batch_size == 1 else None
            return super().sample(prompts, rollouts, policy, key, batch_size)

    one, seven = draw(tmp_path / "run", Unsteady(), drift_tokens=800).manifest["drift"]["redrawn"]
    assert 0 < one["flips"] <= one["rollouts"] and one["flip_rate"] == one["flips"] / one["tokens"]
    assert seven["flips"] == 0


def test_manifest_says_what_drew_it_and_nothing_of_time_enters_the_hash(tmp_path):
    run = draw(tmp_path / "run")
    manifest = run.manifest
    assert manifest["config"]["code_version"].startswith(cs.__version__ + "+")
    assert {"python", "numpy", "pyarrow", "canopy_stats"} <= set(manifest["versions"])
    (run.path / "manifest.json").write_text(json.dumps({**manifest, "created": "1999", "finished": "1999"}))
    assert open_run(run.path).content_hash == run.content_hash


@pytest.mark.slow
def test_torch_engine_end_to_end(tmp_path, oracle):
    run = generate(oracle, PROMPTS, tmp_path / "run", family="o", variant="base", task="t", n_rollouts=20,
                   policy=POLICY, progress=False)
    assert run.config.engine == "torch" and run.config.model["architecture"] == "MarkovLM"
    assert run.steps().num_rows == sum(run.rollouts()["length"].to_pylist())


@pytest.mark.slow
def test_torch_engine_draws_a_lost_shard_again(tmp_path, oracle):
    def draw_again():
        return generate(oracle, PROMPTS, tmp_path / "run", family="o", variant="base", task="t", n_rollouts=200,
                        policy=POLICY, progress=False, drift_tokens=0)

    first = draw_again()
    (first.path / "steps" / "shard-00002.parquet").unlink()
    assert draw_again().content_hash == first.content_hash and open_run(first.path).complete


def test_prompt_that_does_not_fit_is_refused_before_anything_is_drawn(tmp_path):
    from tiny_models import save_tiny_llama

    with pytest.raises(UserError, match="Prompt '1' has 121 tokens; with max_new_tokens=12 .* context of 128"):
        generate(save_tiny_llama(tmp_path / "m"), ["the cat", "the cat " * 60], tmp_path / "run", family="t",
                 variant="base", task="t", policy=POLICY)
    assert not (tmp_path / "run").exists()


# ----------------------------------------------------------------------------------------------------------- rescore


@pytest.fixture(scope="module")
def drawn(tmp_path_factory, oracle):
    return generate(oracle, PROMPTS, tmp_path_factory.mktemp("r") / "run", family="o", variant="base", task="t",
                    n_rollouts=20, policy=POLICY, progress=False, drift_tokens=0)


def note(table):
    return json.loads(table.schema.metadata[b"canopy_stats"])


def test_own_law_gives_the_stored_terms(drawn, oracle):
    table = rescore(oracle, drawn)
    assert table.column_names == names(STEP_COLUMNS) and note(table)["off_policy"] is False
    stored = drawn.steps()
    for name in ("prompt_id", "rollout", "step", "token_id"):
        assert table[name].to_pylist() == stored[name].to_pylist()
    for term in STEP_TERMS:
        np.testing.assert_allclose(table[term], stored[term], atol=1e-6)


def test_other_law_is_off_policy_and_exact(drawn, oracle):
    table = rescore(oracle, drawn, policy=SamplingPolicy(temperature=2.0))
    assert note(table) == {"off_policy": True, "law": "T=2 cap=4000", "model": "MarkovLM", "drawn_by": drawn.run_id}
    law = np.sqrt(TABLE[0]) / np.sqrt(TABLE[0]).sum()
    first = table.filter((table["prompt_id"].to_numpy(zero_copy_only=False) == "0") & (table["step"].to_numpy() == 0))
    np.testing.assert_allclose(first["entropy"], -(law * np.log(law)).sum(), atol=1e-6)
    np.testing.assert_allclose(first["logprob"], np.log(law)[first["token_id"].to_numpy()], atol=1e-6)


def test_token_that_the_law_cannot_draw(drawn, oracle):
    logprob = rescore(oracle, drawn, policy=SamplingPolicy(top_k=1))["logprob"].to_numpy()
    assert np.isneginf(logprob).any() and not np.isnan(logprob).any()


def test_given_token_ids(oracle):
    table = rescore(oracle, [[[1, 2, END], [3]], [[4]]], [[0], [1]])
    assert table["prompt_id"].to_pylist() == ["0"] * 4 + ["1"]
    np.testing.assert_allclose(table["logprob"], np.log([TABLE[0, 1], TABLE[1, 2], TABLE[2, END], TABLE[0, 3],
                                                         TABLE[1, 4]]), atol=1e-6)


def test_texts_by_another_tokenizer(tmp_path):
    from tiny_models import save_tiny_llama

    model = save_tiny_llama(tmp_path / "m")
    run = generate(model, ["the cat", "a dog"], tmp_path / "run", family="t", variant="base", task="t", n_rollouts=4,
                   policy=POLICY, progress=False, drift_tokens=0)
    by_tokens, by_text = rescore(model, run), rescore(model, run, by="text")
    assert by_tokens["token_id"].to_pylist() == run.steps()["token_id"].to_pylist()
    assert by_text.num_rows <= by_tokens.num_rows
    table = rescore(model, [["the cat sat"]], ["a dog"])
    assert table.num_rows == 3 and note(table)["drawn_by"] == "given rollouts"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(dict(by="letters"), "by is 'letters'"), (dict(by="text"), "only be scored by a model with a tokenizer")],
)
def test_bad_rescore(drawn, oracle, arguments, message):
    with pytest.raises(UserError, match=message):
        rescore(oracle, drawn, **arguments)


def test_rollouts_must_match_the_prompts(oracle):
    with pytest.raises(UserError, match="rollouts for 1 prompts, and 2 prompts"):
        rescore(oracle, [[[1]]], [[0], [1]])


# ---------------------------------------------------------------------------------------------------- kill and resume


@pytest.mark.slow
def test_five_kills(tmp_path):
    from stress_resume import stress

    outcome = stress(draw_slowly, kills=5, folder=tmp_path, seed=3, preload=[], report=lambda line: None)
    assert len(outcome.hits) == 5 and outcome.ok, outcome.summary()


def draw_slowly(out):
    """A run that takes about a second, most of it in drawing, in a process of its own."""
    import time

    class Slow(FakeEngine):
        def sample(self, *args):
            for rollout in super().sample(*args):
                time.sleep(0.001)
                yield rollout

    draw(out, Slow(), n_rollouts=256)


# ----------------------------------------------------------------------------------------------------------- progress


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (59.6, "1 min 0 s"), (200, "3 min 20 s"),
                                               (7260, "2 h 1 min")])
def test_duration(seconds, text):
    assert duration(seconds) == text


def test_sparse_lines_without_a_terminal(tmp_path, capsys):
    draw(tmp_path / "run", progress=True)
    told = capsys.readouterr().err
    assert told.startswith("fake/base/chain: 500 of 500 rollouts, ") and "tokens/s" in told and told.count("\n") == 1
    draw(tmp_path / "run", progress=True)
    assert capsys.readouterr().err == ""


def test_quiet(tmp_path, capsys):
    draw(tmp_path / "run", progress=False)
    assert capsys.readouterr().err == ""


def test_line_tells_rate_and_time_left(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("canopy_stats.progress.time.monotonic", lambda: now[0])
    bar = Progress("x", total=100, done=20, show=False)
    now[0] = 10.0
    for _ in range(20):
        bar.add(50)
    assert bar.line() == "x: 40 of 100 rollouts, 100 tokens/s, 30 s left"
