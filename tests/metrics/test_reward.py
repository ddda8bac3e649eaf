"""Rewards against transformers used directly, the best of each prompt, and the measures of a selection."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from markov_runs import decode, draw, rollouts_of, store_run, table

import canopy_stats as cs
from canopy_stats.metrics import diversity_metrics, measure, tree_metrics
from canopy_stats.metrics.reward import best_rollouts, keep_best, reward
from canopy_stats.metrics.subset import Selection
from canopy_stats.panels import validate
from canopy_stats.schema import PANEL_COLUMNS, Prompt, RunConfig, SamplingPolicy, UserError, names
from canopy_stats.store import RunWriter, prompts_hash

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

ALDER = Path(__file__).parents[2] / "data" / "models" / "alder"
SOURCES = ["Name a tree.", [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Name two."}]]


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """A conversational reward model: a random Llama with alder's tokenizer and chat template."""
    folder = tmp_path_factory.mktemp("llama") / "judge-of-trees"
    tokenizer = transformers.AutoTokenizer.from_pretrained(ALDER / "instruct")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, pad_token_id=tokenizer.pad_token_id, bos_token_id=0,
        eos_token_id=1, num_labels=1, initializer_range=0.3)
    transformers.LlamaForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def deberta(tmp_path_factory):
    """A reward model of text pairs: a random DeBERTa, whose tokenizer has no chat template and tells which text a
    token belongs to."""
    from tokenizers.processors import TemplateProcessing

    folder = tmp_path_factory.mktemp("deberta") / "pairs"
    tokenizer = transformers.AutoTokenizer.from_pretrained(ALDER / "base")
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|begin|> $A <|end|>", pair="<|begin|> $A <|end|> $B:1 <|end|>:1",
        special_tokens=[("<|begin|>", 0), ("<|end|>", 1)])
    torch.manual_seed(1)
    config = transformers.DebertaV2Config(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=256, relative_attention=True, position_buckets=32, pos_att_type=["p2c", "c2p"],
        type_vocab_size=2, pad_token_id=tokenizer.pad_token_id, num_labels=1, initializer_range=0.3)
    transformers.DebertaV2ForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["model_input_names"] = ["input_ids", "token_type_ids", "attention_mask"]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def worded_run(path, m=9, sources=SOURCES):
    """A run whose prompts are words, with rollouts of very different lengths, some empty and some equal."""


    listed = [Prompt(f"p{i}", hashlib.sha256(str(s).encode()).hexdigest(), s, (i,)) for i, s in enumerate(sources)]
    config = RunConfig("oak", "instruct", "trees", m, 0, SamplingPolicy(max_new_tokens=40), "numpy", 1,
                       prompts_hash(listed), {"dtype": "float64"}, "test")
    drawn = draw([table(0.02, 0.3)] * len(listed), m, 40, np.random.default_rng(4))
    with RunWriter(path, config, listed) as writer:
        writer.write_shard(writer.missing[0], list(rollouts_of(drawn, m)), decode, batch_size=1)
        writer.finish(None)
        return writer.run()


@pytest.fixture
def run(tmp_path):
    return worded_run(tmp_path / "run")


def quiet(run, model, **options):
    return reward(run, model, progress=False, **options)


def directly(folder, run, encode):
    """One text at a time through transformers, without padding."""
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    sources = {p.prompt_id: p.source for p in run.prompts()}
    values = []
    for row in run.rollouts(["prompt_id", "text"]).to_pylist():
        with torch.no_grad():
            values.append(model(**encode(tokenizer, sources[row["prompt_id"]], row["text"].strip())).logits.item())
    return np.array(values)


def in_template(tokenizer, source, text):
    said = [{"role": "user", "content": source}] if isinstance(source, str) else source
    return tokenizer.apply_chat_template([*said, {"role": "assistant", "content": text}], return_tensors="pt",
                                         return_dict=True)


def in_pairs(tokenizer, source, text):
    words = source if isinstance(source, str) else "[system]\nBe brief.\n\n[user]\nName two."
    return tokenizer(words, text, return_tensors="pt")


