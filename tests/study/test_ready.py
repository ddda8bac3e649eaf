"""What would stop a study late is said before its first token, and the folder of results is touched by nobody else."""

from __future__ import annotations

import json

import pytest
from small_studies import write_study

from canopy_stats.cli import main
from canopy_stats.schema import UserError
from canopy_stats.study import pipeline, read_study, rollouts, stamps
from canopy_stats.study.ablations import parts_of

OPENAI = {"kind": "openai", "base_url": "http://here/v1", "model": "m"}


@pytest.mark.parametrize(("judge", "words"), [
    (OPENAI | {"api_key_evn": "X"}, "api_key_evn"), (OPENAI | {"base_url": "http://u:p@here"}, "more than an address"),
    (OPENAI | {"base_url": "ftp://here"}, "must begin with http"), (OPENAI | {"timeout": "a"}, "timeout is 'a'"),
    ({"kind": "embedding", "threshold": 0.5, "api_key_env": "X"}, "has no api_key_env")])
@pytest.mark.parametrize("command", ["run", "plan", "status"])
def test_a_judges_mistake_is_told_before_anything_is_drawn(tmp_path, capsys, command, judge, words):
    assert main([command, str(write_study(tmp_path, judge=judge))]) == 2
    assert words in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_key_that_is_not_set_stops_the_run_and_is_told_by_plan_and_status(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    path = str(write_study(tmp_path, judge=OPENAI | {"api_key_env": "NO_SUCH_KEY"}))
    assert main(["run", path]) == 2 and "api_key_env" in capsys.readouterr().err
    assert not (tmp_path / "out" / "runs").exists()
    for command in ("plan", "status"):
        assert main([command, path]) == 0
        assert "Before it can run: judge.api_key_env names" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["a\x1b[2J", "..", ".", " a", "a\nb", "x" * 101, "\u2028", ""])
def test_a_name_that_no_folder_or_terminal_should_have_is_refused(tmp_path, name):
    with pytest.raises(UserError, match=r"families\[0\]\.name is .* it must be a name"):
        read_study(write_study(tmp_path, families=[{"name": name, "base": "org/b", "tuned": "org/t"}]))


@pytest.mark.slow
@pytest.mark.parametrize("text", [
    "title: &a [x]\ncontrast: *a\n", "? [1, 2]\n: 3\n", "1: 2\n", "title: " + "[" * 3000, "title: 2026-99-99\n",
    "title: " + "9" * 5000, "a: &a [0,0,0,0,0,0,0,0,0]\n" + "".join(
        f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True))])
def test_no_yaml_ends_in_a_traceback(tmp_path, text):
    (tmp_path / "s.yaml").write_text(text)
    with pytest.raises(UserError):
        read_study(tmp_path / "s.yaml")


# --- what is deleted --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["../victim.txt", "{outside}", "linked/victim.txt"])
def test_a_stamp_that_names_a_file_outside_deletes_nothing(tmp_path, name):
    victim, out = tmp_path / "victim.txt", tmp_path / "out"
    victim.write_text("precious")
    (out / "stages").mkdir(parents=True)
    (out / "linked").symlink_to(tmp_path)
    stamp = {"key": "x", "made_from": {}, "files": {name.format(outside=victim): "0" * 64}}
    (out / "stages" / "report.json").write_text(json.dumps(stamp))
    (out / "mine.txt").write_text("made")
    with pytest.raises(UserError, match="lies outside of that folder"):
        stamps.staged(out, "report", {"a": 1}, lambda: [out / "mine.txt"])
    assert victim.read_text() == "precious"


def test_panels_that_are_not_ours_stay(tmp_path):
    file = read_study(write_study(tmp_path))
    foreign = tmp_path / "out" / "panels" / "foreign.parquet"
    foreign.parent.mkdir(parents=True)
    foreign.write_text("mine")
    (foreign.parent / "folder").mkdir()
    pipeline._tidy(parts_of(file.study, file.folder()))
    assert foreign.read_text() == "mine" and (foreign.parent / "folder").is_dir()


# --- what a run's stamp says ------------------------------------------------------------------------------------


class Stored:
    content_hash = "c" * 64


def test_a_prompt_file_edited_while_a_run_is_drawn_leaves_it_stale(tmp_path):
    path = write_study(tmp_path)
    study, out = read_study(path).study, tmp_path / "out"
    key = rollouts.begin(study, out, "walk-ash-base", tmp_path / "walk.jsonl")
    (tmp_path / "walk.jsonl").write_text(json.dumps({"prompt": "another"}) + "\n")
    rollouts.finish(out, "walk-ash-base", key, Stored())
    stamp = stamps.stamped(out, "generate-walk-ash-base")
    assert stamp["made_from"] == key and stamp["content"] == Stored.content_hash
    assert rollouts._changed(stamp, rollouts.asked(study, "walk-ash-base")) == ["prompts"]


def test_a_model_edited_while_a_run_is_drawn_leaves_it_stale(tmp_path):
    study, out = read_study(write_study(tmp_path)).study, tmp_path / "out"
    key = rollouts.begin(study, out, "walk-ash-base", tmp_path / "walk.jsonl")
    (tmp_path / "models" / "base" / "config.json").write_text("{}")
    rollouts.finish(out, "walk-ash-base", key, Stored())
    stamp = stamps.stamped(out, "generate-walk-ash-base")
    assert rollouts._changed(stamp, rollouts.asked(study, "walk-ash-base")) == ["model"]
