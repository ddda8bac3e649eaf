"""What a study would take: arithmetic against hand-computed numbers, and nothing loaded."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from small_studies import write_study

from canopy_stats.schema import UserError
from canopy_stats.study import plan, read_study
from canopy_stats.study.pipeline import run_stages
from canopy_stats.study.spec import Checkpoint

STUDIES = Path(__file__).resolve().parents[2] / "analysis" / "studies"

FAMILY = [{"name": "ash", "base": "org/ash-8B-base", "tuned": "org/ash-500m-chat"}]
LARGE = {"families": FAMILY, "rollouts": 100, "law": {"max_new_tokens": 4000}, "embedders": ["minilm"],
         "prompts_per_task": 3}


def planned(folder, assumed=None, **more):
    study = read_study(write_study(folder, **LARGE | more)).study
    return study, plan.plan(study, folder / "out", assumed)


def test_numbers_by_hand(tmp_path):
    study, rows = planned(tmp_path)
    # three prompts x 100 rollouts; a quarter of 4,000 tokens each; 43 bytes a token; 20,000 / 8 tokens a second
    base, tuned = rows.to_dict("records")
    assert base == {
        "part": "main", "family": "ash", "variant": "base", "task": "walk", "prompts": 3, "rollouts": 300,
        "stored_tokens": 0, "most_tokens": 1_200_000, "expected_tokens": 300_000, "length_from": "assumed",
        "bytes": 12_900_000, "tokens_per_second": 2500.0, "hours": pytest.approx(300_000 / 2500 / 3600)}
    assert (tuned["variant"], tuned["tokens_per_second"]) == ("instruct", 5000.0)
    assert plan.embeddings(study, tmp_path / "out") == [
        {"embedder": "minilm", "texts": 600, "bytes": 600 * 384 * 4}]


def test_given_length_and_speed_replace_the_guesses(tmp_path):
    _, rows = planned(tmp_path, plan.Assumptions(mean_length=120, tokens_per_second=1000))
    assert set(rows["expected_tokens"]) == {36_000} and set(rows["length_from"]) == {"given"}
    assert rows["hours"].sum() == pytest.approx(2 * 36_000 / 1000 / 3600)
    _, capped = planned(tmp_path, plan.Assumptions(mean_length=120), law={"max_new_tokens": 50})
    assert set(capped["expected_tokens"]) == {15_000}


def test_ablations_draw_again_only_where_the_law_or_the_prompts_change(tmp_path):
    (tmp_path / "pool.jsonl").write_text('{"prompt": "a", "answer": "b"}\n')
    study, rows = planned(tmp_path, embedders=["minilm", "tfidf"], judge={"kind": "embedding", "threshold": 0.5},
                          ablations=[{"name": "full", "law": {"max_new_tokens": 400}},
                                     {"name": "shots", "few_shot": {"pool": "pool.jsonl", "shots": 1}},
                                     {"name": "best", "reward": "org/r"}])
    assert rows.groupby("part", sort=False)["expected_tokens"].sum().to_dict() == {
        "main": 600_000, "full": 60_000, "shots": 600_000}
    # the main embedder reads the texts of main, full and shots; the second those of main
    assert {e["embedder"]: e["texts"] for e in plan.embeddings(study, tmp_path / "out")} == {
        "minilm": 1800, "tfidf": 600}
    assert plan.verdicts(study, rows) == 3 * 2 * 3 * 20 * 19


def test_prompts_per_task_counts(tmp_path):
    _, rows = planned(tmp_path, prompts_per_task=2)
    assert set(rows["prompts"]) == {2} and set(rows["rollouts"]) == {200}
    with pytest.raises(UserError, match="walk.jsonl has 10 prompts"):
        planned(tmp_path, prompts_per_task=11)


@pytest.mark.parametrize(("model", "size"), [
    ("Qwen/Qwen3-8B-Base", 8), ("Qwen/Qwen2.5-7B", 7), ("meta-llama/Llama-3.1-8B", 8), ("google/gemma-3-12b-pt", 12),
    ("a/SmolLM2-135M-Instruct.Q4_1.gguf", 0.135), ("a/Qwen3-0.6B", 0.6), ("org/4bit", None), ("org/base", None)])
def test_size_from_a_name(model, size):
    assert plan.billions(model) == size


def test_size_from_weights(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"0" * 4_000_000)
    assert plan.billions(tmp_path) == pytest.approx(0.002)
    assert plan.guessed_speed(Checkpoint(model=tmp_path)) == plan.FASTEST


@pytest.mark.parametrize("options", [{"mean_length": 0}, {"tokens_per_second": -1}, {"mean_length": float("nan")}])
def test_impossible_assumptions_are_refused(options):
    with pytest.raises(UserError, match="must be a positive number"):
        plan.Assumptions(**options)


@pytest.mark.slow
def test_stored_rollouts_tell_the_length(make_study, tmp_path):
    study = read_study(make_study()).study
    run_stages(study, tmp_path / "out", ["generate"], say=lambda _: None, progress=False)
    rows = plan.plan(study, tmp_path / "out")
    assert set(rows["length_from"]) == {"its own rollouts"} and set(rows["hours"]) == {0}
    assert list(rows["stored_tokens"]) == list(rows["expected_tokens"])
    more = read_study(make_study(tasks={"walk": "walk.jsonl", "again": "walk.jsonl"})).study
    rows = plan.plan(more, tmp_path / "out").set_index(["variant", "task"])
    assert rows.loc[("base", "again"), "length_from"] == "other base runs"
    assert rows.loc[("base", "again"), "expected_tokens"] == rows.loc[("base", "walk"), "stored_tokens"]


@pytest.mark.slow
@pytest.mark.skipif(not STUDIES.is_dir(), reason="a checkout carries the studies")
def test_the_paper_is_planned_without_loading_anything():
    code = ("import sys; from canopy_stats.cli import main; main(['plan', sys.argv[1], '--out', '/nowhere']); "
            "print(sorted({'torch', 'transformers', 'huggingface_hub', 'sentence_transformers'} & set(sys.modules)))")
    told = subprocess.run([sys.executable, "-c", code, str(STUDIES / "paper.yaml")], capture_output=True, text=True)
    lines = told.stdout.splitlines()
    assert lines[-1] == "[]" and told.stderr == ""
    assert "Rollouts:   1,200,000 in 120 runs" in lines
    assert any(line.startswith("Tokens:     1,200.0 M expected, 4,800.0 M at most") for line in lines)
    assert any("a guess" in line for line in lines) and any("43 bytes a token" in line for line in lines)
