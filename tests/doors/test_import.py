"""Rollouts drawn elsewhere become runs: every term with the model, bounds or lengths without; the check sees lies."""

import json
import re

import numpy as np
import pytest
import torch
from tiny_models import save_tiny_llama

import canopy_stats as cs
from canopy_stats.checks import check
from canopy_stats.doors.importing import import_rollouts
from canopy_stats.runs import generate
from canopy_stats.schema import STEP_TERMS, Caution, SamplingPolicy, UserError
from canopy_stats.store import open_run

PROMPTS = ["the cat sat", "a red bird flew over the hill", "it was"]
NAMES = {"family": "tiny", "variant": "instruct", "task": "walk"}
LAW = SamplingPolicy(temperature=0.9, top_k=15, max_new_tokens=14)
QUIET = pytest.mark.filterwarnings("ignore::canopy_stats.schema.Caution")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny_llama(tmp_path_factory.mktemp("m") / "tiny")


@pytest.fixture(scope="module")
def own(model, tmp_path_factory):
    return draw(model, tmp_path_factory.mktemp("r") / "own", LAW)


def draw(model, out, law, n=12, **options):
    return generate(str(model), PROMPTS, out, **NAMES, n_rollouts=n, policy=law, progress=False, drift_tokens=0, seed=3,
                    **options)


def exported(run, **more):
    """A run as somebody would log it, one completion a row; ``more`` maps fields to functions of a rollout's row."""
    source = {p.prompt_id: p.source for p in run.prompts()}
    return [{"prompt": source[row["prompt_id"]], "token_ids": row["token_ids"], "finish_reason": row["finish_reason"],
             **{name: value(row) for name, value in more.items()}} for row in run.rollouts().to_pylist()]


def written(rows, path):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def imported(source, out, **options):
    return import_rollouts(source, out, **{**NAMES, "progress": False, **options})


# --- with the model ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def again(own, model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("a")
    return imported(written(exported(own), folder / "log.jsonl"), folder / "run", model=str(model), policy=LAW)


def test_a_run_without_its_terms_gets_the_same_ones_back(own, again):
    old, new = own.steps().to_pandas(), again.steps().to_pandas()
    assert (old["token_id"] == new["token_id"]).all() and len(old) == len(new)
    boundary = np.abs(old["kept_mass"] - new["kept_mass"]) > 1e-4
    assert boundary.sum() <= 0.005 * len(old)
    for name in STEP_TERMS:
        assert np.abs(old[name] - new[name])[~boundary].max() < 1e-4, name


def test_and_the_same_metrics(own, again):
    old, new = (cs.measure(run, embedder="tfidf") for run in (own, again))
    numbers = old.select_dtypes("number").columns.drop("seed")
    np.testing.assert_allclose(new[numbers], old[numbers], atol=1e-4, rtol=1e-4)
    assert new["engine"].unique().tolist() == ["imported"] and list(new["prompt_hash"]) == list(old["prompt_hash"])


@pytest.mark.slow
def test_everything_takes_it(again, own):
    assert check(again).ok, str(check(again))
    assert len(cs.rho(again, n_boot=0).table) and len(cs.panel([again], embedder="tfidf")) == 3
    assert len(cs.judge(again, cs.EmbeddingJudge(threshold=0.5, embedder="tfidf"), m=6))
    assert len(cs.rescore(again.manifest["origin"]["model"], again)) == again.n_tokens


@pytest.mark.slow
def test_an_interrupted_import_goes_on(own, model, tmp_path, monkeypatch):
    from canopy_stats.store import plan

    rows = written(exported(own), tmp_path / "log.jsonl")
    monkeypatch.setattr(plan, "ROLLOUTS_PER_SHARD", 4)
    whole = imported(rows, tmp_path / "whole", model=str(model), policy=LAW)
    seen = []

    def stop(self, shard, *args, **options):
        if seen:
            raise KeyboardInterrupt
        seen.append(shard)
        return written_shard(self, shard, *args, **options)

    from canopy_stats.store import RunWriter

    written_shard = RunWriter.write_shard
    monkeypatch.setattr(RunWriter, "write_shard", stop)
    with pytest.raises(KeyboardInterrupt):
        imported(rows, tmp_path / "part", model=str(model), policy=LAW)
    monkeypatch.setattr(RunWriter, "write_shard", written_shard)
    assert not open_run(tmp_path / "part", allow_partial=True).complete
    assert imported(rows, tmp_path / "part", model=str(model), policy=LAW).content_hash == whole.content_hash


