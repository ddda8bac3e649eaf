"""A study as a Slurm array: the script, what Slurm is asked, and the jobs themselves, by a stand-in for sbatch."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from pathlib import Path

import pytest
from small_studies import write_study
from tiny_models import save_tiny_llama

from canopy_stats.cli import main
from canopy_stats.schema import UserError
from canopy_stats.study import read_study, run_study
from canopy_stats.study.ablations import parts_of
from canopy_stats.study.executors import Slurm, Wanted, slurm
from canopy_stats.study.pipeline import run_stages, runs_status, status
from canopy_stats.study.result import contents

SBATCH = """#!/bin/sh
# Keeps what it is given, and says a number, as `sbatch --parsable` does on a cluster that has a name.
echo "$@" > {folder}/asked
env > {folder}/variables
echo "17;cluster"
"""
SQUEUE = """#!/bin/sh
echo "$@" > {folder}/asked-of-squeue
cat {folder}/states
"""


def install(folder: Path, name: str, text: str) -> None:
    path = folder / name
    path.write_text(text.format(folder=folder))
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """A folder with a stand-in for Slurm, first on the path; ``states`` is what squeue says."""
    folder = tmp_path / "bin"
    folder.mkdir()
    install(folder, "sbatch", SBATCH)
    install(folder, "squeue", SQUEUE)
    (folder / "states").write_text("")
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder


def small(folder: Path):
    for seed, variant in enumerate(("base", "instruct")):
        save_tiny_llama(folder / "models" / variant, seed)
    return read_study(write_study(folder))


def directives(script: str) -> list[str]:
    return [line.removeprefix("#SBATCH ") for line in script.splitlines() if line.startswith("#SBATCH ")]


def test_the_script_is_shown(tmp_path, cluster, capsys):
    write_study(tmp_path)
    assert main(["run", str(tmp_path / "study.yaml"), "--executor", "slurm", "--dry-run", "--sbatch=--gres=gpu:1",
                 "--sbatch=--job-name=mine"]) == 0
    shown = capsys.readouterr().out
    assert directives(shown) == ["--array=0-1", "--requeue", f"--output={tmp_path}/out/slurm/%A_%a.log",
                                 "--open-mode=append", "--gres=gpu:1", "--job-name=mine"]
    script = shown[shown.index("#!"):].rsplit("generate:", 1)[0]
    assert subprocess.run(["bash", "-n"], input=script, text=True).returncode == 0
    assert not (cluster / "asked").exists() and not (tmp_path / "out/slurm").exists()


@pytest.mark.slow
def test_an_array_draws_the_study(tmp_path, cluster, capsys, monkeypatch):
    """Submitted, told, drawn by the script's own jobs in another order, and gone on with; the content is as ever."""
    file = small(tmp_path)
    monkeypatch.setenv("SLURM_JOB_ID", "3")  # an interactive job, from which this one is submitted
    monkeypatch.setenv("SLURM_CONF", "/etc/slurm.conf")
    assert main(["run", str(file.path), "--executor", "slurm"]) == 0
    assert "Submitted Slurm array 17 of 2 jobs" in capsys.readouterr().out
    script = tmp_path / "out/slurm/draw.sbatch"
    assert (cluster / "asked").read_text().split() == ["--parsable", str(script)]
    variables = (cluster / "variables").read_text()
    assert "SLURM_JOB_ID" not in variables and "SLURM_CONF=/etc/slurm.conf" in variables

    (cluster / "states").write_text("RUNNING\nPENDING\n")
    assert f"Slurm array 17: 1 pending, 1 running; what each said is in {tmp_path}/out/slurm." in status(
        file.study, tmp_path / "out")
    assert (cluster / "asked-of-squeue").read_text().split()[-2:] == ["-j", "17"]
    assert main(["run", str(file.path), "--executor", "slurm"]) != 0
    assert "Slurm array 17 still has 2 jobs" in capsys.readouterr().err

    for number in ("1", "0"):
        done = subprocess.run(["bash", str(script)], env={**os.environ, "SLURM_ARRAY_TASK_ID": number,
                                                          "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "tokens drawn and checked" in done.stdout
    assert set(runs_status(parts_of(file.study, tmp_path / "out"))["state"]) == {"done"}
    (cluster / "states").write_text("")
    assert "no job is left" in status(file.study, tmp_path / "out")
    assert main(["run", str(file.path), "--executor", "slurm"]) == 0
    assert "Every run is drawn" in capsys.readouterr().out

    by_array = {name: value for name, value in contents(tmp_path / "out").items() if name.startswith("runs/")}
    run_stages(file.study, tmp_path / "here", ["generate"], say=lambda line: None)
    here = {name: value for name, value in contents(tmp_path / "here").items()
            if name.startswith("runs/") and "tables" not in name}
    assert here.items() <= by_array.items() and not any("slurm" in name for name in contents(tmp_path / "out"))


def test_a_refused_array_is_told(tmp_path, cluster, capsys):
    install(cluster, "sbatch", "#!/bin/sh\necho 'sbatch: error: invalid partition specified: gpu' >&2\nexit 1\n")
    write_study(tmp_path)
    assert main(["run", str(tmp_path / "study.yaml"), "--executor", "slurm"]) != 0
    assert "sbatch refused the array: sbatch: error: invalid partition specified: gpu" in capsys.readouterr().err
    assert slurm.told(tmp_path / "out") == []


@pytest.mark.parametrize("option, words", [
    ("gres=gpu:1", "no option of sbatch"), ("--array=0-3", "--array is decided by the study"),
    ("-a 0-3", "-a is decided"), ("--time=1\n#SBATCH --x", "no option of sbatch")])
def test_options_that_cannot_be(option, words):
    with pytest.raises(UserError, match=words):
        Slurm((option,))


def test_more_runs_than_an_array_holds(tmp_path):
    names = tuple(f"run {i}" for i in range(2500))
    jobs = slurm.jobs_of([Wanted("main", None, tmp_path, names)])
    assert len(jobs) == 834 and [name for job in jobs for name in job.names] == list(names)


def test_no_slurm_here(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    file = read_study(write_study(tmp_path))
    with pytest.raises(UserError, match="There is no sbatch here"):
        slurm._submitted(tmp_path, [], "")
    (tmp_path / "out/slurm").mkdir(parents=True)
    (tmp_path / "out/slurm/submitted.json").write_text(json.dumps({"job": "17", "jobs": 1}))
    assert slurm.told(tmp_path / "out") == ["Slurm array 17 was submitted; squeue is not here to tell its state."]
    with pytest.raises(UserError, match="Slurm draws later"):
        run_study(file.study, tmp_path / "out", executor="slurm")
    with pytest.raises(UserError, match="no executor 'dask'; choose among local, ray, slurm"):
        run_study(file.study, tmp_path / "out", executor="dask")


@pytest.mark.parametrize("asked, words", [
    (["--address", "x:1"], "--address is for --executor ray"), (["--dry-run"], "--dry-run is for --executor slurm"),
    (["--executor", "ray", "--sbatch=--x=1"], "--sbatch is for --executor slurm")])
def test_options_of_another_executor(tmp_path, capsys, asked, words):
    assert main(["run", str(write_study(tmp_path)), *asked]) != 0
    assert words in capsys.readouterr().err
