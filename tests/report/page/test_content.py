"""A study's folder becomes its report: what is there is shown, what is missing is said, what is large is sampled."""

from __future__ import annotations

import hashlib
import json
import re
import shlex

import numpy as np
import pytest
from byte_tokens import END, StateEngine, draw, tokenizer_folder

import canopy_stats as cs
from canopy_stats.cli import main
from canopy_stats.figure_style import styled
from canopy_stats.panels import read_panel, write_panel
from canopy_stats.report import frames, printed
from canopy_stats.report.figures.style import save
from canopy_stats.report.folder import Folder
from canopy_stats.report.page import content as contents
from canopy_stats.report.page import provenance, sample, write_report
from canopy_stats.report.page.html import Table
from canopy_stats.report.page.sample import Sample
from canopy_stats.schema import UserError

EVIL = "<script>window.hacked=1</script>"


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A finished study: two families and tasks, two variants, 5 prompts, 4 rollouts; names that try to be markup."""
    from matplotlib.figure import Figure

    out = tmp_path_factory.mktemp("study")
    model = tokenizer_folder(tmp_path_factory.mktemp("models") / "deep" / "tiny")
    runs = {f"{task}-{n}-{variant}": draw(out / "runs" / f"{task}-{n}-{variant}", model, family=family, task=task,
                                          variant=variant, seed=seed)
            for n, family in enumerate(("oak", EVIL)) for variant in ("base", "tuned")
            for seed, task in enumerate(("walk", "count"))}
    panel = cs.panel(list(runs.values()), embedder="tfidf")
    said = {"title": f"A study {EVIL}", "contrast": "Tuned is base.", "embedder": "tfidf"}
    note = {"canopy_stats": "1", "study": said, "runs": {name: run.content_hash for name, run in runs.items()}}
    write_panel(panel, out / "panel.parquet", note)
    (out / "panel.json").write_text(json.dumps(note))
    printed.write(frames.base_tuned(panel), out / "tables" / "base_tuned", "c")
    (out / "fits").mkdir()
    (out / "fits" / "scrutiny-tuned.txt").write_text("The slopes are these.\n")
    with styled():
        figure = Figure()
        figure.subplots().set(title=EVIL)
        save(figure, out / "figures" / "a_plot")
    return out, runs, panel


@pytest.fixture(scope="module")
def content(study):
    return contents.of_folder(Folder(study[0]))


@pytest.mark.slow
def test_the_report_is_written_and_is_the_same_again(study):
    path = write_report(study[0])
    first = path.read_bytes()
    assert path == study[0] / "report.html" and write_report(study[0]).read_bytes() == first
    text = first.decode()
    assert EVIL not in text and "&lt;script&gt;window.hacked=1&lt;/script&gt;" in text
    assert str(study[0]) not in text and "deep/tiny" in text


def test_a_folder_without_a_panel_is_refused(tmp_path):
    with pytest.raises(UserError, match="is not a finished study"):
        write_report(tmp_path)


@pytest.mark.slow
def test_a_panel_alone_makes_a_report_without_rollouts(study, tmp_path):
    for name in ("panel.parquet", "panel.json", "fits/scrutiny-tuned.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes((study[0] / name).read_bytes())
    made = contents.of_folder(Folder(tmp_path))
    assert made.explorer is None and "tokens" not in dict(made.facts) and made.tables == made.pictures == ()
    assert "The slopes are these." in write_report(tmp_path).read_text(encoding="utf-8")


@pytest.mark.slow
def test_what_is_told_of_the_study(content, study):
    _, runs, panel = study
    assert (content.title, content.contrast) == (f"A study {EVIL}", "Tuned is base.")
    assert content.finding == "The slopes are these."
    facts = dict(content.facts)
    assert (facts["families"], facts["prompts"], facts["rollouts"]) == ("2", "10", "160")
    assert facts["tokens"] == f"{int((panel['N_bar'] * panel['M']).sum()):,}"
    assert [t.caption for t in content.tables] == ["Base against tuned."] or content.tables[0].caption == "Base tuned."
    assert content.tables[0].head[:3] == ("family", "task", "variant") and len(content.tables[0].rows) == 8
    assert content.pictures[0].caption == "A plot." and "not checked" in content.warnings[0]


def test_finding_is_what_the_fits_left(tmp_path):
    assert "holds no fits" in contents.finding(Folder(tmp_path))
    (tmp_path / "fits").mkdir()
    for variant in ("tuned", "aligned"):
        (tmp_path / "fits" / f"scrutiny-{variant}.txt").write_text(f"The {variant} slope.\n")
    assert contents.finding(Folder(tmp_path)) == "aligned: The aligned slope.\n\ntuned: The tuned slope."
    (tmp_path / "finding.txt").write_text("Only this.\n")
    assert contents.finding(Folder(tmp_path)) == "Only this."


def test_captions_and_order_come_from_the_index(tmp_path):
    figures = tmp_path / "figures"
    figures.mkdir()
    for name in ("b_two", "a_one", "c_three"):
        (figures / f"{name}.svg").write_text("<svg/>")
    (figures / "index.json").write_text(json.dumps({"c_three": {"caption": "Third!"}, "a_one": "First", "gone": "x"}))
    found = contents.captioned(Folder(tmp_path), "figures", ".svg")
    assert [(path.stem, caption) for path, caption in found] == [("b_two", "B two."), ("c_three", "Third!"),
                                                                 ("a_one", "First.")] or found[-1][0].stem == "b_two"


# --- provenance -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_runs_are_named_with_their_hashes(content, study):
    rows = {row[0]: row for row in content.provenance.runs.rows}
    for name, run in study[1].items():
        assert rows[name][-1] == run.content_hash[:12] and rows[name][7] == run.run_id
        assert rows[name][1] == "…/deep/tiny" and rows[name][3] == "20"
    settings = dict(content.provenance.settings)
    assert settings["seed"] == "0, 1" and settings["law"] == "T=1 cap=9"
    assert settings["panel.parquet, SHA-256"] == hashlib.sha256((study[0] / "panel.parquet").read_bytes()).hexdigest()


@pytest.mark.slow
def test_the_commands_ask_for_the_same_runs(content, study, monkeypatch):
    asked = []
    monkeypatch.setattr("canopy_stats.runs.generate", lambda model, prompts, out, **options: asked.append(
        {"model": model, "prompts": prompts, "out": out, **options}) or next(iter(study[1].values())))
    lines = content.provenance.commands
    assert len(lines) == 8 + 2
    for line, (name, run) in zip(lines, study[1].items(), strict=False):
        assert main(shlex.split(line)[1:]) == 0
        config, options = run.config, asked[-1]
        assert (options["model"], str(options["out"])) == ("…/deep/tiny", f"runs/{name}")
        assert str(options["prompts"]) == f"prompts/{config.task}.jsonl"
        for key in ("family", "variant", "task", "n_rollouts", "seed", "policy", "batch_size"):
            assert options[key] == getattr(config, key)
        assert options["chat"] is False and options["dtype"] == "float32"
    assert shlex.split(lines[-2])[:10] == ["canopy-stats", "panel", *(f"runs/{name}" for name in study[1])]


@pytest.mark.slow
def test_an_uncertified_fit_is_told(study, tmp_path):
    fit = cs.lmm("D ~ R_bar + (1|prompt_uid)", study[2])
    (tmp_path / "fits").mkdir()
    path = fit.save(tmp_path / "fits" / "main-tuned.npz")
    entries = [{"model": "main", "variant": "tuned", "identified": True, "fit": path.name},
               {"model": "robust", "variant": "tuned", "identified": False, "verdict": "Too little overlap."},
               {"model": "paper_rse", "variant": "tuned", "failed": "There is no RSE."}]
    (tmp_path / "fits" / "changes.json").write_text(json.dumps(entries))
    assert [e.get("certified") for e in provenance.slopes(Folder(tmp_path))] == [fit.certificate.converged, None, None]
    with np.load(path) as kept:
        arrays = dict(kept)
    meta = json.loads(str(arrays["meta"]))
    meta["certificate"]["distance"] = 1.0
    np.savez(path, **{**arrays, "meta": np.array(json.dumps(meta))})
    assert provenance.slopes(Folder(tmp_path))[0]["certified"] is False


# --- rollouts ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_every_rollout_is_there_with_its_text_and_terms(content, study):
    for cell, run in zip(content.explorer.cells, study[1].values(), strict=True):
        rows, steps = run.rollouts().to_pylist(), run.steps().to_pandas()
        assert cell.texts is None and (cell.task, cell.family) == (run.config.task, run.config.family)
        begins = np.cumsum(cell.length) - cell.length
        for row, begin in zip(rows, begins, strict=True):
            tokens = cell.token[begin:begin + row["length"]]
            assert "".join(cell.pieces[t] for t in tokens if t not in cell.special) == row["text"]
        np.testing.assert_array_equal(cell.entropy, steps["entropy"])
        np.testing.assert_array_equal(cell.logprob, steps["logprob"])
        np.testing.assert_array_equal(cell.stopped, [row["finish_reason"] == "stop" for row in rows])
    assert content.explorer.note == ""


@pytest.mark.slow
def test_equal_tokens_have_equal_indices(content, study):
    cell, run = content.explorer.cells[0], next(iter(study[1].values()))
    ids = run.steps(["token_id"])["token_id"].to_numpy()
    pairs = set(zip(ids.tolist(), cell.token.tolist(), strict=True))
    assert len({index for _, index in pairs}) == len(pairs)


@pytest.mark.slow
def test_measures_of_a_prompt_stand_by_it(content, study):
    panel, cell = study[2], content.explorer.cells[0]
    row = panel.query("task == @cell.task and model_name == @cell.family and model_variant == @cell.variant").iloc[2]
    assert cell.prompts[2].prompt_id == row["prompt_id"]
    assert f"D {row['D']:.3f} · CE* {row['CE']:.1f} nats" in cell.prompts[2].measured


@pytest.mark.slow
def test_a_large_study_is_sampled_evenly_and_says_so(study):
    _, runs, panel = study
    tokens = sum(s["n_tokens"] for run in runs.values() for s in run.shards)
    made = sample.explorer(runs, panel, sample.BYTES_PER_TOKEN * tokens * 0.45)
    assert [p.prompt_id for p in made.cells[0].prompts] == ["p0", "p2"]
    assert made.note.startswith("To keep this page small it holds 4 of 10 prompts, evenly spread over each task's file")
    for cell, run in zip(made.cells, runs.values(), strict=True):
        steps = run.steps().to_pandas().query("prompt_id in ['p0', 'p2']")
        np.testing.assert_array_equal(cell.stop_probability, steps["stop_probability"])
        assert len(cell.length) == 8 and len(cell.token) == cell.length.sum() == len(steps)


@pytest.mark.slow
def test_where_one_prompt_is_too_much_some_of_its_rollouts_are_shown(study):
    made = sample.choose(study[1], 1)
    assert {task: list(ids) for task, ids in made.prompts.items()} == {"walk": ["p0"], "count": ["p0"]}
    assert made.rollouts == 4
    note = sample.said(study[1], Sample(made.prompts, 2))
    assert "2 of 10 prompts" in note and "the first 2 of 4 rollouts" in note


@pytest.mark.parametrize(("count", "kept"), [(0, ["a"]), (1, ["a"]), (2, ["a", "c"]), (5, ["a", "b", "c", "d", "e"]),
                                             (9, ["a", "b", "c", "d", "e"])])
def test_a_spread_is_even(count, kept):
    assert sample.spread(list("abcde"), count) == kept


@pytest.mark.parametrize(("source", "text"), [
    ("plain", "plain"), ([{"role": "user", "content": "hi"}], "user: hi"), ([3, 4], "token ids 3 4")])
def test_prompts_as_text(source, text):
    assert sample.prompt_text(source) == text


@pytest.mark.slow
def test_a_run_whose_tokenizer_is_gone_shows_whole_texts(study, tmp_path):
    run = draw(tmp_path / "run", tmp_path / "nowhere", family="f", task="walk", variant="base", seed=0)
    cell = sample.cell(run, Sample({"walk": ["p1"]}, 3), {})
    assert cell.texts == tuple(run.rollouts(["text"])["text"].to_pylist()[4:7])
    assert re.fullmatch(r"⟨\d⟩", cell.pieces[0])


def test_a_model_without_tokenizer_shows_its_states(tmp_path):
    run = draw(tmp_path / "run", tmp_path, family="f", task="t", variant="base", seed=0, engine=StateEngine())
    cell = sample.cell(run, Sample({"t": ["p3"]}, 4), {})
    assert cell.texts is None and [cell.pieces[i] for i in cell.special] == [f"{END} "]
    text = run.rollouts(["text"])["text"].to_pylist()[12]
    assert "".join(cell.pieces[t] for t in cell.token[:cell.length[0]] if t not in cell.special).strip() == text


@pytest.mark.slow
def test_table_and_panel_modules_agree_on_the_panel(study):
    assert len(read_panel(study[0] / "panel.parquet")) == len(study[2]) == 40
    assert isinstance(provenance.runs_table(study[1]), Table)
    assert provenance.runs_table({}) is None and provenance.commands({}, {}) == ()


@pytest.mark.slow
def test_the_engine_of_these_tests_breaks_characters(study):
    texts = [text for run in study[1].values() for text in run.rollouts(["text"])["text"].to_pylist()]
    assert any("é" in text for text in texts) and any("\ufffd" in text for text in texts)
