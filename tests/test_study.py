"""The chain from rollouts to figures on Markov chains, its resume, and what it refuses."""

from __future__ import annotations

import errno
import json
import os

import numpy as np
import pandas as pd
import pytest
from tiny_models import save_tiny_llama

import canopy_stats as cs
from canopy_stats.report import catalogue
from canopy_stats.schema import UserError
from canopy_stats.slope.models import MODELS
from canopy_stats.study import (
    Checkpoint,
    Embedder,
    Law,
    ModelFamily,
    Study,
    demo,
    pipeline,
    prompts,
    run_demo,
    run_study,
    stamps,
    worker,
)
from canopy_stats.study.demo import FAMILIES

STATES = 8


def markov(seed: int, sharpness: float):
    """A chain of 7 states and an end; a higher ``sharpness`` makes its rows more even, so its entropy higher."""
    rng = np.random.default_rng(seed)
    table = rng.dirichlet(np.full(STATES, sharpness), size=STATES)
    table[:, -1] = 0
    table *= 0.85 / table.sum(1, keepdims=True)
    table[:, -1] = 0.15
    return cs.oracle.MarkovLM(table, end_state=STATES - 1)


FIGURES = ("slopes", "decomposition", "lengths", "cap_sensitivity")
TABLES = ("slopes", "base_tuned", "decomposition", "checks")