# ------------------------------------------------------------------------------------------------------------ rewards


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_a_conversation_is_scored_as_transformers_does_one_by_one(run, llama, batch_size):
    out = quiet(run, llama, batch_size=batch_size)
    expected = directly(llama, run, in_template)
    np.testing.assert_allclose(out["reward"], expected, atol=1e-5)
    assert np.ptp(expected) > 0.1  # the texts do differ
    rollouts = run.rollouts(["prompt_id", "rollout"]).to_pandas()
    assert out[["prompt_id", "rollout"]].equals(rollouts) and not out["truncated"].any()


@pytest.mark.slow
def test_the_pairs_tokenizer_tells_its_texts_apart(deberta):
    made = transformers.AutoTokenizer.from_pretrained(deberta)("oak", "elm")
    assert set(made["token_type_ids"]) == {0, 1}


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [1, 7])
def test_a_pair_is_scored_as_transformers_does_one_by_one(run, deberta, batch_size):
    np.testing.assert_allclose(quiet(run, deberta, batch_size=batch_size)["reward"], directly(deberta, run, in_pairs),
                               atol=1e-5)


@pytest.mark.slow
def test_without_a_padding_token_texts_go_one_by_one(run, llama):
    model = transformers.AutoModelForSequenceClassification.from_pretrained(llama, dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(llama)
    model.config.pad_token_id = None
    np.testing.assert_allclose(quiet(run, model, tokenizer=tokenizer)["reward"], directly(llama, run, in_template),
                               atol=1e-5)


@pytest.mark.slow
def test_equal_texts_tie_exactly(run, llama):
    out = quiet(run, llama, batch_size=4).assign(text=[t.strip() for t in run.rollouts()["text"].to_pylist()])
    groups = out.groupby(["prompt_id", "text"])["reward"]
    assert groups.size().max() > 1 and groups.nunique().eq(1).all()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["llama", "deberta"])
def test_what_is_cut_is_the_end_and_is_counted(run, kind, request):
    folder = request.getfixturevalue(kind)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    encode = in_template if kind == "llama" else in_pairs
    limit = 60
    out = quiet(run, folder, max_length=limit)

    def cut(tokenizer, source, text):
        made = encode(tokenizer, source, text)
        if kind == "deberta" and made["input_ids"].shape[1] > limit:  # the closing token stays
            return {name: torch.cat([value[:, :limit - 1], value[:, -1:]], 1) for name, value in made.items()}
        return {name: value[:, :limit] for name, value in made.items()}

    np.testing.assert_allclose(out["reward"], directly(folder, run, cut), atol=1e-5)
    sources = {p.prompt_id: p.source for p in run.prompts()}
    lengths = [encode(tokenizer, sources[r["prompt_id"]], r["text"].strip())["input_ids"].shape[1]
               for r in run.rollouts().to_pylist()]
    assert out["truncated"].tolist() == [n > limit for n in lengths] and 0 < out["truncated"].sum() < len(out)


@pytest.mark.slow
def test_rewards_are_kept_by_the_models_hash(run, llama, monkeypatch, tmp_path):
    first = quiet(run, llama)
    assert first.attrs["reward_model"].startswith("judge-of-trees@")
    copy = tmp_path / "judge-of-trees"
    shutil.copytree(llama, copy)
    with monkeypatch.context() as context:
        context.setattr("canopy_stats.metrics.reward._scored", lambda *a: pytest.fail("scored again"))
        again = quiet(run, copy)
        assert again.equals(first) and again.attrs == first.attrs
        for change in ({"think": "drop"}, {"max_length": 50}, {"dtype": "bfloat16"}):
            with pytest.raises(pytest.fail.Exception):
                quiet(run, llama, **change)
    template = copy / "chat_template.jinja"
    template.write_text(template.read_text().replace("<|assistant|>", "<|user|>") + " ")
    assert quiet(run, copy).attrs != first.attrs


@pytest.mark.slow
def test_a_loaded_model_needs_its_tokenizer(run, llama):
    model = transformers.AutoModelForSequenceClassification.from_pretrained(llama, dtype=torch.float32)
    with pytest.raises(UserError, match="needs its loaded tokenizer"):
        quiet(run, model)
    out = quiet(run, model, tokenizer=transformers.AutoTokenizer.from_pretrained(llama))
    np.testing.assert_allclose(out["reward"], quiet(run, llama)["reward"], atol=1e-6)