def test_other_completions_are_another_run(again, own, model):
    with pytest.raises(UserError, match="completions_sha256"):
        imported(exported(own)[::-1], again.path, model=str(model), policy=LAW)


@pytest.mark.slow
def test_transformers_own_draws_hold(model, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    net, words = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32), AutoTokenizer.from_pretrained(model)
    torch.manual_seed(5)
    rows = []
    for text in PROMPTS:
        ids = words.apply_chat_template([{"role": "user", "content": text}], add_generation_prompt=True,
                                        return_dict=True, return_tensors="pt")["input_ids"]
        out = net.generate(ids, do_sample=True, top_k=8, temperature=1.2, max_new_tokens=12, num_return_sequences=40,
                           pad_token_id=0)
        rows.append({"prompt": text, "completions": out[:, ids.shape[1]:].tolist()})
    law = SamplingPolicy(temperature=1.2, top_k=8, max_new_tokens=12)
    with pytest.raises(UserError, match="goes on after the end token 2"):
        imported(rows, tmp_path / "padded", model=str(model), policy=law)
    with pytest.warns(Caution, match="were cut there"):
        run = imported(rows, tmp_path / "run", model=str(model), policy=law, after_end="cut")
    assert check(run).ok, str(check(run))


LIES = {
    "temperature": ({"temperature": 0.5}, {}, {}, r"temperature 0\.(4|5)"),
    "filter": ({"top_k": 5}, {}, {}, "top-k 5"),
    "no filter": ({}, {"top_k": 5}, {}, "no filter"),
    "template": ({}, {}, {"chat": False}, "without a chat template"),
}


@pytest.mark.slow
@QUIET
@pytest.mark.parametrize("lie", LIES)
def test_planted_lies_are_named(lie, model, tmp_path):
    drawn, claimed, options, name = LIES[lie]
    run = draw(model, tmp_path / "own", SamplingPolicy(max_new_tokens=14, **drawn), n=40, **options)
    claim = imported(exported(run), tmp_path / "run", model=str(model),
                     policy=SamplingPolicy(max_new_tokens=14, **claimed))
    report = check(claim)
    assert not report.ok and re.search(name, report.suspicion), str(report)
    assert report.suspicion in str(report)


@pytest.mark.slow
def test_another_model_is_named(model, tmp_path):
    other = save_tiny_llama(tmp_path / "other", seed=1)
    run = draw(other, tmp_path / "own", SamplingPolicy(max_new_tokens=14), n=40)
    claim = imported(exported(run), tmp_path / "run", model=str(model), policy=SamplingPolicy(max_new_tokens=14))
    report = check(claim)
    assert not report.ok and "another checkpoint" in report.suspicion, str(report)


@pytest.mark.slow
@QUIET
def test_tokens_that_the_law_cannot_draw_are_counted_and_leave_the_entropies(model, own, tmp_path):
    run = imported(exported(own), tmp_path / "run", model=str(model), policy=SamplingPolicy(top_k=2, max_new_tokens=14))
    found = {f.name: f for f in check(run).findings}["tokens that the law cannot draw"]
    assert found.ok is False and found.value > 0.05
    measured = cs.measure(run)
    assert np.isfinite(measured["CE"]).all() and measured["CE_cv"].isna().all()


def test_texts_are_tokenised_and_it_is_said(own, model, tmp_path):
    rows = [{**row, "token_ids": None, "completion": text} for row, text in zip(
        exported(own), own.rollouts()["text"].to_pylist(), strict=True)]
    with pytest.warns(Caution, match="36 completions came as texts and were tokenised"):
        run = imported(rows, tmp_path / "run", model=str(model), policy=LAW)
    assert run.config.model["token_ids"] == "tokenised"
    assert any("tokenised" in line for line in run.manifest["config"]["model"]["cautions"])
    # Special tokens that the model drew are no part of the texts.
    lengths = zip(run.rollouts()["length"].to_pylist(), own.rollouts()["length"].to_pylist(), strict=True)
    assert all(0 < new <= old for new, old in lengths)