@pytest.fixture(scope="module", autouse=True)
def few_products():
    """Some figures and tables stand for all: each is tested elsewhere, and they take longer than the rest here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(catalogue.CATALOGUE, "figures", {name: catalogue.FIGURES[name] for name in FIGURES})
        patch.setitem(catalogue.CATALOGUE, "tables", {name: catalogue.TABLES[name] for name in TABLES})
        yield


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prompts")
    for task, first in (("count", 0), ("walk", 3)):
        lines = [json.dumps({"id": f"p{i}", "prompt": [(first + i) % (STATES - 1)]}) for i in range(6)]
        (folder / f"{task}.jsonl").write_text("\n".join(lines) + "\n")
    families = [ModelFamily(name=name, base=Checkpoint(model=markov(seed, 2.0)),
                            tuned=Checkpoint(model=markov(seed + 10, 0.5), variant="tuned", chat=False))
                for seed, name in enumerate(("north", "south"))]
    return Study(title="Two chains", contrast="The tuned chain has less entropy.", families=families,
                 tasks={task: folder / f"{task}.jsonl" for task in ("count", "walk")}, law=Law(max_new_tokens=12),
                 rollouts=6, prompts_per_task=6, embedders=[Embedder(model="tfidf")], drift_tokens=0, check_sample=2)


@pytest.fixture(scope="module")
def done(study, tmp_path_factory):
    said: list[str] = []
    result = run_study(study, tmp_path_factory.mktemp("study"), say=said.append, progress=False)
    return result, "\n".join(said)


@pytest.mark.slow
def test_a_run_for_each_checkpoint_and_task_and_a_panel_row_for_each_prompt(done):
    result, _ = done
    assert sorted(p.name for p in (result.out / "runs").iterdir()) == sorted(result.runs)
    assert len(result.runs) == 8 and "walk-south-tuned" in result.runs
    assert len(result.panel) == 8 * 6
    assert set(result.panel["model_variant"]) == {"base", "tuned"}
    measured = cs.measure(result.runs["walk-north-base"]).set_index("prompt_id")
    row = result.panel.query("task == 'walk' and model_name == 'north' and model_variant == 'base'")
    np.testing.assert_array_equal(row.set_index("prompt_id")["CE"], measured["CE"])


@pytest.mark.slow
def test_panel_file_tells_how_it_was_made(done, study):
    result, _ = done
    pd.testing.assert_frame_equal(pd.read_parquet(result.out / "panel.parquet"), result.panel, check_dtype=False)
    note = json.loads((result.out / "panel.json").read_text())
    assert note["study"]["n_rollouts"] == 6 and note["study"]["families"]["north"][1]["variant"] == "tuned"
    assert note["runs"] == {name: run.content_hash for name, run in result.runs.items()}


@pytest.mark.slow
def test_slopes_are_those_of_the_panel(done):
    result, _ = done
    pd.testing.assert_frame_equal(result.slopes, cs.slope_table(result.panel))
    entries = json.loads((result.out / "fits" / "changes.json").read_text())
    assert [entry["model"] for entry in entries] == [m for m in MODELS if m != "paper_rse"]
    fitted = [entry["model"] for entry in entries if "failed" not in entry]
    assert {"main", "interaction", "quadratic"} <= set(fitted) and [c.model for c in result.changes] == fitted


@pytest.mark.slow
def test_every_run_is_checked(done):
    result, _ = done
    assert list(result.checks["run"]) == list(result.runs)
    assert result.checks["holds"].all()
    assert (result.checks[["z of S - H", "z of stops - A"]].abs() < 4).all(axis=None)


@pytest.mark.slow
def test_tables_and_figures_are_on_the_disk_and_named_at_the_end(done):
    result, said = done
    assert {p.stem for p in result.tables} == {*TABLES, "index"}
    drawn = {f"{name}.{kind}" for name in FIGURES for kind in ("svg", "png")}
    assert {p.name for p in result.figures} == {"index.json", *drawn}
    assert all(p.stat().st_size > 0 for p in (*result.tables, *result.figures))
    page = (result.out / "summary.md").read_text()
    assert "The tuned chain has less entropy." in page and "![slopes](figures/slopes.png)" in page
    for words in ("interaction", "z of S - H", "panel.parquet", "generate"):
        assert words in said


@pytest.mark.slow
def test_a_second_call_redoes_nothing_and_finds_the_same(done, study):
    result, _ = done
    before = {p: p.stat().st_mtime_ns for p in (*result.figures, result.out / "panel.parquet")}
    again = run_study(study, result.out, say=lambda _: None, progress=False)
    assert {p: p.stat().st_mtime_ns for p in before} == before
    pd.testing.assert_frame_equal(again.panel, result.panel)


@pytest.mark.slow
def test_an_interrupted_study_ends_with_the_same_panel(done, study, tmp_path, monkeypatch):
    draw, calls = worker.draw, []

    def stopping(*args, **options):
        calls.append(args)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return draw(*args, **options)

    monkeypatch.setattr(worker, "draw", stopping)
    with pytest.raises(KeyboardInterrupt):
        run_study(study, tmp_path, say=lambda _: None, progress=False)
    assert not (tmp_path / "panel.parquet").exists()
    result = run_study(study, tmp_path, say=lambda _: None, progress=False)
    pd.testing.assert_frame_equal(result.panel, done[0].panel)
    assert [p.read_bytes() for p in result.figures] == [p.read_bytes() for p in done[0].figures]


def test_quiet_loading_puts_the_environment_back():
    before = dict(os.environ)
    with worker.quiet():
        assert os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] == "1"
    assert dict(os.environ) == before


# --- stages -----------------------------------------------------------------------------------------------------


def counted(out, text="x"):
    made = []

    def make():
        made.append(1)
        (out / "result.txt").write_text(text)
        return [out / "result.txt"]

    return make, made


def test_a_stage_is_kept_until_its_key_or_its_file_changes(tmp_path):
    make, made = counted(tmp_path)
    for key, expected in [({"a": 1}, 1), ({"a": 1}, 1), ({"a": 2}, 2), ({"a": 2}, 2)]:
        assert stamps.staged(tmp_path, "s", key, make) == [tmp_path / "result.txt"]
        assert len(made) == expected
    (tmp_path / "result.txt").write_text("altered")
    stamps.staged(tmp_path, "s", {"a": 2}, make)
    assert len(made) == 3 and (tmp_path / "result.txt").read_text() == "x"


def test_a_stage_that_failed_half_way_is_made_again(tmp_path):
    def fail():
        (tmp_path / "result.txt").write_text("half")
        raise UserError("no")

    make, made = counted(tmp_path)
    stamps.staged(tmp_path, "s", {"a": 1}, make)
    with pytest.raises(UserError):
        stamps.staged(tmp_path, "s", {"a": 2}, fail)
    assert stamps.state(tmp_path, "s", {"a": 2}) == ("stale", "changed: a")
    assert stamps.state(tmp_path, "s", {"a": 1}) == ("stale", "altered or missing: result.txt")
    stamps.staged(tmp_path, "s", {"a": 1}, make)
    assert len(made) == 2 and (tmp_path / "result.txt").read_text() == "x"


def test_files_that_are_no_longer_made_are_removed(tmp_path):
    def make(*names):
        for name in names:
            (tmp_path / name).write_text(name)
        return [tmp_path / name for name in names]

    stamps.staged(tmp_path, "s", {"a": 1}, lambda: make("kept", "dropped"))
    stamps.staged(tmp_path, "s", {"a": 2}, lambda: make("kept"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["kept", "stages"]


def test_a_failure_of_the_disk_is_told_as_to_a_colleague():
    with pytest.raises(UserError, match=r"figures could not go on: No space left on device .*f\.svg.*it resumes"), \
            pipeline.explained("figures"):
        raise OSError(errno.ENOSPC, "No space left on device", "figures/f.svg")


def test_code_hash_depends_on_the_named_modules_alone():
    assert stamps.code_hash("report") != stamps.code_hash("metrics")
    assert stamps.code_hash("report", "metrics") == stamps.code_hash("metrics", "report")


# --- prompts ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("wanted", "ids"), [(None, [0, 1, 2, 3, 4, 5]), (6, [0, 1, 2, 3, 4, 5]), (3, [0, 2, 4]),
                                             (1, [0])])
def test_prompts_are_chosen_evenly(tmp_path, wanted, ids):
    (tmp_path / "all.jsonl").write_text("".join(f"{i}\n" for i in range(6)))
    copy = prompts.choose_prompts(tmp_path / "all.jsonl", wanted, tmp_path / "deep" / "some.jsonl")
    assert [int(line) for line in copy.read_text().splitlines()] == ids


@pytest.mark.parametrize("wanted", [0, 7])
def test_more_prompts_than_there_are_is_refused(tmp_path, wanted):
    (tmp_path / "all.jsonl").write_text("1\n" * 6)
    with pytest.raises(UserError, match="1 to 6"):
        prompts.choose_prompts(tmp_path / "all.jsonl", wanted, tmp_path / "some.jsonl")


def test_a_missing_prompt_file_is_named(study, tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.jsonl"):
        without = study.model_copy(update={"tasks": {"count": str(tmp_path / "nowhere.jsonl")}})
        run_study(without, tmp_path, say=lambda _: None)


# --- the demos --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("options", "message"), [
    ({"kind": "large"}, "no kind large; choose among tiny, smollm"),
    ({"tasks": ["poems"]}, "no task poems"),
    ({"families": ["oak"]}, "no family oak"),
    ({"models_dir": "nowhere"}, "There is no folder nowhere"),
    ({"prompts_dir": "nowhere"}, "There is no folder nowhere"),
    ({"kind": "smollm", "adapter": "nowhere"}, "SmolLM2 is not here|holds no LoRA adapter")])
def test_what_the_demo_does_not_have_is_refused_in_words(tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        run_demo(tmp_path / "out", say=lambda _: None, **options)


def test_a_family_without_weights_is_named(tmp_path):
    with pytest.raises(UserError, match="There is no model in .*alder"):
        run_demo(tmp_path / "out", models_dir=tmp_path, say=lambda _: None)


def test_smollm_arms_differ_by_the_adapter_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "shipped_gguf", lambda: tmp_path / "model.gguf")
    (tmp_path / "adapter_config.json").write_text("{}")
    (family,) = demo.smollm(tmp_path, tmp_path, print)
    base, tuned = family.arms
    assert (base.variant, base.adapter, tuned.adapter) == ("base", None, str(tmp_path))
    assert tuned.model_copy(update={"variant": "base", "adapter": None}) == base


@pytest.fixture(scope="module")
def random_models(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    for seed, variant in enumerate(("base", "instruct")):
        save_tiny_llama(root / "alder" / variant, seed)
    return root


@pytest.mark.slow
@pytest.mark.parametrize(("code", "error", "message"), [
    (2, UserError, "^the last line$"), (-9, UserError, "signal 9.*resumes"), (1, RuntimeError, "the last line")])
def test_what_stops_a_worker_reaches_the_caller(code, error, message):
    with pytest.raises(error, match=message):
        worker._raise_for(code, "a warning\nthe last line\n")


def trained_here() -> bool:
    try:
        demo.tiny_families(FAMILIES[:1], None)
    except UserError:
        return False
    return True


@pytest.mark.slow
@pytest.mark.skipif(not trained_here(), reason="data/models has no trained family: a checkout carries them")
def test_workers_draw_the_demo_on_a_family_that_comes_with_the_project(tmp_path):
    said: list[str] = []
    result = run_demo(tmp_path, families=FAMILIES[:1], tasks=["math", "stories"], prompts_per_task=5, n_rollouts=3,
                      embedder="tfidf", max_new_tokens=30, workers=2, say=said.append)
    assert len(result.panel) == 2 * 2 * 5
    assert any("math-alder-base" in line and "tokens drawn and checked" in line for line in said)
    # twelve rollouts are too few for a z-score; that the scores agree does not depend on their number
    assert (result.checks[["entropy off by", "log-prob off by"]] < 1e-4).all(axis=None)
    assert {run.config.model["chat"] for name, run in result.runs.items() if "instruct" in name} == {True}
    assert {run.config.model["chat"] for name, run in result.runs.items() if "base" in name} == {False}


@pytest.mark.slow
def test_a_study_survives_the_way_to_another_process(random_models, tmp_path):
    families = demo.tiny_families(["alder"], random_models)
    study = Study(title="t", families=families, tasks={"math": "m.jsonl"}, law=Law(top_k=5), rollouts=4)
    job = worker.Job(study, tmp_path, tuple(study.runs))
    assert worker.Job.from_json(job.to_json()) == job