@pytest.mark.slow
def test_what_is_no_reward_model_is_refused(run, llama, tmp_path):
    model = transformers.AutoModelForSequenceClassification.from_pretrained(llama, num_labels=3,
                                                                            ignore_mismatched_sizes=True)
    with pytest.raises(UserError, match="has 3 outputs; a reward model has one"):
        quiet(run, model, tokenizer=transformers.AutoTokenizer.from_pretrained(llama))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="can't be loaded .*give the folder or hub name"):
        quiet(run, tmp_path / "empty")
    with pytest.raises(UserError, match="max_length is 0; it must be a whole number"):
        quiet(run, llama, max_length=0)
    with pytest.raises(UserError, match="no dtype 'int8'"):
        quiet(run, llama, dtype="int8")
    ids = store_run(tmp_path / "ids", prompts=1, m=4)
    with pytest.raises(UserError, match="prompts are token ids; a reward model reads texts"):
        quiet(ids, llama)


@pytest.mark.slow
def test_a_template_that_refuses_a_role_is_named(tmp_path, llama):
    tool = worded_run(tmp_path / "tool", sources=[[{"role": "tool", "content": "42"}]])
    with pytest.raises(UserError, match="chat template refuses a prompt .*unknown role"):
        quiet(tool, llama)


# --------------------------------------------------------------------------------------------------- the best rollouts


def rewards(values):
    """A table of rewards from {prompt: [reward of rollout 0, 1, ...]}."""
    return pd.DataFrame([{"prompt_id": p, "rollout": i, "reward": v} for p, own in values.items()
                         for i, v in enumerate(own)])


@pytest.mark.parametrize("m, share, kept", [(10, 0.7, 7), (24, 0.7, 17), (100, 0.7, 70), (3, 0.7, 3), (10, 0.3, 3),
                                            (100, 0.07, 7), (100, 0.55, 55), (7, 1, 7), (1000, 0.001, 1)])
def test_how_many_are_kept(m, share, kept):
    """The smallest number that is at least the share. In floating point 0.07 · 100 is a little above 7."""
    chosen = keep_best(rewards({"a": list(range(m))}), share)
    assert chosen.kept.sum() == kept
    assert chosen.kept.tolist() == [False] * (m - kept) + [True] * kept


def test_each_prompt_keeps_its_own_best_and_ties_go_to_the_lower_index():
    frame = rewards({"b": [0.1, 0.9, 0.5, 0.5], "a": [7, 7, 7, 7], "c": [-3, -1, -2, -9]})
    assert keep_best(frame, 0.5).kept.tolist() == [False, True, True, False, True, True, False, False,
                                                   False, True, True, False]
    mixed = frame.sample(frac=1, random_state=0)
    order = mixed.index
    np.testing.assert_array_equal(keep_best(mixed, 0.5).kept, keep_best(frame, 0.5).kept[order])


def test_the_kept_are_never_worse_than_the_others():
    frame = rewards({p: list(np.random.default_rng(i).normal(size=13).round(1)) for i, p in enumerate("abcd")})
    kept = keep_best(frame, 0.6).kept
    for _, own in frame.groupby("prompt_id"):
        mask = kept[own.index]
        assert own["reward"][mask].min() >= own["reward"][~mask].max() and mask.sum() == 8


@pytest.mark.parametrize("share", [0, -0.1, 1.1])
def test_a_share_is_a_share(share):
    with pytest.raises(UserError, match="above 0 and at most 1"):
        keep_best(rewards({"a": [1, 2]}), share)
    with pytest.raises(UserError, match="not numbers"):
        keep_best(rewards({"a": [1, np.nan]}), 0.5)


# ------------------------------------------------------------------------------------------------ measuring a selection


@pytest.fixture(scope="module")
def walk(tmp_path_factory):
    return store_run(tmp_path_factory.mktemp("walk") / "run", prompts=4, m=20, cap=40, seed=2)


def test_only_the_selected_rollouts_are_measured(walk):
    mask = np.random.default_rng(1).random(80) < 0.6
    out, vectors = measure(walk, embedder="tfidf", rollouts=mask), cs.embed(walk, "tfidf").vectors
    rollouts = walk.rollouts().to_pandas()
    assert list(out) == list(measure(walk)) and out["prompt_id"].tolist() == [f"p{i:02d}" for i in range(4)]
    for row, (_, group) in zip(out.itertuples(), rollouts[mask].groupby("prompt_id"), strict=True):
        tree, own = tree_metrics(group["length"], group["entropy_sum"]), diversity_metrics(vectors[group.index])
        assert len(group) == row.M
        assert (row.CE, row.N_bar, row.R_bar, row.D) == pytest.approx(
            (tree["CE"], tree["mean_length"], tree["mean_rate"], own["D"]))
        assert row.truncation_rate == pytest.approx((group["finish_reason"] == "length").mean())
    assert out["law"].eq("T=1 cap=40, a selection of rollouts").all()


