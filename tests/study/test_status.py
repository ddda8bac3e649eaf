"""Status from stored hashes: what becomes stale when a prompt, the law, a model, the embedder or code changes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pandas as pd
import pytest
import yaml
from small_studies import write_prompts, write_study

import canopy_stats as cs
from canopy_stats.schema import UserError
from canopy_stats.store import glances
from canopy_stats.study import measuring, pipeline, read_study, run_study
from canopy_stats.study.ablations import parts_of
from canopy_stats.study.result import content_hash, contents

pytestmark = pytest.mark.slow  # each test runs stages of a study

RUNS = ["walk-ash-base", "walk-ash-instruct"]
LATER = ["check", "embed", "panel", "fit", "tables", "figures", "report"]


def quietly(study, out, **options):
    return run_study(study, out, say=lambda _: None, progress=False, **options)


@pytest.fixture(scope="module")
def finished(checkpoints, tmp_path_factory):
    """A finished study, to be copied."""
    folder = tmp_path_factory.mktemp("finished")
    shutil.copytree(checkpoints, folder / "models")
    file = read_study(write_study(folder))
    quietly(file.study, file.folder())
    return folder


@pytest.fixture
def folder(finished, tmp_path):
    copy = tmp_path / "study"
    shutil.copytree(finished, copy)
    return copy


def look(folder):
    """(state and why of each run, state and why of each later stage) of the study in a folder."""
    file = read_study(folder / "study.yaml")
    parts = parts_of(file.study, file.folder())
    runs, later = pipeline.runs_status(parts), pipeline.stages_status(parts)
    return ({r["run"]: (r["state"], r["why"]) for r in runs.to_dict("records")},
            {r["stage"]: made(r["state"], r["why"]) for r in later.to_dict("records")})


def made(state, why):
    """Ten prompts of one family are too few for the beta models: what lacks them is made all the same."""
    return ("done", "") if state == "incomplete" else (state, why)


def change(folder, **keys):
    values = yaml.safe_load((folder / "study.yaml").read_text())
    (folder / "study.yaml").write_text(yaml.safe_dump(values | keys))


def test_before_and_after(finished, tmp_path):
    runs, later = look(finished)
    assert runs == dict.fromkeys(RUNS, ("done", "")) and later == dict.fromkeys(LATER, ("done", ""))
    file = read_study(finished / "study.yaml")
    table = pipeline.runs_status(parts_of(file.study, file.folder()))
    stored = [cs.open_run(file.folder() / "runs" / name).rollouts(["length"])["length"].to_numpy() for name in RUNS]
    assert list(table["tokens"]) == [length.sum() for length in stored]
    assert list(table["rollouts"]) == list(table["wanted"]) == [30, 30]
    later = pipeline.stages_status(parts_of(file.study, file.folder())).set_index("stage")
    assert dict(later["state"]) == dict.fromkeys(("check", "embed", "panel", "figures", "report"), "done") | {
        "fit": "incomplete", "tables": "incomplete"}
    assert "the slope model paper_beta (instruct)" in later.loc["fit", "why"]
    assert "the length cap ended" in later.loc["fit", "why"] and "ns(" not in later.loc["fit", "why"]
    assert not pipeline.complete(file.study, file.folder())
    assert not pipeline.complete(file.study, tmp_path / "empty")
    empty = parts_of(file.study, tmp_path / "empty")
    assert set(pipeline.runs_status(empty)["state"]) == set(pipeline.stages_status(empty)["state"]) == {"missing"}


def test_status_loads_no_model_and_changes_nothing(finished):
    before = content_hash(finished / "out")
    code = ("import sys; from canopy_stats.cli import main; main(['status', sys.argv[1]]); "
            "print(sorted({'torch', 'transformers', 'matplotlib'} & set(sys.modules)))")
    told = subprocess.run([sys.executable, "-c", code, str(finished / "study.yaml")], capture_output=True, text=True)
    assert told.stdout.splitlines()[-1] == "[]" and "2 of 2 runs are done" in told.stdout and told.stderr == ""
    assert content_hash(finished / "out") == before


@pytest.mark.parametrize(("keys", "why"), [
    ({"law": {"max_new_tokens": 6, "top_k": 3}}, "changed: law.top_k"), ({"seed": 1}, "changed: seed"),
    ({"rollouts": 2}, "changed: rollouts (fewer than the 3 rollouts that are drawn)"),
    ({"prompts_per_task": 2}, "changed: prompts (prompt 'p1' is no longer there; ...)"),
    ({"rollouts": 4, "seed": 1}, "changed: rollouts, seed")])
def test_runs_of_other_settings_are_stale_and_all_that_follows(folder, keys, why):
    change(folder, **keys)
    runs, later = look(folder)
    assert runs == dict.fromkeys(RUNS, ("stale", why))
    assert {state for state, _ in later.values()} == {"stale"}


def test_another_prompt_file(folder):
    write_prompts(folder / "walk.jsonl", first=2)
    assert look(folder)[0] == dict.fromkeys(RUNS, ("stale", "changed: prompts (prompt 'p0' was edited; ...)"))


def test_where_rollouts_are_drawn_makes_none_of_them_stale(folder):
    change(folder, device="cpu", batch_size=2)
    assert look(folder)[0] == dict.fromkeys(RUNS, ("done", ""))


def test_other_weights_under_the_same_name(folder):
    config = folder / "models" / "base" / "generation_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"top_k": 7}))
    runs, _ = look(folder)
    assert runs == {"walk-ash-base": ("stale", "changed: model"), "walk-ash-instruct": ("done", "")}


def test_other_code(folder, monkeypatch):
    real = measuring.code_hash
    monkeypatch.setattr(measuring, "code_hash", lambda *names: "changed" if "panels" in names else real(*names))
    runs, later = look(folder)
    assert set(runs.values()) == {("done", "")} and later["embed"] == ("done", "")
    assert later["panel"] == ("stale", "changed: code") and later["fit"] == ("stale", "waits for panel")


def test_another_embedder_keeps_the_rollouts(folder):
    change(folder, embedders=["minilm"])
    runs, later = look(folder)
    assert set(runs.values()) == {("done", "")} and later["check"] == ("done", "")
    assert later["embed"][0] == later["panel"][0] == "stale" and "embedder.model" in later["embed"][1]
    assert later["fit"] == ("stale", "waits for panel") and later["tables"] == ("stale", "waits for embed")


def test_another_title_makes_the_report_anew_and_nothing_else(folder):
    change(folder, title="Another title")
    _, later = look(folder)
    assert later.pop("report") == ("stale", "changed: study.title")
    assert set(later.values()) == {("done", "")}


def test_an_altered_table_and_a_damaged_shard_are_seen(folder):
    (folder / "out" / "tables" / "slopes.csv").write_text("altered")
    assert look(folder)[1]["tables"] == ("stale", "altered or missing: tables/slopes.csv")
    shard = next((folder / "out" / "runs" / RUNS[0] / "steps").glob("*.parquet"))
    shard.write_bytes(b"damaged")
    runs, later = look(folder)
    assert runs[RUNS[0]] == ("partial", "1 shards are damaged") and runs[RUNS[1]] == ("done", "")
    assert later["check"] == ("stale", "waits for every run of the study")


def test_status_opens_no_run_that_is_as_it_was(folder, monkeypatch):
    monkeypatch.setattr(glances, "TOO_FRESH", 0)  # the copy is as fresh as can be
    before = look(folder)
    with monkeypatch.context() as patched:
        patched.setattr(glances, "open_run", lambda *a, **k: pytest.fail("opened"))
        assert look(folder) == before and set(before[0].values()) == {("done", "")}
    log = folder / "out" / "runs" / RUNS[1] / "shards.jsonl"
    log.write_bytes(log.read_bytes()[:-2])
    assert look(folder)[0] == {RUNS[0]: ("done", ""), RUNS[1]: ("partial", "")}


def test_what_is_damaged_is_made_again_to_the_same_content(folder):
    out = folder / "out"
    before = content_hash(out)
    next((out / "runs" / RUNS[0] / "steps").glob("*.parquet")).write_bytes(b"damaged")
    (out / "panel.parquet").write_bytes(b"damaged")
    (out / "stages" / "fit.json").write_text("{")
    (out / "figures" / "slopes.svg").unlink()
    (out / "checks.csv").unlink()
    quietly(read_study(folder / "study.yaml").study, out)
    assert content_hash(out) == before


# --- what happens to stale runs ---------------------------------------------------------------------------------


def test_stale_rollouts_are_named_and_kept_unless_that_is_asked_for(folder):
    out = folder / "out"
    change(folder, law={"max_new_tokens": 6, "top_k": 3})
    study, before = read_study(folder / "study.yaml").study, content_hash(out)
    with pytest.raises(UserError, match=r"2 of 2 runs .*changed: law.top_k.*--redraw"):
        quietly(study, out)
    assert content_hash(out) == before
    said: list[str] = []
    old = cs.open_run(out / "runs" / RUNS[0]).content_hash
    result = run_study(study, out, redraw=True, say=said.append, progress=False)
    assert result.panel["law"].unique().tolist() == ["T=1 top-k=3 cap=6"]
    assert cs.open_run(out / "stale" / f"{RUNS[0]}-1").content_hash == old
    assert any(f"moved to stale/{RUNS[0]}-1" in line for line in said)
    assert set(look(folder)[0].values()) == {("done", "")}


def test_a_study_grows_to_the_content_of_one_drawn_at_once(folder, tmp_path):
    write_prompts(folder / "walk.jsonl", count=12)
    change(folder, rollouts=4)
    runs, later = look(folder)
    assert runs == dict.fromkeys(RUNS, ("partial", "to grow: prompts and rollouts"))
    assert {state for state, _ in later.values()} == {"stale"}
    study = read_study(folder / "study.yaml").study
    quietly(study, folder / "out")
    quietly(study, tmp_path / "at-once")
    assert content_hash(folder / "out") == content_hash(tmp_path / "at-once")
    assert look(folder)[0] == dict.fromkeys(RUNS, ("done", ""))


def only_drawn(study, out):
    """Draw the runs alone; their contents and stamps."""
    pipeline.run_stages(study, out, ["generate"], say=lambda _: None, progress=False)
    return {name: found for name, found in contents(out).items() if name.startswith(("runs/walk-ash", "stages/gen"))
            and "tables" not in name}


@pytest.mark.parametrize(("keys", "count", "why"), [
    ({"rollouts": 4}, 10, "to grow: rollouts"), ({}, 12, "to grow: prompts"),
    ({"prompts_per_task": 10}, 12, "changed: prompts (prompt 'p5' is no longer there)")])
def test_rollouts_and_prompts_that_a_study_adds_are_drawn(folder, tmp_path, keys, count, why):
    write_prompts(folder / "walk.jsonl", count=count)
    change(folder, **keys)
    assert look(folder)[0] == dict.fromkeys(RUNS, ("stale" if "changed" in why else "partial", why))
    study = read_study(folder / "study.yaml").study
    if "changed" not in why:
        before = {s["steps"]["sha256"] for s in cs.open_run(folder / "out" / "runs" / RUNS[0]).shards}
        assert only_drawn(study, folder / "out") == only_drawn(study, tmp_path / "at-once")
        after = {s["steps"]["sha256"] for s in cs.open_run(folder / "out" / "runs" / RUNS[0]).shards}
        # A block of 8 prompts x 32 rollouts that was not full has another batch when it grows: it is drawn again.
        assert len(before & after) == ("prompts" in why)


def test_a_study_killed_as_it_grows_goes_on(folder, tmp_path, monkeypatch):
    change(folder, rollouts=4)
    study, out = read_study(folder / "study.yaml").study, folder / "out"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("canopy_stats.runs.generate", _interrupted)
        quietly(study, out)
    assert look(folder)[0] == {RUNS[0]: ("partial", "complete, but not yet compared with the study"),
                               RUNS[1]: ("partial", "to grow: rollouts")}
    change(folder, rollouts=3)
    assert look(folder)[0] == {RUNS[0]: ("partial", "to grow: rollouts"), RUNS[1]: ("done", "")}
    assert only_drawn(study, out) == only_drawn(study, tmp_path / "at-once")


def _interrupted(**options):
    raise KeyboardInterrupt


def test_a_run_without_a_stamp_is_compared_by_loading_its_model(folder):
    stamp = folder / "out" / "stages" / f"generate-{RUNS[0]}.json"
    before = json.loads(stamp.read_text())
    stamp.unlink()
    assert look(folder)[0][RUNS[0]] == ("partial", "complete, but not yet compared with the study")
    pipeline.run_stages(read_study(folder / "study.yaml").study, folder / "out", ["generate"], say=lambda _: None)
    assert json.loads(stamp.read_text()) == before


# --- single stages ----------------------------------------------------------------------------------------------


def test_one_stage_alone(folder, tmp_path):
    study = read_study(folder / "study.yaml").study
    (folder / "out" / "stages" / "tables.json").unlink()
    said: list[str] = []
    pipeline.run_stages(study, folder / "out", ["tables"], say=said.append, progress=False)
    assert [line for line in said if line.endswith(" ...")] == ["tables ..."]
    with pytest.raises(UserError, match="The stage fit needs the study's panel"):
        pipeline.run_stages(study, tmp_path / "new", ["fit"], say=lambda _: None)
    with pytest.raises(UserError, match="There is no stage paint; choose among generate, check"):
        pipeline.run_stages(study, tmp_path / "new", ["paint"], say=lambda _: None)


def test_what_a_killed_call_left_half_written_is_removed(folder):
    before = content_hash(folder / "out")
    left = [folder / "out" / place / ".half.csv.123.tmp" for place in (".", "tables", f"runs/{RUNS[0]}/tables")]
    for path in left:
        path.write_text("half")
    assert content_hash(folder / "out") != before
    pipeline.run_stages(read_study(folder / "study.yaml").study, folder / "out", ["check"], say=lambda _: None)
    assert content_hash(folder / "out") == before


def test_two_calls_at_once_are_refused(folder):
    from canopy_stats.study.pipeline import held

    with held(folder / "out"), pytest.raises(UserError, match="Another process is at work"):
        quietly(read_study(folder / "study.yaml").study, folder / "out")


# --- ablations --------------------------------------------------------------------------------------------------


def test_ablations_give_panels_of_their_own(folder):
    (folder / "pool.jsonl").write_text(
        "".join(json.dumps({"prompt": f"the {w}", "answer": f"a {w}"}) + "\n" for w in ("cat", "dog", "tree")))
    change(folder, embedders=["tfidf", {"model": "minilm", "name": "mini"}],
           ablations=[{"name": "k3", "law": {"top_k": 3}},
                      {"name": "shots", "few_shot": {"pool": "pool.jsonl", "shots": 2}}])
    study, out = read_study(folder / "study.yaml").study, folder / "out"
    before, steps = (out / "panel.parquet").stat().st_mtime_ns, ["generate", "embed", "panel"]
    pipeline.run_stages(study, out, steps, say=lambda _: None, progress=False)
    assert (out / "panel.parquet").stat().st_mtime_ns == before
    panels = {path.stem: pd.read_parquet(path) for path in (out / "panels").glob("*.parquet")}
    assert set(panels) == {"mini", "k3", "shots"}
    assert panels["k3"]["law"].unique().tolist() == ["T=1 top-k=3 cap=6"]
    main = pd.read_parquet(out / "panel.parquet")
    assert panels["mini"]["CE"].tolist() == main["CE"].tolist() and panels["mini"]["D"].tolist() != main["D"].tolist()
    dressed = [json.loads(line) for line in (out / "ablations/shots/prompts/walk.jsonl").read_text().splitlines()]
    plain = [json.loads(line) for line in (out / "prompts/walk.jsonl").read_text().splitlines()]
    for one, bare in zip(dressed, plain, strict=True):
        assert one["id"] == bare["id"] and one["prompt"].endswith("\n\n" + bare["prompt"])
        assert one["prompt"].count("\n\n") == 2
    change(folder, ablations=[], embedders=["tfidf"])
    pipeline.run_stages(read_study(folder / "study.yaml").study, out, ["embed"], say=lambda _: None)
    assert not list((out / "panels").iterdir()) and (out / "ablations" / "k3" / "runs").is_dir()


def test_verdicts_and_rewards_reach_the_panels(folder):
    import torch
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "models" / "instruct")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=128, pad_token_id=0, bos_token_id=1, eos_token_id=2, num_labels=1)
    transformers.LlamaForSequenceClassification(config).save_pretrained(folder / "models" / "reward")
    tokenizer.save_pretrained(folder / "models" / "reward")
    judge = {"kind": "embedding", "threshold": 0.4, "m": 3}
    change(folder, judge=judge, ablations=[{"name": "best", "reward": {"model": "./models/reward", "keep": 0.6}}])
    study, out = read_study(folder / "study.yaml").study, folder / "out"
    assert look(folder)[1]["judge"] == ("missing", "") and look(folder)[1]["panel"][0] == "stale"
    pipeline.run_stages(study, out, ["embed", "judge", "panel"], say=lambda _: None, progress=False)
    panel = pd.read_parquet(out / "panel.parquet").query("model_variant == 'base'").set_index("prompt_uid")
    alone = cs.judge(cs.open_run(out / "runs" / RUNS[0]), cs.EmbeddingJudge(0.4, "tfidf"), m=3, progress=False)
    pd.testing.assert_series_equal(panel["RSE"], alone.set_index("prompt_uid")["RSE"], check_exact=True)
    best = pd.read_parquet(out / "panels" / "best.parquet")
    assert set(panel["M"]) == {3} and set(best["M"]) == {2} and "RSE" not in best
    stages = look(folder)[1]
    assert {name: stages[name][0] for name in ("embed", "judge", "panel", "panel-best")} == dict.fromkeys(
        ("embed", "judge", "panel", "panel-best"), "done")
    change(folder, judge=judge | {"threshold": 0.5})
    stages = look(folder)[1]
    assert stages["judge"] == ("stale", "changed: judge.threshold") and stages["panel-best"][0] == "done"
    assert stages["panel"] == ("stale", "changed: judge.judge.threshold")


def test_measures_on_request_and_peoples_verdicts_reach_the_panel_and_a_table(folder, monkeypatch):
    """The columns are those of cs.measure and cs.correct_judge on the same runs; a change of the verdicts is stale."""
    runs = [cs.open_run(folder / "out" / "runs" / name) for name in RUNS]
    spec = {"kind": "embedding", "threshold": 0.4, "embedder": "tfidf", "m": 3, "progress": False}
    people = pd.DataFrame([
        {"model_name": run.config.family, "model_variant": run.config.variant, "prompt_uid": uid, "rollout_a": a,
         "rollout_b": b, "same": "same" if (a + b + i) % 3 else "different"}
        for run in runs for i, uid in enumerate(dict.fromkeys(run.rollouts(["prompt_uid"]).to_pandas()["prompt_uid"]))
        for a, b in ((0, 1), (0, 2), (1, 2))])
    people.to_csv(folder / "people.csv", index=False)
    judge = {"kind": "embedding", "threshold": 0.4, "m": 3, "people": "people.csv"}
    change(folder, judge=judge, extra=["vendi_2", "distinct_2"])
    study, out = read_study(folder / "study.yaml").study, folder / "out"
    pipeline.run_stages(study, out, ["embed", "judge", "panel", "fit", "tables"], say=lambda _: None, progress=False)
    key = ["model_variant", "prompt_uid"]
    panel = pd.read_parquet(out / "panel.parquet").set_index(key).sort_index()
    measured = [cs.measure(run, embedder="tfidf", extra=["vendi_2", "distinct_2"], judge=spec).assign(
        model_variant=run.config.variant) for run in runs]
    extra = ["VS_q2", "se_VS_q2", "distinct_2", "se_distinct_2"]
    expected = pd.concat(measured).set_index(key).sort_index()[extra]
    pd.testing.assert_frame_equal(panel[extra], expected, check_exact=True)
    found = cs.correct_judge(runs, spec, people)
    corrected = found.table.set_index(key).sort_index()["RSE_corrected"]
    pd.testing.assert_series_equal(panel["RSE_corrected"], corrected, check_index_type=False)
    agreement = pd.read_csv(out / "tables" / "judge_agreement.csv")
    assert agreement["kappa"].item() == pytest.approx(found.agreement.kappa)
    real = measuring.code_hash
    monkeypatch.setattr(measuring, "code_hash", lambda *of: "changed" if "metrics/people" in of else real(*of))
    assert look(folder)[1]["judge"] == ("stale", "changed: correction")
    monkeypatch.setattr(measuring, "code_hash", real)
    people.assign(same="same").to_csv(folder / "people.csv", index=False)
    assert look(folder)[1]["judge"] == ("stale", "changed: people") and look(folder)[1]["panel"][0] == "stale"