def test_a_law_that_nobody_stated_is_assumed_and_said(own, model, tmp_path):
    with pytest.warns(Caution, match="No law was stated: T=1 cap=14 is assumed"):
        imported(exported(own), tmp_path / "run", model=str(model))


@pytest.mark.slow
def test_prompt_ids_of_the_log_that_the_template_does_not_make_are_said(own, model, tmp_path):
    rows = [{**row, "prompt_token_ids": [1, 7, 8]} for row in exported(own) if row["prompt"] == PROMPTS[0]]
    with pytest.warns(Caution, match="token ids of 1 prompts are not those"):
        run = imported(rows, tmp_path / "run", model=str(model), policy=LAW)
    assert run.prompts()[0].token_ids == (1, 7, 8)
    assert {f.name: f.ok for f in check(run).findings}["prompts rebuilt"] is False


# --- numbers of rollouts ----------------------------------------------------------------------------------------


def uneven(own):
    """13, 5 and 1 rollouts: the first prompt's cross a shard."""
    rows = exported(own)
    return [*rows[:12], rows[0], *rows[12:17], rows[24]]


@pytest.mark.slow
@QUIET
def test_unequal_numbers_of_rollouts(own, model, tmp_path):
    run = imported(uneven(own)[:-1], tmp_path / "run", model=str(model), policy=LAW)
    assert run.counts == [13, 5] and run.config.n_rollouts == 13 and open_run(run.path).complete
    measured = cs.measure(run, embedder="tfidf").set_index("prompt_id")
    assert measured["M"].tolist() == [13, 5]
    rows = run.rollouts().to_pandas()
    second = rows[rows["prompt_id"] == "1"]
    assert measured.loc["1", "CE"] == pytest.approx(second["entropy_sum"].mean())
    assert measured.loc["1", "se_N"] == pytest.approx(second["length"].std(ddof=1) / np.sqrt(5))
    assert check(run, n_sample=40).ok and len(cs.rho(run, n_boot=0).table)


def test_one_completion_of_a_prompt_has_what_is_defined_for_one(own, model, tmp_path):
    with pytest.warns(Caution, match=r"1 prompt\(s\) have a single rollout \(2\)"):
        run = imported(uneven(own), tmp_path / "run", model=str(model), policy=LAW)
        measured = cs.measure(run, embedder="tfidf").set_index("prompt_id")
    one = measured.loc["2"]
    assert one["M"] == 1 and np.isfinite([one["CE"], one["R_bar"], one["N_bar"]]).all()
    assert one[["D", "VS", "cov_NR", "se_N", "rho_pearson"]].isna().all()
    assert measured.loc["0", "D"] > 0
    with pytest.raises(UserError, match="one rollout each, and diversity needs two"), pytest.warns(Caution):
        cs.panel([run], embedder="tfidf")


# --- without the model ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bounded(model, tmp_path_factory):
    """A run of the full law, and its log with the five likeliest tokens of 27 at each step."""
    from canopy_stats.generation.plain import plain_logits
    from canopy_stats.generation.torch_engine import load_engine
    from canopy_stats.schema import ModelSource

    folder = tmp_path_factory.mktemp("b")
    run = draw(model, folder / "own", SamplingPolicy(max_new_tokens=14))
    engine, prompts = load_engine(ModelSource(str(model), chat=True)), {p.prompt_id: p for p in run.prompts()}

    def logged(row, k=5):
        logits = plain_logits(engine.model, prompts[row["prompt_id"]].token_ids, row["token_ids"]).double()
        return torch.log_softmax(logits, -1)

    rows = exported(run, logprobs=lambda row: logged(row)[range(len(row["token_ids"])), row["token_ids"]].tolist(),
                    top_logprobs=lambda row: logged(row).topk(5, -1).values.tolist())
    return run, imported(rows, folder / "log", tokenizer=str(model), policy=run.config.policy), rows


@pytest.mark.slow
@QUIET
def test_the_interval_holds_the_true_entropy_of_every_rollout(bounded):
    exact, log, _ = bounded
    true, found = exact.rollouts().to_pandas(), log.rollouts().to_pandas()
    assert log.config.terms == "interval" and "entropy_sum" not in found
    assert (found["entropy_sum_low"] <= true["entropy_sum"] + 1e-6 * true["length"]).all()
    assert (true["entropy_sum"] <= found["entropy_sum_high"] + 1e-6 * true["length"]).all()
    assert (found["entropy_rate_high"] > found["entropy_rate_low"]).all()
    np.testing.assert_allclose(found["surprisal_sum"], true["surprisal_sum"], atol=1e-3)