def test_a_selection_has_no_control_variates(walk):
    out = measure(walk, embedder="tfidf", rollouts=np.arange(80) % 20 > 2)
    controlled = [c for c in out if c.endswith("_cv")]
    assert len(controlled) == 7 and out[controlled].isna().all(axis=None)
    rest = [c for c in names(PANEL_COLUMNS) if c not in controlled]
    assert out[rest].notna().all(axis=None)


def test_all_rollouts_measured_as_a_selection_give_the_same_raw_columns(walk):
    whole, out = measure(walk, embedder="tfidf"), measure(walk, embedder="tfidf", rollouts=np.ones(80, bool))
    same = [c for c in whole if not c.endswith("_cv") and c != "law"]
    assert out[same].equals(whole[same])


def test_a_selection_may_be_a_table(walk):
    mask = np.arange(80) % 20 > 4
    frame = walk.rollouts(["prompt_id", "rollout"]).to_pandas()
    by_mask = measure(walk, rollouts=mask)
    assert measure(walk, rollouts=frame[mask].sample(frac=1, random_state=1)).equals(by_mask)
    assert measure(walk, rollouts=frame.assign(kept=mask)).equals(by_mask)
    assert measure(walk, cap=5, rollouts=mask)["law"].eq("T=1 cap=5, a selection of rollouts").all()


@pytest.mark.parametrize("rollouts, message", [
    (np.ones(79, bool), "of 79 rollouts .* the run has 80"),
    (np.ones(80), r"shape \(80,\) and type float64; give booleans"),
    (np.arange(80) % 20 == 0, r"4 prompt\(s\) keep fewer than two rollouts \(p00"),
    (np.arange(80) < 60, r"1 prompt\(s\) keep fewer than two rollouts \(p03"),
    (pd.DataFrame({"prompt_id": ["p00"]}), "lacks rollout"),
    (pd.DataFrame({"prompt_id": ["p00", "p00"], "rollout": [1, 1]}), "names some twice"),
    (pd.DataFrame({"prompt_id": ["p00", "p99"], "rollout": [1, 1]}), "that the run does not hold"),
])
def test_what_is_no_selection_is_refused(walk, rollouts, message):
    with pytest.raises(UserError, match=message):
        measure(walk, rollouts=rollouts)


@pytest.mark.slow
def test_a_panel_of_the_best_rollouts_says_so_and_does_not_mix(run, llama):
    panel = cs.panel(run, embedder="tfidf", rollouts=best_rollouts(llama, 0.7, progress=False))
    label = quiet(run, llama).attrs["reward_model"]
    assert panel["law"].eq(f"T=1 cap=40, best 70% by {label}").all() and panel["M"].eq(7).all()
    kept = keep_best(quiet(run, llama), 0.7).kept
    own = run.rollouts().to_pandas()[kept].groupby("prompt_id")["entropy_sum"].mean()
    np.testing.assert_allclose(panel["CE"], own)
    whole = cs.panel(run, embedder="tfidf").assign(model_variant="whole")
    with pytest.raises(UserError, match="The runs differ in law"):
        validate(pd.concat([panel, whole], ignore_index=True))


def test_selections_carry_their_own_name(walk):
    kept = np.arange(80) % 2 == 0
    assert measure(walk, rollouts=Selection(kept, "every other one"))["law"].eq("T=1 cap=40, every other one").all()


def test_a_reward_model_with_made_up_weights_is_refused(run, llama, tmp_path):
    from safetensors.numpy import load_file, save_file

    folder = tmp_path / "torn"
    shutil.copytree(llama, folder)
    held = load_file(folder / "model.safetensors")
    for name in ("score.weight", "model.layers.1.mlp.down_proj.weight"):
        save_file({k: v for k, v in held.items() if k != name}, folder / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(UserError, match=f"lacks tensors .*{name}"):
            quiet(run, folder)
    (folder / "model.safetensors").write_bytes(b"\0" * 40)
    with pytest.raises(UserError, match="can't be loaded"):
        quiet(run, folder)
