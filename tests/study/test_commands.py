"""The commands on a study file, and what they say when the disk or the machine fails."""

from __future__ import annotations

import glob
import os
import resource
import subprocess
import sys
import time

import pytest

from canopy_stats import cli
from canopy_stats.report.folder import Folder
from canopy_stats.slope import change_from_dict
from canopy_stats.study import pipeline, read_study
from canopy_stats.study.ablations import parts_of
from canopy_stats.study.result import content_hash

RUN = [sys.executable, "-m", "canopy_stats", "run"]


def told(capsys, *arguments):
    try:
        code = cli.main([str(a) for a in arguments])
    except SystemExit as stop:
        code = stop.code
    out, err = capsys.readouterr()
    return code, out, err


@pytest.mark.slow
def test_a_study_from_plan_to_report(capsys, make_study, tmp_path):
    path, out = make_study(), tmp_path / "out"
    code, said, _ = told(capsys, "plan", path)
    assert code == 0 and "Rollouts:   60 in 2 runs" in said and not out.exists()
    code, said, _ = told(capsys, "status", path)
    assert code == 0 and "0 of 2 runs are done, 0 tokens so far" in said and not out.exists()
    code, said, err = told(capsys, "run", path)
    assert code == 1 and "interaction" in said and "report:" in said, err
    assert said.count("the length cap ended") == 1 and "The study is incomplete" in said and "ns(" not in said
    code, said, _ = told(capsys, "status", path)
    assert code == 0 and "2 of 2 runs are done" in said and "7 of 7 later stages are done" in said
    assert said.count("the length cap ended") == 1
    before = content_hash(out)
    (out / "summary.md").unlink()
    code, said, _ = told(capsys, "report", path)
    assert code == 0 and str(out / "summary.md") in said.splitlines()
    assert content_hash(out) == before
    assert not any(word in (out / "summary.md").read_text() for word in ("2026", " s,", "Time"))
    code, said, err = told(capsys, "run", path, "--quiet")
    assert (code, said.strip()) == (1, str(out / "summary.md")) and "rollouts" not in err


@pytest.mark.slow
def test_slope_changes_survive_the_disk(make_study, tmp_path):
    study = read_study(make_study()).study
    pipeline.run_stages(study, tmp_path / "out", ["generate", "embed", "panel", "fit"], say=lambda _: None,
                        progress=False)
    changes = Folder(tmp_path / "out").changes
    assert ("interaction", "instruct") in changes
    for change in changes.values():
        again = change_from_dict(change.to_dict(), change.fit)
        assert repr(again) == repr(change) and again.ratio.interval.kind == change.ratio.interval.kind
    fit = changes["interaction", "instruct"].fit
    assert fit is not None and fit.params["R_bar"] == pytest.approx(changes["interaction", "instruct"].base.estimate)


@pytest.mark.parametrize(("arguments", "message"), [
    (["run", "none.yaml"], "There is no study file none.yaml"), (["plan", "none.yaml"], "There is no study file"),
    (["status", "none.yaml"], "There is no study file"), (["report", "none.yaml"], "There is no study file"),
    (["run", "s.yaml", "--only", "paint"], "invalid choice: 'paint'"), (["run"], "required: STUDY")])
def test_user_errors_are_one_line(capsys, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    code, out, err = told(capsys, *arguments)
    assert code == 2 and out == "" and message in err and err.count("\n") == 1


@pytest.mark.parametrize("command", ["plan", "run", "status", "report"])
def test_help_has_an_example_and_fits_a_line(capsys, command):
    code, out, _ = told(capsys, command, "--help")
    assert code == 0 and f"canopy-stats {command} " in out and "Example" in out
    assert max(map(len, out.splitlines())) <= 120


def test_the_command_knows_every_stage(capsys, make_study):
    path = make_study()
    for stage in pipeline.KINDS[1:]:
        code, _, err = told(capsys, "run", path, "--only", stage)
        assert code == (0 if stage == "judge" else 2) and ("needs" in err or stage == "judge")


@pytest.mark.slow
def test_a_full_disk_is_said_and_what_is_done_stays(make_study, tmp_path):
    path = make_study()

    def restricted():
        resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))  # room for stamps, too little for a shard

    failed = subprocess.run([*RUN, str(path), "--quiet"], capture_output=True, text=True, preexec_fn=restricted)
    assert failed.returncode == 2 and "Traceback" not in failed.stderr
    last = failed.stderr.splitlines()[-1]
    assert "Could not write" in last and "nothing half-written is kept" in last and "run the command again" in last
    study = read_study(path).study
    parts, _ = pipeline.run_stages(study, tmp_path / "out", ["generate"], say=lambda _: None, progress=False)
    whole, _ = pipeline.run_stages(study, tmp_path / "whole", ["generate"], say=lambda _: None, progress=False)
    assert parts[0].contents == whole[0].contents


@pytest.mark.slow
@pytest.mark.skipif(not os.path.isdir("/proc"), reason="looks for processes in /proc")
def test_workers_end_with_a_killed_caller(make_study, tmp_path):
    path = make_study(rollouts=20_000, law={"max_new_tokens": 100}, workers=2)
    caller = subprocess.Popen([*RUN, str(path)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    workers = _wait(lambda: _children(caller.pid) if (tmp_path / "out" / "runs").is_dir() else [], 60)
    assert workers
    caller.kill()
    caller.wait()
    assert _wait(lambda: [True] if not any(_works(w) for w in workers) else [], 60)
    runs = parts_of(read_study(path).study, tmp_path / "out")[0].runs
    assert runs is None  # they did not just come to their end


def _children(pid):
    return [int(child) for path in glob.glob(f"/proc/{pid}/task/*/children") for child in open(path).read().split()]


def _works(pid):
    try:
        return "canopy_stats" in open(f"/proc/{pid}/cmdline").read()
    except OSError:
        return False


def _wait(found, seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if there := found():
            return there
        time.sleep(0.05)
    return []


@pytest.mark.slow
def test_a_pilot_of_few_prompts_ends_with_a_report_that_says_what_it_lacks(make_study, tmp_path, capsys):
    code, said, _ = told(capsys, "run", make_study(prompts_per_task=3))
    assert code == 1 and "No slopes (instruct): The panel has 3 prompts; a slope needs at least 10" in said
    left_out = (tmp_path / "out" / "tables" / "left_out.txt").read_text()
    assert "left out: slopes: The panel has 3 prompts" in left_out
    assert "No slopes (instruct)" in (tmp_path / "out" / "summary.md").read_text()
    assert (tmp_path / "out" / "tables" / "base_tuned.csv").is_file() and (tmp_path / "out" / "report.html").is_file()