def test_bounds_are_carried_through_measure_and_panel(bounded):
    exact, log, _ = bounded
    true, found = cs.measure(exact, embedder="tfidf"), cs.measure(log, embedder="tfidf")
    assert not {"R_bar", "CE", "cov_NR", "CE_cv"} & set(found)
    for name in ("R_bar", "CE", "cov_NR", "BF", "GenPPL"):
        assert (found[f"{name}_low"] <= true[name] + 1e-5).all() and (true[name] <= found[f"{name}_high"] + 1e-5).all()
    for name in ("D", "VS", "N_bar", "se_D", "cov_DN"):
        np.testing.assert_allclose(found[name], true[name], atol=1e-4)
    both = cs.panel([exact, _renamed(log)], embedder="tfidf", entropy="interval")
    assert "R_bar" not in both and np.isfinite(both[["R_bar_low", "R_bar_high"]].to_numpy()).all()
    own = both[both["model_variant"] == "instruct"]
    assert (own["R_bar_low"] == own["R_bar_high"]).all() and len(both) == 6


def _renamed(run):
    from dataclasses import replace

    return replace(run, config=replace(run.config, variant="elsewhere"))


def test_what_needs_exact_entropies_is_refused_by_name(bounded, tmp_path):
    _, log, _ = bounded
    with pytest.raises(UserError, match=r"1 of 1 runs have no exact entropies: tiny/instruct/walk \(interval\)"):
        cs.panel([log], embedder="tfidf")
    for what in (lambda: cs.rho(log, n_boot=0), lambda: check(log), lambda: cs.measure(log, cap=3)):
        with pytest.raises(UserError, match="only bounds of them: no exact entropies.*model="):
            what()
    panel = cs.panel([log], embedder="tfidf", entropy="interval")
    with pytest.raises(UserError, match="R_bar"):
        cs.slope_change(panel)


def test_panels_of_bounds_and_of_nothing_are_written_and_read(bounded, tmp_path):
    from canopy_stats.panels import read_panel, write_panel

    for kind in ("interval", "missing"):
        panel = cs.panel([bounded[1]], embedder="tfidf", entropy=kind)
        for name in ("p.parquet", "p.csv"):
            back = read_panel(write_panel(panel, tmp_path / name))
            assert list(back.columns) == list(panel.columns) and back["N_bar"].equals(panel["N_bar"])


def test_without_log_probabilities_lengths_and_texts_remain(bounded, model, tmp_path):
    exact, _, rows = bounded
    plain = [{k: v for k, v in row.items() if "logprobs" not in k} for row in rows]
    with pytest.warns(Caution, match="No entropies: neither a model nor log-probabilities"):
        run = imported(plain, tmp_path / "run", tokenizer=str(model))
    true, found = cs.measure(exact, embedder="tfidf"), cs.measure(run, embedder="tfidf")
    np.testing.assert_allclose(found[["D", "VS", "N_bar"]], true[["D", "VS", "N_bar"]], atol=1e-9)
    assert len(cs.judge(run, cs.EmbeddingJudge(threshold=0.5, embedder="tfidf"), m=6)) == 3
    assert not [c for c in found if c.startswith(("R_bar", "CE", "cov_NR"))]
    with pytest.raises(UserError, match=r"entropy='missing'"):
        cs.panel([run], embedder="tfidf", entropy="interval")
    assert len(cs.panel([_renamed(run), exact], embedder="tfidf", entropy="missing")) == 6


def test_log_probabilities_without_token_ids(bounded, tmp_path):
    _, log, rows = bounded
    texts = log.rollouts()["text"].to_pylist()
    told = [{k: v for k, v in {**row, "completion": text}.items() if k != "token_ids"} for row, text in zip(
        rows, texts, strict=True)]
    with pytest.warns(Caution, match="ids are stored as unknown"):  # the vocabulary may be said too
        run = imported(told, tmp_path / "run", vocabulary=27)
    assert set(run.steps()["token_id"].to_pylist()) == {-1}
    assert run.rollouts()["entropy_sum_low"].to_pylist() == log.rollouts()["entropy_sum_low"].to_pylist()
